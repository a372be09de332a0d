"""What a task can reach from inside a worker."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from snakepit._core.interrupts import heed, session_of_task, stop_requested
from snakepit._core.locks import HoldingLock

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane
    from snakepit.adapters.turns import Turns
    from snakepit.worker.session import SessionContext

__all__ = ["cancelled", "current_pool", "current_session", "load_definition"]

# Ignored wherever nobody has asked for it, so a stray one harms nothing: not a worker that is still
# starting, nor a program that a task executes. Nobody else uses it, but for urgent data of sockets.
INTERRUPT_SIGNAL = signal.SIGURG

# What an orderly end of this worker runs first; its tasks are over then.
at_end: list[Callable[[], object]] = []
# What a lane that ends runs first, in a worker with several: the others may go on.
at_end_of_lane: list[Callable[[WorkerLane], object]] = []

_context_of: Any = None

# Whether there ever were calls on top of others; and, in a thread that has some, their `sessions`.
# In one that ran a tool in its turn: the `turns` (see `snakepit.adapters.turns`).
_inner_calls = False
_here = threading.local()
_NO_TURN = contextlib.nullcontext()

_lane: WorkerLane | None = None  # of a worker with one thread
_ident = 0  # of that thread
_home: WorkerLane | None = None  # of one with several: the lane whose mail all may use
_link: Any = None
_workers = 0
_pool: Any = None
_making = HoldingLock()
_lanes = threading.local()  # in a worker with several threads: the lane of each


def enter(
    lane: WorkerLane, link: int, workers: int, on_interrupt: Callable[[int, Any], object]
) -> None:
    """Make `lane` what this process's tasks run on; the owner answers on the descriptor `link`.

    `on_interrupt` is the handler of the interrupting signal. To be called in the main thread, which
    is the one that runs tasks and signal handlers.
    """
    global _lane, _ident, _link, _workers
    signal.signal(INTERRUPT_SIGNAL, on_interrupt)
    heed(INTERRUPT_SIGNAL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (INTERRUPT_SIGNAL,))
    _lane, _link, _workers = lane, link, workers
    _ident = threading.get_ident()


def home_lane() -> WorkerLane:
    """Return the lane that speaks for all of this worker. Raises RuntimeError outside one."""
    lane = _lane if _lane is not None else _home
    if lane is None:
        raise RuntimeError("this is only there in a worker process")
    return lane


def run_at_end() -> None:
    """Run what `at_end` holds, the last first."""
    while at_end:
        at_end.pop()()


def run_at_end_of_lane(lane: WorkerLane) -> None:
    """Run what `at_end_of_lane` holds, in the thread of that lane."""
    for step in at_end_of_lane:
        step(lane)


def running_lane() -> WorkerLane:
    """Return the lane that runs the calling thread's task. Raises RuntimeError outside a worker."""
    lane = lane_here()
    if lane is None:
        raise RuntimeError("this is only there inside a task that a worker process runs")
    return lane


def enter_crew(home: WorkerLane, link: int, workers: int) -> None:
    """Make this process one whose tasks run on several threads, each on a lane of its own."""
    global _home, _link, _workers
    _home, _link, _workers = home, link, workers


def enter_thread(lane: WorkerLane) -> None:
    """Make `lane` the one on which the calling thread runs tasks, beside others of its process."""
    _lanes.mine = lane


def lane_here() -> WorkerLane | None:
    """Return the lane that runs the calling thread's task; None outside a worker.

    In a worker with one thread that is its only lane, whichever thread asks.
    """
    return _lane if _lane is not None else getattr(_lanes, "mine", None)


def nested_pool() -> Any:
    """Return what `current_pool` gave in this process, or None."""
    return _pool


def load_definition(number: int, epoch: int) -> Any:
    """Return the function or class behind a number; pickles of arguments call this."""
    if _lane is None:
        if _home is not None:
            return _home.definitions.find(number, epoch)
        raise RuntimeError(f"definition {number} can only be loaded in a worker of its pool")
    return _lane.definitions.find(number, epoch)


def cancelled() -> bool:
    """Whether the running task was asked to stop; long tasks look now and then, and return.

    Always False outside a task.
    """
    if _lane is not None:
        return _lane.stop_requested
    return stop_requested()


def current_pool() -> Any:
    """Return the pool that runs the current task: an object with `submit` and `map`.

    Waiting in a task for what was submitted there cannot deadlock. Its `shutdown` raises
    RuntimeError: that is the owner's to call. Raises RuntimeError outside a worker.
    """
    global _pool
    if _home is not None:
        return _crew_pool(_home)
    if _lane is None:
        from snakepit.pool.local import pool_of_this_thread

        return pool_of_this_thread()
    if _pool is None:
        import socket

        from snakepit.worker.nested import NestedPool

        _pool = NestedPool(_lane, socket.socket(fileno=_link), _workers)
    return _pool


def refuse_shutdown() -> NoReturn:
    """Raise RuntimeError: a task would shut down the pool that runs it."""
    raise RuntimeError(
        "a task cannot shut down the pool that runs it: shutdown() waits for the tasks, and so for "
        "this one. Return from the task, with a value or an error by which the pool's owner knows, "
        "and call shutdown() there; what this task has submitted is given up by the futures' "
        "cancel()"
    )


def current_session() -> SessionContext | None:
    """Return the session of the running call: its variables and host tools. None without one.

    A call has the session that it was submitted with, by `options(session=...)`; what it submits in
    turn has none of itself. It is the call's own thread that has it: in threads that a call starts
    this is None, for one may outlive its call; give them the context, which any thread may use.
    """
    global _context_of
    inner = lent_session() if _inner_calls else None
    lane = _lane if _ident == threading.get_ident() else getattr(_lanes, "mine", None)
    if inner is not None:
        # Also in a helper, which is no lane's thread.
        key = inner
    elif lane is not None:
        key = lane.session
    elif session_of_task():
        from snakepit.pool.local import session_of_this_thread

        return session_of_this_thread()
    else:
        return None
    if key == 0:
        return None
    if _context_of is None:
        from snakepit.worker.session import context_of

        _context_of = context_of
    context: SessionContext = _context_of(lane or home_lane(), key)
    return context


def lent_session() -> int | None:
    """Return the session of the call that this thread runs on top of one that waits; None: none."""
    sessions: list[int] | None = getattr(_here, "sessions", None)
    return sessions[-1] if sessions else None


@contextlib.contextmanager
def inner_call(session: int) -> Iterator[None]:
    """Run a call of another session, 0 for none, on top of one that waits."""
    global _inner_calls
    _inner_calls = True
    sessions: list[int] = _here.__dict__.setdefault("sessions", [])
    depth = len(sessions)
    try:
        # An interrupt may come between any two steps: the end puts right whatever was done.
        sessions.append(session)
        yield
    finally:
        del sessions[depth:]


def note_turns(turns: Turns) -> None:
    """This thread has a turn among those."""
    _here.turns = turns


def lent_turn() -> contextlib.AbstractContextManager[None]:
    """Return a context in which others have the turn of this thread's call, if it has one.

    For waits whose end may take one of those: they would wait for each other.
    """
    turns: Turns | None = getattr(_here, "turns", None)
    return _NO_TURN if turns is None else turns.lent()


def _crew_pool(home: WorkerLane) -> Any:
    global _pool
    # Several tasks may ask for it at once, and one that is interrupted must not leave it half made.
    with _making:
        if _pool is None:
            import socket

            from snakepit.worker.threads import CrewPool

            _pool = CrewPool(home, socket.socket(fileno=_link), _workers)
    return _pool
