"""A pool of worker processes: the compiled scheduler, and the two threads that serve it."""

from __future__ import annotations

import logging
import multiprocessing.process
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import Any

from snakepit._core.channel import Channel
from snakepit._core.control import create_control
from snakepit._core.definitions import Definitions
from snakepit._core.scheduler import Scheduler
from snakepit.errors import ArenaFullError, EncodeError, PoolNotReadyError, TaskTimeoutError
from snakepit.lifecycle.blas import blas_environment
from snakepit.lifecycle.supervisor import Supervisor
from snakepit.lifecycle.template import Template, TemplateContext
from snakepit.pool.functions import FunctionRegistry
from snakepit.pool.futures import Future
from snakepit.pool.memory import arena
from snakepit.pool.nested import NestedTasks
from snakepit.pool.stats import PoolStats
from snakepit.resources import usable_cpus
from snakepit.worker.process import (
    MAIL_FAILED,
    MAIL_READY,
    PassedDescriptor,
    WorkerSpec,
    worker_main,
)

logger = logging.getLogger("snakepit")

SLOTS = 1024
DEFINITIONS = 4096
SPIN_NS = 250_000  # three times what it takes to wake a sleeping core
FORK_PATIENCE = 10.0  # seconds that the first call may wait for forked workers to exist
ARENA_PATIENCE = 30.0  # seconds that a call without a deadline waits for arena memory
PRIORITIES = {"high": 0, "normal": 1, "low": 2}

_starting = threading.RLock()  # guards os.environ while a process of a foreign context starts


@dataclass(frozen=True)
class PoolConfig:
    """How a pool is made; validated by whoever makes it."""

    size: int
    context: BaseContext | None = None  # None: the template
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None
    preload: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    inline_threshold: int = 10_240
    name: str = "default"
    blas_threads: int | str | None = None


@dataclass(frozen=True)
class Terms:
    """What a call is run under."""

    timeout: float | None = None
    priority: int = 1
    session: int = 0
    cancel_running: bool = False
    nested: bool = False  # submitted by a task, from whatever thread


