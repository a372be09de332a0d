"""A pool whose workers are threads of the caller's own process.

For free-threaded Python and code that frees the GIL.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snakepit._core.interrupts import HELD, Runner, session_of_task
from snakepit._core.local import LocalQueue
from snakepit.errors import (
    PoolNotReadyError,
    PoolSaturatedError,
    PoolShutdownError,
    TaskInterrupt,
    TaskStoppedError,
    TaskTimeoutError,
)
from snakepit.lifecycle.deadlines import Deadlines, Timekeeper, queue_timeout_error
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.ladder import ThreadLadder
from snakepit.pool.callbacks import CallbackThread
from snakepit.pool.futures import Future
from snakepit.pool.living import LivingSet
from snakepit.pool.sessions import SessionDesk
from snakepit.pool.stats import LifecycleStats, PoolStats
from snakepit.pool.terms import Terms, session_name
from snakepit.pool.timers import Timers

if TYPE_CHECKING:
    from snakepit.pool.attempts import Calls, GuardedCall
    from snakepit.pool.local_streams import ChunkBuffer
    from snakepit.pool.streams import Stream
    from snakepit.sessions.store import SessionStore
    from snakepit.worker.session import SessionContext

logger = logging.getLogger("snakepit")

_here = threading.local()


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


class InnerFuture(Future[Any]):
    """A future that a task of a local pool got.

    Waiting for it on a worker thread runs it there if it has not started. While a thread waits for
    it by other means (`wait`, `as_completed`) or is not a worker's, a thread beside it does.
    """

    _beside = False

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        # Who waits by other means than `result` takes the condition first.
        self._have_run_beside()
        condition: threading.Condition = super()._condition
        return condition

    def result(self, timeout: float | None = None) -> Any:
        self._help()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._help()
        return super().exception(timeout)

    def _help(self) -> None:
        pool: Any = self.context
        if self.done():
            return
        on_worker = getattr(_here, "pool", None) is pool
        if on_worker:
            pool.run_if_queued(self)
        else:
            # A thread that a task made, for which the task may be waiting.
            self._have_run_beside()

    def _have_run_beside(self) -> None:
        pool: Any = self.context
        # Only what still can start: one that is being cancelled asks for the condition, too.
        if not self._beside and pool is not None and pool.queue.is_queued(self):
            self._beside = True
            pool.run_beside(self)


class LocalPool:
    """Runs calls on `config.size` threads of this process; nothing is pickled."""

    broken: PoolNotReadyError | None = None

    def __init__(self, config: LocalConfig) -> None:
        self.name = config.name
        self.size = self.capacity = config.size
        self._config = config
        self.graces = config.graces
        self.queue = LocalQueue(self._on_idle, self._judge)
        self._ladder = ThreadLadder(self)
        self.timekeeper = Timekeeper(f"snakepit-{self.name}-timekeeper", self._spare_timekeeper)
        self._deadlines = Deadlines(self.timekeeper.at, self._expire)
        self._patience = Deadlines(self.timekeeper.at, self._lose_patience)
        self._callbacks = CallbackThread(f"snakepit-{self.name}-callbacks")
        # By number: calls whose time was up while they ran, with their timeout and when it began.
        self._late: dict[int, tuple[float, float]] = {}
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._ended: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._life = threading.Condition()
        self._ready = 0
        self._waiting_maps: LivingSet[Any] = LivingSet()
        self.calls: Calls | None = None  # of several attempts; made when there is one
        self.buffers: weakref.WeakSet[ChunkBuffer] = weakref.WeakSet()  # of streams
        self.desk = SessionDesk(config.session_store, lambda key: None, lambda key: None)
        self._retries = Timers(f"snakepit-{config.name}-timers")
        self._closed = False
        self.queue.limit(config.max_queue_size)

    # -- calls -------------------------------------------------------------------------------------

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        terms: Terms | None = None, future: Future[Any] | None = None,
    ) -> Future[Any]:  # fmt: skip
        """Queue a call and return its future. Raises PoolShutdownError, PoolNotReadyError."""
        if len(self._threads) < self.size:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        if terms is not None and terms.guarded:
            return self._submit_guarded(terms, lambda: (function, args, kwargs))
        if self._closed:
            # The queue itself may still be open, for calls that are to be tried again.
            raise PoolShutdownError.of(self.name)
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
            raise saturation_error(self.name, self._config.max_queue_size)
        if terms is not None:
            self._watch(future, terms.timeout, terms.queue_timeout)
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
        terms: Terms,
    ) -> Stream[Any]:  # fmt: skip
        """Queue a call and return the stream of what it yields (see `Executor.stream`)."""
        from snakepit.pool.local_streams import open_local_stream

        nested = self._is_nested(terms)
        future: Future[Any] = InnerFuture() if nested else Future()
        return open_local_stream(self, function, args, kwargs, terms, future, nested=nested)

    # -- calls of several attempts (see `snakepit.pool.attempts`) ----------------------------------

    def _submit_guarded(
        self, terms: Terms, make: Callable[[], Any], on_settled: Any = None
    ) -> Future[Any]:
        from snakepit.pool.attempts import Calls, GuardedCall

        self.queue.refuse_in_child()
        if len(self._threads) < self.size:
            self.start()
        with self._life:
            if self.calls is None:
                self.calls = Calls()
        call = GuardedCall(self, terms)
        call.set_hook(on_settled)
        call.nested = self._is_nested(terms)
        call.begin(make, 0, (), {})
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
            raise PoolShutdownError.of(self.name)
        function, args, kwargs = call.call()
        attempt: Future[Any] = InnerFuture() if call.nested else Future()
        call.follow(attempt)
        left = call.seconds_left()
        self.queue.set_terms(attempt, left, call.terms.priority, call.terms.session)
        self.queue.submit(attempt, function, args, kwargs)
        self._watch(attempt, left, call.terms.queue_timeout)
        if call.nested:
            # Every thread of the pool may be waiting for calls of its own calls.
            self.run_beside(attempt)

    def later(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` run in `seconds`."""
        self._retries.after(seconds, note)
        # The call may have been cancelled, and the pool closed, an instant ago.
        self.call_ended()

    def call_ended(self) -> None:
        """A call left `calls`: a closed pool may be able to end now."""
        if self._closed and not self.calls:
            self._retries.clear()
            self.queue.close()

    def _is_nested(self, terms: Terms | None) -> bool:
        return getattr(_here, "pool", None) is self or (terms is not None and terms.nested)

    def number_for_map(self, function: Callable[..., Any]) -> None:
        """Nothing is numbered here: the function itself is called."""

    # -- deadlines and stopping --------------------------------------------------------------------

    def _watch(self, future: Future[Any], timeout: float | None, patience: float | None) -> None:
        # Mostly a call starts long before its patience is at an end, and only then is its deadline
        # the next thing to look at: one entry will do.
        if patience is not None and (timeout is None or patience < timeout):
            self._patience.add(future, patience)
        elif timeout is not None:
            self._deadlines.add(future, timeout)

    def _lose_patience(self, future: Future[Any], patience: float, started: float) -> None:
        if self.queue.cancel_queued(future):
            self.queue.fail(future, queue_timeout_error(self.name, patience))
        elif future.deadline_ns:
            timeout = future.timeout_ns / 1e9
            self._deadlines.look_again(future, timeout, started, timeout - patience)

    def _spare_timekeeper(self) -> None:
        self.queue.spare_this_thread(self._callbacks.add)

    def _expire(self, future: Future[Any], timeout: float, started: float) -> None:
        if self.queue.cancel_queued(future):
            waited = time.monotonic() - started
            error = TaskTimeoutError(
                f"the task did not start within its timeout of {timeout:g} s: "
                f"all threads of pool {self.name!r} were busy",
                details={"timeout": timeout, "waited": waited, "ran": 0.0, "phase": "queued"},
            )
            self.queue.fail(future, error)
            return
        # The future fails when the task ends or is given up, whichever is first: only then can its
        # error tell what became of the thread.
        self._late[future.number] = (timeout, started)
        if not self._ladder.stop_task(future):
            self._late.pop(future.number, None)

    def late_error(self, task: Any, fate: str) -> TaskTimeoutError | None:
        """Return the error of a task whose time is up, None if it is not."""
        late = self._late.pop(task.number, None)
        if late is None:
            return None
        timeout, started = late
        spent = time.monotonic() - started
        ran = min(self.queue.seconds_since_start(task), spent)
        return TaskTimeoutError(
            f"the task did not end within its timeout of {timeout:g} s: "
            f"it waited {spent - ran:.3g} s and ran {ran:.3g} s; {fate}",
            details={"timeout": timeout, "waited": spent - ran, "ran": ran, "phase": "running"},
        )

    def _judge(
        self, task: Any, function: Any, outcome: Any, error: BaseException | None, asked: bool
    ) -> tuple[Any, BaseException | None]:
        """Return the outcome and error of a task that failed or was asked to stop."""
        if isinstance(function, _Chunk):
            outcome = function.done
        if not asked:
            return outcome, error
        interrupted = isinstance(error, TaskInterrupt)
        fate = "then it was interrupted" if interrupted else "then it ended by itself"
        verdict: Exception | None = self.late_error(task, fate)
        if verdict is None and interrupted:
            verdict = TaskStoppedError(
                f"the task was stopped on request: {error}", details={"task": task.number}
            )
        if verdict is None:
            return outcome, error
        verdict.__cause__ = error
        return outcome, verdict

    def stop_task(self, future: Future[Any]) -> bool:
        """Stop a running call (see `Future.stop`); False if it has ended."""
        return self._ladder.stop_task(future)

    def cancel_running(self, future: Future[Any]) -> bool:
        """Cancel a call that runs, and stop it; False if it has ended."""
        return self._ladder.stop_task(future) and future.mark_cancelled()

    def cancel_session(self, session: int) -> int:
        """Stop all calls of a session; returns how many."""
        calls = self.calls.of_session(session) if self.calls else {}
        tasks = set(self.queue.tasks_of_session(session)).difference(calls.values())
        return sum(future.stop() for future in (*calls, *tasks))

    def forget_session(self, session: int) -> bool:
        """Nothing is kept of sessions: all threads see the same memory."""
        return False

    # -- the threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads that are missing. Raises ForkedPoolError."""
        self.queue.refuse_in_child()
        with HELD, self._life:
            while len(self._threads) < self.size and self.queue.is_open and not self._closed:
                self._start_one()
            _running.add(self)

    def _start_one(self) -> None:
        name = f"snakepit-{self.name}-{next(self._numbers)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        try:
            self._serve()
        finally:
            with self._life:
                self._ended.add(threading.current_thread())
                self._life.notify_all()

    def _serve(self) -> None:
        _here.pool = self
        if self._config.initializer is not None:
            try:
                self._config.initializer(*self._config.initargs)
            except BaseException as error:
                self._break(error)
                return
        with self._life:
            self._ready += 1
            self._life.notify_all()
        thread = threading.current_thread()
        self.run_tasks(self.queue.take, lambda: self._replace(thread))

    def _replace(self, thread: threading.Thread) -> None:
        """Start a fresh thread for one that its task does not leave."""
        with self._life:
            self._threads.remove(thread)
            self._ready -= 1
            if self.queue.is_open or self.queue.unsettled:
                self._start_one()
            self._life.notify_all()

    def run_tasks(self, take: Callable[[Runner], Any], replace: Callable[[], object]) -> None:
        """Run what `take` gives on this thread, until that is None or the thread is replaced."""
        runner = _here.runner = Runner()
        runner.replace = replace
        self.queue.enlist(runner)
        try:
            while not runner.left_behind:
                task = take(runner)
                if task is None:
                    return
                try:
                    self.queue.run(runner, task)
                except BaseException:
                    logger.exception("snakepit pool %s: error while settling a task", self.name)
                # Idle, the thread must not keep the last call's objects alive.
                del task
        finally:
            runner.replace = None
            self.queue.dismiss(runner)

    def run_if_queued(self, future: Future[Any]) -> None:
        """Run a call on this thread, of a task that waits for it, if no thread has started it."""
        self.queue.run_queued(_here.runner, future)

    def run_beside(self, future: Future[Any]) -> None:
        """Have a call that no thread has started run while this thread waits for it."""
        with HELD:
            substitute = getattr(_here, "substitute", None)
            if substitute is None:
                substitute = _here.substitute = _Substitute(self)
            substitute.add(future)

    # -- life --------------------------------------------------------------------------------------

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the threads and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError; PoolShutdownError when the pool is closed, before or
        meanwhile.
        """
        self.start()
        with self._life:
            done = self._life.wait_for(
                lambda: self.broken is not None or self._closed or self._ready >= self.size,
                timeout,
            )
        if self.broken is not None:
            raise self._why_broken()
        if self._closed:
            raise PoolShutdownError.of(self.name)
        if not done:
            raise TimeoutError(
                f"{self._ready} of {self.size} threads were ready after {timeout:g} s"
            )

    def _break(self, error: BaseException) -> None:
        with self._life:
            if self.broken is None:
                self.broken = PoolNotReadyError(
                    f"the initializer of pool {self.name!r} raised {type(error).__name__}: {error}"
                )
                self.broken.__cause__ = error
            self._life.notify_all()
        for task in self.queue.withdraw_all():
            self.queue.fail(task, self._why_broken())

    def _why_broken(self) -> PoolNotReadyError:
        assert self.broken is not None
        error = PoolNotReadyError(str(self.broken), details=self.broken.details)
        error.__cause__ = self.broken.__cause__
        return error

    def add_map(self, running: Any) -> None:
        """Remember a map with items left to submit: closing the pool submits them first."""
        self._waiting_maps.add(running)

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
        for running in self._waiting_maps:
            if cancel_futures:
                running.abandon()
            else:
                running.finish_reading(only_sized=only_sized)
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
        if self.buffers:
            from snakepit.pool.local_streams import abandon

            # What this thread has to read, it cannot read while it waits here.
            abandon(self.buffers)
        with self._life:
            # Not by joining them: one may be left behind while it is waited for.
            if not self._life.wait_for(
                lambda: all(thread in self._ended or thread is me for thread in self._threads),
                timeout,
            ):
                return False
        for thread in self._own_threads():
            if thread is not me:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def _own_threads(self) -> Iterator[threading.Thread]:
        yield from list(self._threads)
        yield from self.timekeeper.threads()
        # Asked for last, when nobody can start another.
        yield from self._callbacks.threads()

    def end_workers(self, sig: int) -> None:
        """Close the pool, cancel what is queued, stop what runs; for SIGKILL without grace."""
        if self.queue.forked:
            return
        self.close(cancel_futures=True)
        for future in self.queue.tasks_of_session(0):
            self._ladder.stop_task(future)
            if sig == signal.SIGKILL:
                self._ladder.hurry(future)

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
        return PoolStats.read(self.queue, self.size, self._ready)

    def lifecycle_stats(self) -> LifecycleStats:
        """Threads have no life of their own to tell of."""
        return LifecycleStats.read(self.name, self.size, None, None)

    def recycle(self, lane: int | None, wait: bool, timeout: float | None) -> None:
        """Refuse: what a thread leaves behind stays in the process."""
        raise ValueError("recycling is for workers that are processes; profile='local' has none")


def saturation_error(pool: str, limit: int) -> PoolSaturatedError:
    """Return the error of a call for which a pool has no place left."""
    return PoolSaturatedError(
        f"pool {pool!r} is saturated: {limit} calls wait for a worker, as many as max_queue_size "
        "lets wait; submit again later, or give the pool more workers or a longer queue",
        details={"pool": pool, "max_queue_size": limit},
    )


class _Substitute:
    """Runs, one after the other, the calls that one worker thread waits for without running them.

    One thread for each that waits: as many as wait within each other, never one for each call.
    """

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._calls: deque[Future[Any]] = deque()
        self._running = False

    def add(self, future: Future[Any]) -> None:
        with self._lock:
            self._calls.append(future)
            if self._running:
                return
            self._running = True
        self._start()

    def _start(self) -> None:
        name = f"snakepit-{self._pool.name}-substitute"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        _here.pool = self._pool
        self._pool.run_tasks(self._take, self._start)

    def _take(self, runner: Runner) -> Any:
        while True:
            with self._lock:
                if not self._calls:
                    self._running = False
                    return None
                future = self._calls.popleft()
            if self._pool.queue.take_back(runner, future):
                return future


class _Chunk:
    """Calls a function with each item, and keeps what was done before an error."""

    def __init__(self, function: Callable[..., Any], kind: int) -> None:
        self.function = function
        self._kind = kind
        self.done: list[Any] = []

    def __call__(self, items: list[Any]) -> list[Any]:
        for item in items:
            self.done.append(self.function(item) if self._kind == 1 else self.function(*item))
        return self.done


_running: LivingSet[LocalPool] = LivingSet()

if hasattr(os, "register_at_fork"):
    # A child has none of their threads to wait for when it ends.
    os.register_at_fork(after_in_child=_running.forget_in_child)


def close_all() -> None:
    """End every running local pool after its tasks, at the interpreter's exit."""
    for pool in _running:
        pool.close()
        pool.join()


def pool_of_this_thread() -> Any:
    """Return what `snakepit.current_pool()` is in a task of a local pool.

    Raises RuntimeError elsewhere.
    """
    pool = getattr(_here, "pool", None)
    if pool is None:
        raise RuntimeError("current_pool() is only there inside a task that a snakepit pool runs")
    from snakepit.executor import PoolView

    return PoolView(pool, Terms(nested=True))


def session_of_this_thread() -> SessionContext | None:
    """Return what `snakepit.current_session()` is in a task of a local pool; else None."""
    session = session_name(session_of_task())
    if session is None:
        return None
    from snakepit.worker.session import LocalLine, SessionContext

    return SessionContext(LocalLine(_here.pool.desk, str(session)))
