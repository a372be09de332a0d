"""The threads of a local pool: they run its calls, and are replaced when a task does not let go."""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from snakepit._core.interrupts import HELD, Runner
from snakepit.pool.futures import Future
from snakepit.worker.context import lent_turn

if TYPE_CHECKING:
    from snakepit.pool.local import LocalConfig, LocalPool

T = TypeVar("T")

logger = logging.getLogger("snakepit")


class _Here(threading.local):
    """Of a thread that runs calls: its pool and runner, and the substitute that it has, if any."""

    # In the class, as every call looks, most from other threads: a lookup that fails costs 1 µs.
    pool: Any = None
    runner: Any = None
    substitute: _Substitute | None = None


here = _Here()


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
        return self._await(super().result, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        return self._await(super().exception, timeout)

    def _await(self, outcome: Callable[[float | None], T], timeout: float | None) -> T:
        if self.done():
            return outcome(timeout)
        with lent_turn():
            self._help()
            return outcome(timeout)

    def _help(self) -> None:
        pool: Any = self.context
        if here.pool is pool and here.runner is not None:
            pool.run_if_queued(self)
        else:
            # A thread that a task made, for which the task may be waiting; or an initializer.
            self._have_run_beside()

    def _have_run_beside(self) -> None:
        pool: Any = self.context
        # Only what still can start: one that is being cancelled asks for the condition, too.
        if not self._beside and pool is not None and pool.queue.is_queued(self):
            self._beside = True
            pool.run_beside(self)


class LocalThreads:
    """The threads of one pool, as many as its size once they have started.

    `life` is notified when one is ready, fails to get ready, is replaced, or ends.
    """

    def __init__(self, pool: LocalPool, config: LocalConfig, life: threading.Condition) -> None:
        self._pool = pool
        self._config = config
        self._life = life
        self._numbers = itertools.count()
        self.members: list[threading.Thread] = []
        self._ended: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.ready = 0  # whose initializer is done

    def start(self) -> None:
        """Start those that are missing, while the pool is open."""
        with self._life:
            while len(self.members) < self._config.size and self._pool.is_open:
                self._start_one()

    def _start_one(self) -> None:
        name = f"snakepit-{self._pool.name}-{next(self._numbers)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.members.append(thread)
        thread.start()

    def _work(self) -> None:
        try:
            self._serve()
        finally:
            with self._life:
                self._ended.add(threading.current_thread())
                self._life.notify_all()

    def _serve(self) -> None:
        here.pool = self._pool
        if self._config.initializer is not None:
            try:
                self._config.initializer(*self._config.initargs)
            except BaseException as error:
                self._pool.set_broken(error)
                return
        with self._life:
            self.ready += 1
            self._life.notify_all()
        thread = threading.current_thread()
        self.run_tasks(self._pool.queue.take, lambda: self._replace(thread))

    def _replace(self, thread: threading.Thread) -> None:
        """Start a fresh thread for one that its task does not leave."""
        with self._life:
            self.members.remove(thread)
            self.ready -= 1
            if self._pool.queue.is_open or self._pool.queue.unsettled:
                self._start_one()
            self._life.notify_all()

    def run_tasks(self, take: Callable[[Runner], Any], replace: Callable[[], object]) -> None:
        """Run what `take` gives on this thread, until that is None or the thread is replaced."""
        queue = self._pool.queue
        runner = here.runner = Runner()
        runner.replace = replace
        queue.enlist(runner)
        try:
            while not runner.left_behind:
                task = take(runner)
                if task is None:
                    return
                try:
                    queue.run(runner, task)
                except BaseException:
                    logger.exception(
                        "snakepit pool %s: error while settling a task", self._pool.name
                    )
                # Idle, the thread must not keep the last call's objects alive.
                del task
        finally:
            runner.replace = None
            queue.dismiss(runner)

    def await_end(self, timeout: float | None) -> bool:
        """Wait until all have ended, but for the calling one; False after `timeout` seconds."""
        me = threading.current_thread()
        with self._life:
            # Not by joining them: one may be left behind while it is waited for.
            return self._life.wait_for(
                lambda: all(thread in self._ended or thread is me for thread in self.members),
                timeout,
            )

    # -- for tasks that wait -----------------------------------------------------------------------

    def run_if_queued(self, future: Future[Any]) -> None:
        """Run a call on this thread, of a task that waits for it, if no thread has started it."""
        self._pool.queue.run_queued(here.runner, future)

    def run_beside(self, future: Future[Any]) -> None:
        """Have a call that no thread has started run while this thread waits for it."""
        with HELD:
            substitute = here.substitute
            if substitute is None:
                substitute = here.substitute = _Substitute(self._pool, self)
            substitute.add(future)


class _Substitute:
    """Runs, one after the other, the calls that one worker thread waits for without running them.

    One thread for each that waits: as many as wait within each other, never one for each call.
    """

    def __init__(self, pool: LocalPool, threads: LocalThreads) -> None:
        self._pool = pool
        self._threads = threads
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
        here.pool = self._pool
        self._threads.run_tasks(self._take, self._start)

    def _take(self, runner: Runner) -> Any:
        while True:
            with self._lock:
                if not self._calls:
                    self._running = False
                    return None
                future = self._calls.popleft()
            if self._pool.queue.take_back(runner, future):
                return future