class ProcessPool:
    """Runs calls in `config.size` processes. Workers start with `start` or the first call."""

    def __init__(self, config: PoolConfig) -> None:
        self.name = config.name
        self.size = config.size
        # A few lanes more than workers, so that a replacement can start before the old worker is
        # gone.
        self.lanes = min(config.size + max(2, config.size // 8), 1024)
        self.broken: PoolNotReadyError | None = None
        self._config = config
        self._env = {
            **blas_environment(config.blas_threads, config.size, {**os.environ, **config.env}),
            **config.env,
        }
        self._initializer = self._pickle_initializer(config)
        self._template: Template | None = None
        self._context: BaseContext
        if config.context is None:
            self._template = Template(config.preload, self._env)
            self._context = TemplateContext(self._template)
        else:
            self._context = config.context
        self._forks = self._context.get_start_method() == "fork"
        self._arena = arena()
        control = create_control(
            self.lanes,
            SLOTS,
            max(64, 2 * self.lanes),
            DEFINITIONS,
            config.inline_threshold,
            usable_cpus(),
            SPIN_NS,
            config.name,
        )
        self._functions = FunctionRegistry(Definitions(control, self._arena))
        channel = Channel(self._arena, config.inline_threshold, ARENA_PATIENCE, self._careful_dumps)
        self.nested = NestedTasks(self)
        self.scheduler = Scheduler(
            control, self._arena, channel, self._functions.importable, self._on_mail, self._on_idle
        )
        self.supervisor = Supervisor(self)
        self._life = threading.Condition()
        self._started = False
        self._closed = False
        self._over = False
        self._lifeline: tuple[int, int] | None = None
        self._threads: list[threading.Thread] = []
        self._waiting_maps: weakref.WeakSet[Any] = weakref.WeakSet()

    @staticmethod
    def _pickle_initializer(config: PoolConfig) -> bytes | None:
        if config.initializer is None:
            return None
        from snakepit.pickling import careful_dumps

        try:
            return careful_dumps((config.initializer, config.initargs))
        except Exception as error:
            raise EncodeError(
                f"cannot pickle the initializer {config.initializer!r} and its arguments: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _careful_dumps(self, value: Any, buffer_callback: Any) -> bytes:
        from snakepit.pickling import careful_dumps

        return careful_dumps(value, buffer_callback, name_class=self._functions.name_class)

    # -- calls -------------------------------------------------------------------------------------

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        terms: Terms | None = None,
    ) -> Future[Any]:
        """Queue a call and return its future. Raises PoolShutdownError, PoolNotReadyError.

        A call that cannot be encoded is returned with that error in its future.
        """
        if not self._started:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        future: Future[Any] = Future()
        try:
            if terms is None and self.scheduler.submit_known(future, self, function, args, kwargs):
                return future
            future.context = self
            if function is None:
                # To the scheduler it would mean that the function has a number.
                self.scheduler.fail(  # type: ignore[unreachable]
                    future, TypeError("'NoneType' object is not callable")
                )
                return future
            definition = self._functions.lookup(function)
            if terms is not None:
                future._cancel_running = terms.cancel_running
                self.scheduler.set_terms(future, terms.timeout, terms.priority, terms.session)
            self.scheduler.submit(future, definition, function, args, kwargs)
        except (EncodeError, ArenaFullError) as error:
            self.scheduler.fail(future, error)
            return future
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
        """Queue a chunk of `map`; `on_settled(future)` is called first when it settles."""
        if self.broken is not None:
            raise self._why_broken()
        future: Future[Any] = Future()
        future.context = self
        future.set_hook(on_settled)
        try:
            self.scheduler.set_terms(future, terms.timeout, terms.priority, terms.session)
            self.scheduler.submit_items(future, definition, function, kind, items)
        except (EncodeError, ArenaFullError) as error:
            self.scheduler.fail(future, error)
            return future
        if terms.timeout is not None:
            self._watch_deadline(future, terms.timeout)
        return future

    def number_for_map(self, function: Callable[..., Any]) -> Any:
        """Return the number of a function for the calls of one map. Raises EncodeError."""
        if not self._started:
            self.start()
        return self._functions.snapshot_for_map(function)

    def _watch_deadline(self, future: Future[Any], timeout: float) -> None:
        reference = weakref.ref(future)
        started = time.monotonic()
        self.supervisor.at(started + timeout, lambda: self._expire(reference(), timeout, started))

    def _expire(self, future: Future[Any] | None, timeout: float, started: float) -> None:
        if future is None or future.done():
            return
        waited = time.monotonic() - started
        if self.scheduler.cancel_queued(future):
            error = TaskTimeoutError(
                f"the task did not start within its timeout of {timeout:g} s: "
                f"all workers of pool {self.name!r} were busy",
                details={"timeout": timeout, "waited": waited, "ran": 0.0},
            )
            self.scheduler.fail(future, error)
            return
        ran = min(self.scheduler.seconds_running(future), waited)
        self.supervisor.ladder.stop_task(future)
        error = TaskTimeoutError(
            f"the task did not end within its timeout of {timeout:g} s: "
            f"it waited {waited - ran:.3g} s and ran {ran:.3g} s",
            details={"timeout": timeout, "waited": waited - ran, "ran": ran},
        )
        self.scheduler.fail(future, error)

    def stop_task(self, future: Future[Any]) -> bool:
        """Stop a running call (see `Future.stop`)."""
        if self.scheduler.lane_of_task(future) < 0:
            return False
        self.supervisor.tell(lambda: self.supervisor.ladder.stop_task(future))
        return True

    def cancel_running(self, future: Future[Any]) -> bool:
        """Cancel a call that runs, and stop it; False if it has ended."""
        if self.scheduler.lane_of_task(future) < 0:
            return False
        # The worker's end is not the future's any more: cancelled, it takes no later outcome.
        self.supervisor.tell(lambda: self.supervisor.ladder.stop_task(future))
        return future.mark_cancelled()

    # -- what workers say --------------------------------------------------------------------------

    def _on_mail(
        self, kind: int, lane: int, number: int, definition: int, epoch: int, encoding: int,
        flags: int, payload: bytes | None, segment: Any, length: int,
    ) -> None:  # fmt: skip
        if kind == MAIL_READY:
            self.supervisor.tell(lambda: self.supervisor.worker_ready(lane))
        elif kind == MAIL_FAILED:
            try:
                error, text = self.scheduler.channel.decode_bytes(
                    encoding, payload, segment, length
                )
            except BaseException as problem:
                error, text = problem, ""
            self.supervisor.tell(lambda: self.supervisor.worker_failed(lane, error, text))
        else:
            self.nested.deliver(kind, lane, number, encoding, flags, payload, segment, length)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; returns at once.

        Raises PoolShutdownError's cause when the pool was closed before.
        """
        with self._life:
            if self._started or self._closed:
                return
            self._lifeline = os.pipe()
            self.supervisor.prepare()
            # Before a worker can be forked: a fork lets go of the pools that it finds here.
            _running.add(self)
            if self._template is not None:
                self._template.start()
            for role, body in (("supervisor", self.supervisor.run), ("collector", self._collect)):
                thread = threading.Thread(
                    target=body, name=f"snakepit-{self.name}-{role}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
            self._started = True
            if self._forks:
                # A fork copies the locks that other threads hold at that instant, those of imports
                # above all. So this one holds still until its workers exist.
                self._life.wait_for(lambda: self.supervisor.started, FORK_PATIENCE)

    def _collect(self) -> None:
        while not self._over or self.scheduler.unsettled:
            try:
                self.scheduler.attend()
            except Exception:
                logger.exception("snakepit pool %s: error while settling tasks", self.name)

    def start_process(self, lane: int, client: int) -> Any:
        """Start a worker process for a lane."""
        assert self._lifeline is not None
        link = self.nested.open_link(lane)
        passed = [self.scheduler.control.fd, self._lifeline[0], link.theirs.fileno()]
        # A plain fork inherits descriptors, and `forget_after_fork` closes the pool's own in
        # every child.
        copies = [os.dup(fd) for fd in passed] if self._forks else []
        control, lifeline, theirs = copies or passed
        spec = WorkerSpec(
            pool=self.name,
            lane=lane,
            client=client,
            control=PassedDescriptor(control),
            arena=PassedDescriptor(self._arena.fd),
            lifeline=PassedDescriptor(lifeline),
            link=PassedDescriptor(theirs),
            threshold=self._config.inline_threshold,
            patience=ARENA_PATIENCE,
            initializer=self._initializer,
            env=self._env,
            max_tasks=self._config.max_tasks_per_child,
            workers=self.size,
        )
        self.scheduler.prepare_lane(lane, client)
        try:
            return self._start(spec)
        finally:
            link.close_theirs()
            for fd in copies:
                os.close(fd)

    def _start(self, spec: WorkerSpec) -> Any:
        process = self._context.Process(  # type: ignore[attr-defined]
            target=worker_main, args=(spec,), name=f"snakepit-{self.name}-{spec.lane}"
        )
        if self._template is not None:
            process.start()
            return process
        with _starting:
            # A foreign context gives no other way to set what a new interpreter finds before its
            # first import.
            before = {name: os.environ.get(name) for name in self._env}
            os.environ.update(self._env)
            try:
                process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
        return process

    def note_ready(self) -> None:
        """Tell who waits for readiness to look again."""
        with self._life:
            self._life.notify_all()

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError.
        """
        self.start()
        with self._life:
            done = self._life.wait_for(
                lambda: self.broken is not None or self.ready_workers() >= self.size, timeout
            )
        if self.broken is not None:
            raise self._why_broken()
        if not done:
            raise TimeoutError(
                f"{self.ready_workers()} of {self.size} workers were ready after {timeout:g} s"
            )

    def ready_workers(self) -> int:
        """Return how many workers are ready for work."""
        return sum(worker.ready for worker in list(self.supervisor.workers.values()))

    def worker_pids(self) -> list[int]:
        """Return the pids of the ready workers."""
        return [worker.pid for worker in list(self.supervisor.workers.values()) if worker.ready]

    def set_broken(self, error: PoolNotReadyError) -> None:
        """Give up: fail everything that is queued, and every later call, with `error`."""
        with self._life:
            self.broken = error
            self._life.notify_all()
        for task in self.scheduler.withdraw_all():
            self.scheduler.fail(task, self._why_broken())

    def _why_broken(self) -> PoolNotReadyError:
        assert self.broken is not None
        # A copy for each: an exception that several threads raise collects all their tracebacks.
        error = PoolNotReadyError(str(self.broken), details=self.broken.details)
        error.__cause__ = self.broken.__cause__
        return error

    def add_map(self, running: Any) -> None:
        """Remember a map with items left to submit: closing the pool submits them first."""
        self._waiting_maps.add(running)

    def watch(self) -> None:
        """Somebody waits for outcomes without asking futures for them."""
        self.scheduler.watch()

    def close(self, *, cancel_futures: bool = False) -> None:
        """Take no more calls; when those that were taken are done, the workers end.

        Returns at once.
        """
        for running in list(self._waiting_maps):
            if cancel_futures:
                running.abandon()
            else:
                running.finish_reading()
        self.scheduler.close()
        if cancel_futures:
            for task in self.scheduler.withdraw_all():
                task.mark_cancelled()
        with self._life:
            self._closed = True
            started = self._started
        if started:
            self.supervisor.tell(lambda: None)
        else:
            self._discard()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a closed pool is gone; False when it is not after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def end_workers(self, sig: int) -> None:
        """Close the pool, cancel what is queued, end every worker by a signal: what runs fails."""
        self.close(cancel_futures=True)
        if self._started:
            self.supervisor.tell(lambda: self.supervisor.end_workers(sig))

    def is_over(self) -> bool:
        """Whether the pool is closed and has nothing left to do."""
        return self._closed and self.scheduler.unsettled == 0

    def _on_idle(self) -> None:
        if self._started:
            self.supervisor.tell(lambda: None)

    def supervisor_ended(self) -> None:
        """The last worker is gone: free everything else."""
        if self._template is not None:
            self._template.stop()
        self._over = True
        self.scheduler.dismiss()
        self._discard()
        _running.discard(self)

    def _discard(self) -> None:
        if self._lifeline is not None:
            for fd in self._lifeline:
                os.close(fd)
            self._lifeline = None
        self.scheduler.control.close_descriptor()

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what would keep the owner's workers alive."""
        self._discard()
        # Else multiprocessing would try to join them when the child ends.
        children: set[Any] = multiprocessing.process._children  # type: ignore[attr-defined]
        children.difference_update([worker.process for worker in self.supervisor.workers.values()])

    def stats(self) -> PoolStats:
        """Read the counters."""
        return PoolStats.read(self.scheduler, self.size, self.ready_workers(), self.supervisor)


_running: weakref.WeakSet[ProcessPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    global _starting
    _starting = threading.RLock()
    for pool in list(_running):
        pool.forget_after_fork()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def close_all(*, interrupted: bool) -> None:
    """End every running pool, at the interpreter's exit.

    After their tasks, or at once if Ctrl-C ended the program.
    """
    pools = list(_running)
    for pool in pools:
        if interrupted:
            pool.end_workers(signal.SIGTERM)
        else:
            pool.close()
    try:
        for pool in pools:
            pool.join()
    except KeyboardInterrupt:
        # The interpreter would only print a traceback of its own innards for it.
        print("KeyboardInterrupt: the calls still under way are given up", file=sys.stderr)
        for pool in pools:
            pool.end_workers(signal.SIGTERM)
        for pool in pools:
            pool.join()
