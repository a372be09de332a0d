"""A pool whose workers are threads of the caller's own process.

For free-threaded Python and code that frees the GIL.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit._core.constants import CALL, CALL_EACH
from snakepit._core.interrupts import HELD, session_of_task
from snakepit._core.local import LocalQueue
from snakepit.lifecycle.deadlines import Timekeeper
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.ladder import ThreadLadder
from snakepit.pool.base import BasePool
from snakepit.pool.callbacks import CallbackThread
from snakepit.pool.futures import Future
from snakepit.pool.living import LivingSet
from snakepit.pool.local_deadlines import LocalDeadlines
from snakepit.pool.local_threads import InnerFuture, LocalThreads, here
from snakepit.pool.sessions import SessionDesk
from snakepit.pool.terms import Terms, session_name
from snakepit.pool.uses import SessionUses
from snakepit.resources import usable_cpus

if TYPE_CHECKING:
    from snakepit.pool.attempts import GuardedCall
    from snakepit.pool.local_streams import ChunkBuffer
    from snakepit.pool.stats import LifecycleStats, PoolStats
    from snakepit.pool.streams import Stream
    from snakepit.sessions.store import SessionStore
    from snakepit.worker.session import SessionContext


# The longest spin: less than a worker process's, as threads that lose their CPU to another program
# while they spin are late by a time slice, and here both sides spin in one process.
SPIN_NS = 60_000


@dataclass(frozen=True)
class LocalConfig:
    """How a local pool is made."""

    size: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    name: str = "default"
    graces: Graces = field(default_factory=Graces)
    session_store: SessionStore | None = None  # None: one of the pool's own, when it is needed
    max_queue_size: int = 0  # calls that may wait; 0: any number


class LocalPool(BasePool):
    """Runs calls on `config.size` threads of this process; nothing is pickled."""

    runs_in_threads = True

    def __init__(self, config: LocalConfig) -> None:
        super().__init__(config.name, config.size)
        self.capacity = config.size
        self._config = config
        self.graces = config.graces
        self.queue = LocalQueue(self._on_idle, self._judge, usable_cpus(), SPIN_NS)
        self._ladder = ThreadLadder(self)
        self.timekeeper = Timekeeper(f"snakepit-{self.name}-timekeeper", self._spare_timekeeper)
        self.deadlines = LocalDeadlines(self, self.timekeeper)
        self._callbacks = CallbackThread(f"snakepit-{self.name}-callbacks")
        self._threads = LocalThreads(self, config, self._life)
        self.buffers: LivingSet[ChunkBuffer] = LivingSet()  # of streams
        self.desk = SessionDesk(
            config.session_store, lambda key: None, lambda key: None, pool=config.name
        )
        self.uses = SessionUses(
            self.desk,
            lambda key: self._is_under_way(key, self.queue.tasks_of_session(key)),
            self.timekeeper.after,
        )
        self.queue.limit(config.max_queue_size)

    # -- calls -------------------------------------------------------------------------------------

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        terms: Terms | None = None, future: Future[Any] | None = None,
    ) -> Future[Any]:  # fmt: skip
        """Queue a call and return its future. Raises PoolShutdownError, PoolNotReadyError."""
        if len(self._threads.members) < self.size:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        if terms is not None and terms.guarded:
            return self._submit_guarded(terms, lambda: (function, args, kwargs))
        if self._closed:
            # The queue itself may still be open, for calls that are to be tried again.
            raise errors.PoolShutdownError.of(self.name)
        # What a task waits for is not refused, nor a part of a `map`, whose buffer is its limit.
        limited = future is None
        if future is None:
            nested = self._is_nested(terms)
            limited = not nested
            future = InnerFuture() if nested else Future()
        future.context = self
        if terms is not None:
            if terms.cancel_running:
                future._cancel_running = True
            self.queue.set_terms(future, terms.timeout, terms.priority, terms.session)
        if not self.queue.submit(future, function, args, kwargs, limited):
            raise errors.saturation_error(self.name, self._config.max_queue_size)
        if terms is not None:
            self.deadlines.watch(future, terms.timeout, terms.queue_timeout)
        return future

    def submit_items(
        self,
        definition: Any,
        function: Any,
        kind: int,
        items: list[Any],
        terms: Terms,
        on_settled: Any,
    ) -> Future[Any]:
        """Queue a chunk of `map`; `on_settled(future)` is called when it is settled."""
        if terms.guarded:
            return self._submit_guarded(
                terms, lambda: (_Chunk(function, kind), (items,), {}), on_settled
            )
        nested = self._is_nested(terms)
        future: Future[Any] = InnerFuture() if nested else Future()
        if on_settled is not None:
            future.set_hook(on_settled)
        self.submit(_Chunk(function, kind), (items,), {}, terms, future)
        if nested and on_settled is not None:
            # Who takes chunks as they come waits for none of them in particular.
            self.run_beside(future)
        return future

    def stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        terms: Terms | None = None,
    ) -> Stream[Any]:  # fmt: skip
        """Queue a call and return the stream of what it yields (see `Executor.stream`)."""
        from snakepit.pool.local_streams import open_local_stream

        terms = terms or Terms()
        nested = self._is_nested(terms)
        future: Future[Any] = InnerFuture() if nested else Future()
        return open_local_stream(self, function, args, kwargs, terms, future, nested=nested)

    # -- calls of several attempts (see `snakepit.pool.attempts`) ----------------------------------

    def _submit_guarded(
        self, terms: Terms, make: Callable[[], Any], on_settled: Any = None
    ) -> Future[Any]:
        self.queue.refuse_in_child()
        if len(self._threads.members) < self.size:
            self.start()
        call = self._make_guarded(terms, on_settled)
        call.nested = self._is_nested(terms)
        call.begin(make, CALL, (), {})
        return call

    def prepare_call(
        self, call: GuardedCall, make: Any, kind: int, args: Any, kwargs: Any, number: Any
    ) -> None:
        """Keep what makes the function and arguments of each attempt."""
        call.call = make
        self.queue.adopt(call)

    def queue_attempt(self, call: GuardedCall, first: bool) -> None:
        """Queue an attempt. Raises PoolShutdownError, PoolNotReadyError."""
        if self.broken is not None:
            raise self._why_broken()
        if first and self._closed:
            raise errors.PoolShutdownError.of(self.name)
        function, args, kwargs = call.call()
        attempt: Future[Any] = InnerFuture() if call.nested else Future()
        call.follow(attempt)
        left = call.seconds_left()
        self.queue.set_terms(attempt, left, call.terms.priority, call.terms.session)
        self.queue.submit(attempt, function, args, kwargs)
        self.deadlines.watch(attempt, left, call.terms.queue_timeout)
        if call.nested:
            # Every thread of the pool may be waiting for calls of its own calls.
            self.run_beside(attempt)

    def later(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` run in `seconds`."""
        self.timekeeper.after(seconds, note)
        # The call may have been cancelled, and the pool closed, an instant ago.
        self.call_ended()

    def call_ended(self) -> None:
        """A call left `calls`: a closed pool may be able to end now."""
        if self._closed and not self.calls:
            self.queue.close()

    def _is_nested(self, terms: Terms | None) -> bool:
        return here.pool is self or (terms is not None and terms.nested)

    def number_for_map(self, function: Callable[..., Any]) -> None:
        """Nothing is numbered here: the function itself is called."""

    def _spare_timekeeper(self) -> None:
        self.queue.spare_this_thread(self._callbacks.add)

    # -- stopping ----------------------------------------------------------------------------------

    def _judge(
        self, task: Any, function: Any, outcome: Any, error: BaseException | None, asked: bool
    ) -> tuple[Any, BaseException | None]:
        """Return the outcome and error of a task that failed or was asked to stop."""
        if isinstance(function, _Chunk):
            outcome = function.done
        return outcome, self.deadlines.verdict(task, error) if asked else error

    def unread_streams(self) -> int:
        """Return how many calls that run are streams that wait for their readers."""
        return sum(buffer.unread and not buffer.closed for buffer in self.buffers)

    def stop_task(self, future: Future[Any]) -> bool:
        """Stop a running call (see `Future.stop`); False if it has ended."""
        return self._ladder.stop_task(future)

    def cancel_running(self, future: Future[Any]) -> bool:
        """Cancel a call that runs, and stop it; False if it has ended."""
        return self._ladder.stop_task(future) and future.mark_cancelled()

    def cancel_session(self, session: int) -> int:
        """Stop all calls of a session; returns how many."""
        return self._stop_session(session, self.queue.tasks_of_session(session))

    def forget_session(self, session: int) -> bool:
        """Nothing is kept of sessions: all threads see the same memory."""
        return False

    # -- the threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads that are missing. Raises ForkedPoolError."""
        self.queue.refuse_in_child()
        with HELD:
            self._threads.start()
            _running.add(self)

    @property
    def is_open(self) -> bool:
        """Whether the pool takes calls."""
        return self.queue.is_open and not self._closed

    def run_if_queued(self, future: Future[Any]) -> None:
        """Run a call on this thread, of a task that waits for it, if no thread has started it."""
        self._threads.run_if_queued(future)

    def run_beside(self, future: Future[Any]) -> None:
        """Have a call that no thread has started run while this thread waits for it."""
        self._threads.run_beside(future)

    # -- life --------------------------------------------------------------------------------------

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the threads and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError; PoolShutdownError when the pool is closed, before or
        meanwhile.
        """
        self.start()
        self._await_ready(lambda: self._threads.ready, timeout, "threads")

    def set_broken(self, error: BaseException) -> None:
        """Give up, as the initializer raised `error`: fail what is queued, and every later call."""
        with self._life:
            if self.broken is None:
                self.broken = errors.PoolNotReadyError(
                    f"the initializer of pool {self.name!r} raised {type(error).__name__}: {error}",
                    details={"pool": self.name},
                )
                self.broken.__cause__ = error
            self._life.notify_all()
        # First: a call that is just entering is among those that are withdrawn, or refused.
        self.queue.give_up(self._why_broken)
        for task in self.queue.withdraw_all(failed=True):
            self.queue.fail(task, self._why_broken())

    def watch(self) -> None:
        """Outcomes come by themselves here."""

    def close(self, *, cancel_futures: bool = False, only_sized: bool = False) -> None:
        """Take no more calls; when those that were taken are done, the threads end.

        Returns at once. `only_sized`: of maps that nobody has asked for results, go on only with
        those whose sources tell their length. In a forked child, which has none of the threads,
        this does nothing.
        """
        if self.queue.forked:
            return
        self._end_maps(cancel_futures=cancel_futures, only_sized=only_sized)
        if cancel_futures:
            # First, so that no attempt enters behind the back of what withdraws them.
            if self.calls is not None:
                self.calls.end()
            for task in self.queue.withdraw_all():
                task.mark_cancelled()
        # The threads are still needed by calls that are to be tried again.
        with self._life:
            self._closed = True
            self._life.notify_all()
        self.call_ended()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a closed pool's threads have ended; False if not after `timeout` seconds."""
        if self.queue.forked:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        me = threading.current_thread()
        if buffers := list(self.buffers):
            from snakepit.pool.local_streams import abandon

            # What this thread has to read, it cannot read while it waits here.
            abandon(buffers)
        if not self._threads.await_end(timeout):
            return False
        for thread in self._own_threads():
            if thread is not me:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def _own_threads(self) -> Iterator[threading.Thread]:
        yield from list(self._threads.members)
        yield from self.timekeeper.threads()
        # Asked for last, when nobody can start another.
        yield from self._callbacks.threads()

    def end_workers(self, sig: int) -> None:
        """Close the pool, cancel what is queued, stop what runs; for SIGKILL without grace."""
        if self.queue.forked:
            return
        self.close(cancel_futures=True)
        # What was late has failed, and may run on.
        for future in (*self.queue.tasks_of_session(0), *self.deadlines.ledger.running()):
            self._ladder.stop_task(future)
            if sig == signal.SIGKILL:
                self._ladder.hurry(future)

    def give_up(self) -> None:
        """Close the pool, cancel what is queued, stop what runs."""
        self.end_workers(signal.SIGTERM)

    def _on_idle(self) -> None:
        self.timekeeper.stop()
        self._callbacks.end()
        self.desk.close()
        _running.discard(self)

    def worker_pids(self) -> list[int]:
        """No process but the caller's: an empty list."""
        return []

    def stats(self) -> PoolStats:
        """Read the counters."""
        from snakepit.pool.stats import PoolStats

        corrections = self.deadlines.ledger.corrections()
        return PoolStats.read(self.queue, self.size, self._threads.ready, corrections=corrections)

    def lifecycle_stats(self) -> LifecycleStats:
        """Threads have no life of their own to tell of."""
        from snakepit.pool.stats import LifecycleStats

        return LifecycleStats.read(self.name, self.size, None, None)

    def recycle(self, lane: int | None, wait: bool, timeout: float | None) -> None:
        """Refuse: what a thread leaves behind stays in the process."""
        raise ValueError("recycling is for workers that are processes; profile='local' has none")


