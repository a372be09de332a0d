"""A pool whose workers are threads of the caller's own process.

For free-threaded Python and code that frees the GIL.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from snakepit._core.local import LocalQueue
from snakepit._core.stacks import this_thread
from snakepit.errors import PoolNotReadyError, TaskTimeoutError
from snakepit.pool.futures import Future
from snakepit.pool.pool import Terms
from snakepit.pool.stats import PoolStats

logger = logging.getLogger("snakepit")

_here = threading.local()


@dataclass(frozen=True)
class LocalConfig:
    """How a local pool is made."""

    size: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    name: str = "default"


class Seen:
    """What one thread does, for who looks at the pool; only the thread itself writes it.

    `address`: what `read_stack` takes for it, 0 while it is not ready for work.
    `doing`: the function that runs and when it started, monotonic ns.
    """

    __slots__ = ("address", "completed", "doing", "thread")

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.address = 0
        self.completed = 0
        self.doing: tuple[Any, int] | None = None


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
        if not self._beside and pool is not None and not self.done():
            self._beside = True
            pool.run_beside(self)


class LocalPool:
    """Runs calls on `config.size` threads of this process; nothing is pickled."""

    broken: PoolNotReadyError | None = None

    def __init__(self, config: LocalConfig) -> None:
        self.name = config.name
        self.size = config.size
        self._config = config
        self.queue = LocalQueue(self._on_idle)
        self._threads: list[threading.Thread] = []
        self.seen: list[Seen] = []
        self._life = threading.Condition()
        self._ready = 0
        self._timers: set[threading.Timer] = set()
        self._waiting_maps: weakref.WeakSet[Any] = weakref.WeakSet()

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
        if future is None:
            future = InnerFuture() if self._is_nested(terms) else Future()
        future.context = self
        if terms is not None:
            self.queue.set_terms(future, terms.timeout, terms.priority, terms.session)
        self.queue.submit(future, function, args, kwargs)
        if terms is not None and terms.timeout is not None:
            self._watch_deadline(future, terms.timeout)
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
        nested = self._is_nested(terms)
        future: Future[Any] = InnerFuture() if nested else Future()
        if on_settled is not None:
            future.set_hook(on_settled)
        self.submit(_Chunk(function, kind), (items,), {}, terms, future)
        if nested and on_settled is not None:
            # Who takes chunks as they come waits for none of them in particular.
            self.run_beside(future)
        return future

    def _is_nested(self, terms: Terms | None) -> bool:
        return getattr(_here, "pool", None) is self or (terms is not None and terms.nested)

    def number_for_map(self, function: Callable[..., Any]) -> None:
        """Nothing is numbered here: the function itself is called."""

    def _watch_deadline(self, future: Future[Any], timeout: float) -> None:
        reference = weakref.ref(future)

        def expire() -> None:
            self._timers.discard(timer)
            late = reference()
            if late is None or late.done():
                return
            started = not self.queue.cancel_queued(late)
            what = "end" if started else "start"
            more = "; a thread cannot be stopped, so its function runs on" if started else ""
            self.queue.fail(
                late,
                TaskTimeoutError(
                    f"the task did not {what} within its timeout of {timeout:g} s{more}",
                    details={"timeout": timeout},
                ),
            )

        timer = threading.Timer(timeout, expire)
        timer.daemon = True
        self._timers.add(timer)
        timer.start()

    def stop_task(self, future: Future[Any]) -> bool:
        """A thread cannot be stopped: False."""
        return False

    def cancel_running(self, future: Future[Any]) -> bool:
        """A thread cannot be stopped: False."""
        return False

    # -- the threads -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads that are missing."""
        with self._life:
            while len(self._threads) < self.size and self.queue.is_open:
                seen = Seen(f"snakepit-{self.name}-{len(self._threads)}")
                thread = threading.Thread(
                    target=self._work, args=(seen,), name=seen.thread, daemon=True
                )
                self.seen.append(seen)
                self._threads.append(thread)
                thread.start()
            _running.add(self)

    def _work(self, seen: Seen) -> None:
        _here.pool = self
        _here.seen = seen
        if self._config.initializer is not None:
            try:
                self._config.initializer(*self._config.initargs)
            except BaseException as error:
                self._break(error)
                return
        with self._life:
            self._ready += 1
            self._life.notify_all()
        seen.address = this_thread()
        while True:
            taken = self.queue.take()
            if taken is None:
                seen.address = 0
                return
            self._run(*taken)
            # Idle, the thread must not keep the last call's objects alive.
            del taken

    def _run(self, task: Any, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        started = time.monotonic_ns()
        outcome = error = None
        seen: Seen | None = getattr(_here, "seen", None)  # None on a substitute's thread
        outer = None
        if seen is not None:
            outer, seen.doing = seen.doing, (function, started)
        try:
            outcome = function(*args, **kwargs)
        except BaseException as raised:
            error = raised
            outcome = function.done if isinstance(function, _Chunk) else None
        if seen is not None:
            seen.doing = outer
            seen.completed += 1
        try:
            self.queue.finish(task, outcome, error, started)
        except Exception:
            logger.exception("snakepit pool %s: error while settling a task", self.name)
        finally:
            # The exception's traceback refers to this frame, and the task to the exception.
            del error, task, function, args, kwargs, outer

    def run_if_queued(self, future: Future[Any]) -> None:
        """Run a call on this thread if no thread has started it."""
        taken = self.queue.take_back(future)
        if taken is not None:
            self._run(*taken)
            del taken

    def run_beside(self, future: Future[Any]) -> None:
        """Have a call that no thread has started run while this thread waits for it."""
        substitute = getattr(_here, "substitute", None)
        if substitute is None:
            substitute = _here.substitute = _Substitute(self)
        substitute.add(future)

    # -- life --------------------------------------------------------------------------------------

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the threads and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError.
        """
        self.start()
        with self._life:
            done = self._life.wait_for(
                lambda: self.broken is not None or self._ready >= self.size, timeout
            )
        if self.broken is not None:
            raise self._why_broken()
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

    def close(self, *, cancel_futures: bool = False) -> None:
        """Take no more calls; when those that were taken are done, the threads end.

        Returns at once.
        """
        for running in list(self._waiting_maps):
            if cancel_futures:
                running.abandon()
            else:
                running.finish_reading()
        if cancel_futures:
            for task in self.queue.withdraw_all():
                task.mark_cancelled()
        self.queue.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a closed pool's threads have ended; False if not after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def end_workers(self, sig: int) -> None:
        """Close the pool and cancel what is queued.

        Threads cannot be killed, so running calls end by themselves.
        """
        self.close(cancel_futures=True)

    def _on_idle(self) -> None:
        for timer in list(self._timers):
            timer.cancel()
        _running.discard(self)

    def worker_pids(self) -> list[int]:
        """No process but the caller's: an empty list."""
        return []

    def stats(self) -> PoolStats:
        """Read the counters."""
        return PoolStats.read(self.queue, self.size, self._ready)


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
        name = f"snakepit-{self._pool.name}-substitute"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        _here.pool = self._pool
        while True:
            with self._lock:
                if not self._calls:
                    self._running = False
                    return
                future = self._calls.popleft()
            self._pool.run_if_queued(future)
            del future


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


_running: weakref.WeakSet[LocalPool] = weakref.WeakSet()


def close_all() -> None:
    """End every running local pool after its tasks, at the interpreter's exit."""
    for pool in list(_running):
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
