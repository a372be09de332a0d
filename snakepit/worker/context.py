"""What a task can reach from inside a worker."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from snakepit._core.interrupts import HELD, stop_requested

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane

__all__ = ["cancelled", "current_pool", "load_definition"]

# Ignored wherever nobody has asked for it, so a stray one harms nothing: not a worker that is still
# starting, nor a program that a task executes. Nobody else uses it, but for urgent data of sockets.
INTERRUPT_SIGNAL = signal.SIGURG

_lane: WorkerLane | None = None  # of a worker with one thread
_home: WorkerLane | None = None  # of one with several: the lane whose mail all may use
_link: Any = None
_workers = 0
_pool: Any = None
_making = threading.RLock()
_lanes = threading.local()  # in a worker with several threads: the lane of each


def enter(lane: WorkerLane, link: int, workers: int) -> None:
    """Make `lane` what this process's tasks run on; the owner answers on the descriptor `link`.

    To be called in the main thread, which is the one that runs tasks and signal handlers.
    """
    global _lane, _link, _workers
    signal.signal(INTERRUPT_SIGNAL, lane.interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (INTERRUPT_SIGNAL,))
    _lane, _link, _workers = lane, link, workers


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

    Waiting in a task for what was submitted there cannot deadlock. Raises RuntimeError outside a
    worker.
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


def _crew_pool(home: WorkerLane) -> Any:
    global _pool
    # Several tasks may ask for it at once, and one that is interrupted must not leave it half made.
    with HELD, _making:
        if _pool is None:
            import socket

            from snakepit.worker.threads import CrewPool

            _pool = CrewPool(home, socket.socket(fileno=_link), _workers)
    return _pool