class _Chunk:
    """Calls a function with each item, and keeps what was done before an error."""

    def __init__(self, function: Callable[..., Any], kind: int) -> None:
        self.function = function
        self._kind = kind
        self.done: list[Any] = []

    def __call__(self, items: list[Any]) -> list[Any]:
        each = self._kind == CALL_EACH
        for item in items:
            self.done.append(self.function(item) if each else self.function(*item))
        return self.done


_running: LivingSet[LocalPool] = LivingSet()

if hasattr(os, "register_at_fork"):
    # A child has none of their threads to wait for when it ends.
    os.register_at_fork(after_in_child=_running.forget_in_child)


def running() -> list[LocalPool]:
    """Return the pools that run."""
    return list(_running)


def pool_of_this_thread() -> Any:
    """Return what `snakepit.current_pool()` is in a task of a local pool.

    Raises RuntimeError elsewhere.
    """
    pool = here.pool
    if pool is None:
        raise RuntimeError("current_pool() is only there inside a task that a snakepit pool runs")
    from snakepit.view import InnerView

    return InnerView(pool, Terms(nested=True))


def session_of_this_thread() -> SessionContext | None:
    """Return what `snakepit.current_session()` is in a task of a local pool; else None."""
    session = session_name(session_of_task())
    if session is None:
        return None
    from snakepit.worker.session import LocalLine, SessionContext

    return SessionContext(LocalLine(here.pool.desk, str(session)))
