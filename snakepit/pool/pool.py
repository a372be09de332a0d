"""A pool of worker processes: the compiled scheduler, and the two threads that serve it."""

from __future__ import annotations

import logging
import multiprocessing.process
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from snakepit._core.channel import Channel
from snakepit._core.control import create_control
from snakepit._core.definitions import Definitions
from snakepit._core.roster import Roster
from snakepit._core.scheduler import Scheduler
from snakepit._core.stopping import tasks_of_session
from snakepit.errors import ArenaFullError, EncodeError, PoolNotReadyError, PoolShutdownError
from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.autopsy import Recording
from snakepit.lifecycle.blas import SHARE, blas_environment
from snakepit.lifecycle.deadlines import ProcessDeadlines, SweptDeadlines
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.health import HealthPolicy
from snakepit.lifecycle.recycling import Errand, RecyclingPolicy
from snakepit.lifecycle.registry import registry
from snakepit.lifecycle.supervisor import Supervisor
from snakepit.lifecycle.template import Template, TemplateContext
from snakepit.lifecycle.worker import Worker
from snakepit.pool.affinity import Affinity
from snakepit.pool.asks import Asks
from snakepit.pool.callbacks import CallbackThread
from snakepit.pool.functions import FunctionRegistry
from snakepit.pool.futures import Future, StoppableFuture
from snakepit.pool.living import LivingSet
from snakepit.pool.memory import own_arena
from snakepit.pool.nested import NestedTasks
from snakepit.pool.stats import LifecycleStats, PoolStats
from snakepit.pool.terms import Terms
from snakepit.pool.threads import PoolThread
from snakepit.pool.travel import unpicklable_item
from snakepit.resources import usable_cpus
from snakepit.worker.process import (
    MAIL_FAILED,
    MAIL_READY,
    MAIL_WORN,
    PassedDescriptor,
    WorkerSpec,
    worker_main,
)

if TYPE_CHECKING:
    from snakepit._core.definitions import Published
    from snakepit.pool.attempts import Calls, GuardedCall
    from snakepit.pool.sessions import SessionDesk
    from snakepit.pool.streams import ProcessStreams, Stream
    from snakepit.sessions.store import SessionStore

logger = logging.getLogger("snakepit")

CALL = 0
MAIL_CHUNK = 8  # a stream has a chunk for a reader that must not block
SLOTS = 1024
MOST_LANES = 1024
DEFINITIONS = 4096
SPIN_NS = 250_000  # three times what it takes to wake a sleeping core
NOTE_PATIENCE = 0.05  # seconds that the supervisor waits for whoever waits for readiness
FORK_PATIENCE = 10.0  # seconds that the first call may wait for forked workers to exist
MAIL_TOOL, MAIL_RAN = 11, 12
ARENA_PATIENCE = 30.0  # seconds that a call without a deadline waits for arena memory
START_TIMEOUT = 60.0  # seconds

_starting = threading.RLock()  # guards os.environ while a process of a foreign context starts


@dataclass(frozen=True)
class PoolConfig:
    """How a pool is made; validated by whoever makes it."""

    size: int
    context: BaseContext | None = None  # None: the template
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    recycling: RecyclingPolicy = field(default_factory=RecyclingPolicy)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    preload: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    inline_threshold: int = 10_240
    start_timeout: float = START_TIMEOUT  # seconds for a worker with its initializer, or preload
    name: str = "default"
    blas_threads: int | str | None = None
    graces: Graces = field(default_factory=Graces)
    session_store: SessionStore | None = None  # None: one of the pool's own, when it is needed
    # Of pools of adapters, all of whose calls have limits; 0: any number may be queued.
    limited: bool = False
    max_queue_size: int = 0
    queue_timeout: float | None = None  # seconds
    startup_batch_size: int = 0  # workers that start together; 0: all
    startup_batch_delay: float = 0.0  # seconds between two batches
    template_hook: bytes | None = None  # what the template calls once it has imported all
    threads: int = 0  # that run calls in each worker; 0: its main thread does, one at a time


def lanes_for(size: int, threads: int) -> int:
    """Return how many lanes a pool has: those of its workers, and of a few more.

    A replacement can then start before the old worker is gone.
    """
    lanes = threads * (size + max(2, size // 8))
    return min(lanes, MOST_LANES) if threads == 1 else lanes


class ProcessPool:
    """Runs calls in `config.size` processes. Workers start with `start` or the first call."""

    def __init__(self, config: PoolConfig) -> None:
        self.name = config.name
        self.size = config.size
        self.threads = max(1, config.threads)  # lanes of one worker
        self.capacity = config.size * self.threads  # calls that run at once
        self.lanes = lanes_for(config.size, self.threads)
        self.broken: PoolNotReadyError | None = None
        self.calls: Calls | None = None  # of several attempts; made when there is one
        self.streams: ProcessStreams | None = None  # made with the first
        self._config = config
        self._env = {
            **blas_environment(
                SHARE if config.blas_threads is None and config.threads else config.blas_threads,
                config.size,
                {**os.environ, **config.env},
            ),
            **config.env,
        }
        self._initializer = self._pickle_initializer(config)
        self._template: Template | None = None
        self._context: BaseContext
        if config.context is None:
            # What only workers of several threads need is imported once for all of them, too.
            needs = ("snakepit.worker.threads",) if config.threads else ()
            self._template = Template((*needs, *config.preload), self._env, config.template_hook)
            self._context = TemplateContext(self._template)
        else:
            self._context = config.context
        self._forks = self._context.get_start_method() == "fork"
        self._arena = own_arena()
        control = create_control(
            self.lanes,
            SLOTS,
            max(64, 2 * self.lanes),
            DEFINITIONS,
            config.inline_threshold,
            usable_cpus(),
            SPIN_NS,
            config.name,
            self.threads,
        )
        self._functions = FunctionRegistry(Definitions(control, self._arena))
        channel = Channel(self._arena, config.inline_threshold, ARENA_PATIENCE, self._careful_dumps)
        self.nested = NestedTasks(self)
        self.recordings: dict[int, Recording] = {}  # by lane, of workers that are about to start
        self.scheduler = Scheduler(
            control, self._arena, channel, self._functions.importable, self._on_mail, self._on_idle
        )
        self.affinity = Affinity(config.name, self.scheduler)
        self.asks = Asks(self, config.session_store)
        self.roster = Roster(control)
        self.graces = config.graces
        self.supervisor = Supervisor(self, config.recycling, config.health)
        self.max_queue_size = config.max_queue_size
        self.queue_timeout = config.queue_timeout
        self._deadlines = SweptDeadlines(self) if config.limited else ProcessDeadlines(self)
        self._callbacks = CallbackThread(f"snakepit-{self.name}-callbacks")
        self.scheduler.spare_all_threads(self._callbacks.add)
        # For callers alone: a signal handler on top of the start, which holds it, may wait for the
        # pool's own threads.
        self._claim = threading.RLock()
        self._life = threading.Condition()
        self._newest: Any = None  # the process started last; the supervisor may not know it yet
        self._begun = False
        self._started = False
        self._closed = False
        self._over = False
        self._undoing = False  # a start failed, and the collector of it shall end
        self._lifeline: tuple[int, int] | None = None
        self._threads: list[threading.Thread] = []
        self._waiting_maps: LivingSet[Any] = LivingSet()

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

        return careful_dumps(
            value, buffer_callback, name_class=self._functions.name_class, arena=self._arena
        )

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
        if terms is not None and terms.guarded:
            return self._submit_guarded(terms, function, CALL, args, kwargs)
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
                self._set_terms(future, terms.timeout, terms)
                if terms.queue_timeout is not None:
                    self.scheduler.set_limits(future, 0, int(terms.queue_timeout * 1e9))
            self.scheduler.submit(future, definition, function, args, kwargs)
        except (EncodeError, ArenaFullError) as error:
            self.scheduler.fail(future, error)
            return future
        if terms is not None and terms.timeout is not None:
            self._deadlines.add(future, terms.timeout)
        return future

    def number(self, function: Any) -> Published | None:
        """Give a number to what pickles as the same thing for ever (see `submit_numbered`)."""
        return self._functions.adopt(function)

    def submit_numbered(
        self, definition: Published, args: tuple[Any, ...], kwargs: dict[str, Any],
        timeout_ns: int, patience_ns: int, priority: int, session: int,
    ) -> StoppableFuture[Any]:  # fmt: skip
        """Queue a call of what has a number, in a pool whose calls have limits: in one step."""
        if not self._started:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        future: StoppableFuture[Any] = StoppableFuture()
        try:
            self.scheduler.submit_numbered(
                future, self, definition, args, kwargs, timeout_ns, patience_ns, priority, session
            )
        except (EncodeError, ArenaFullError) as error:
            self.scheduler.fail(future, error)
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
        if terms.guarded:
            return self._submit_guarded(
                terms, function, kind, (items,), {}, (definition,), on_settled
            )
        future: Future[Any] = Future()
        future.context = self
        future.set_hook(on_settled)
        if terms.cancel_running:
            future._cancel_running = True
        try:
            self._set_terms(future, terms.timeout, terms)
            self.scheduler.submit_items(future, definition, function, kind, items)
        except (EncodeError, ArenaFullError) as error:
            if isinstance(error, EncodeError):
                error = unpicklable_item(error, items, "argument")
            self.scheduler.fail(future, error)
            return future
        if terms.timeout is not None:
            self._deadlines.add(future, terms.timeout)
        return future

    def _set_terms(self, call: Future[Any], timeout: float | None, terms: Terms) -> None:
        self.scheduler.set_terms(
            call, timeout, terms.priority, terms.session, terms.affinity, terms.session_name
        )

    def stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        terms: Terms,
    ) -> Stream[Any]:  # fmt: skip
        """Queue a call and return the stream of what it yields (see `Executor.stream`)."""
        if not self._started:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        streams = self.streams or self._begin_streams()
        return streams.open(function, args, kwargs, terms)

    def _begin_streams(self) -> ProcessStreams:
        from snakepit.pool.streams import ProcessStreams

        with self._claim:
            if self.streams is None:
                self.streams = ProcessStreams(self, self._functions, self._deadlines)
            return self.streams

    # -- calls of several attempts (see `snakepit.pool.attempts`) ----------------------------------

    def _submit_guarded(
        self, terms: Terms, function: Any, kind: int, args: tuple[Any, ...],
        kwargs: dict[str, Any], number: tuple[Any] | None = None, on_settled: Any = None,
    ) -> Future[Any]:  # fmt: skip
        from snakepit.pool.attempts import Calls, GuardedCall

        self.scheduler.refuse_in_child()
        with self._life:
            if self.calls is None:
                self.calls = Calls()
        call = GuardedCall(self, terms)
        call.set_hook(on_settled)
        call.begin(function, kind, args, kwargs, number)
        return call

    def prepare_call(
        self, call: GuardedCall, function: Any, kind: int, args: tuple[Any, ...],
        kwargs: dict[str, Any], number: tuple[Any] | None,
    ) -> None:  # fmt: skip
        """Encode what all attempts share. Raises EncodeError, ArenaFullError, TypeError."""
        if function is None:
            raise TypeError("'NoneType' object is not callable")
        terms = call.terms
        (definition,) = number or (self._functions.lookup(function),)
        self._set_terms(call, call.seconds_left(), terms)
        self.scheduler.encode(call, definition, function, kind, args, kwargs)

    def queue_attempt(self, call: GuardedCall, first: bool) -> None:
        """Queue an attempt. Raises PoolShutdownError, PoolNotReadyError."""
        if self.broken is not None:
            raise self._why_broken()
        attempt: Future[Any] = Future()
        call.follow(attempt)
        if call.terms.queue_timeout is not None:
            self.scheduler.set_limits(attempt, 0, int(call.terms.queue_timeout * 1e9))
        self.scheduler.attempt(attempt, call, first)
        if not first:
            # Nothing was under way meanwhile, so nobody is known to watch.
            self.scheduler.watch()
        left = call.seconds_left()
        if left is not None:
            self._deadlines.add(attempt, left)

    def later(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` run in the supervisor's thread in `seconds`."""
        self.supervisor.after(seconds, note)

    def call_ended(self) -> None:
        """A call left `calls`: a closed pool may be able to end now."""
        if self._closed:
            self._on_idle()

    def number_for_map(self, function: Callable[..., Any]) -> Any:
        """Return the number of a function for the calls of one map. Raises EncodeError."""
        if not self._started:
            self.start()
        return self._functions.snapshot_for_map(function)

    def stop_task(self, future: Future[Any]) -> bool:
        """Stop a running call (see `Future.stop`)."""
        if self.scheduler.lane_of_task(future) < 0:
            return self.asks.stop_lent(future)
        self.supervisor.tell(lambda: self.supervisor.ladder.stop_task(future))
        return True

    def cancel_running(self, future: Future[Any]) -> bool:
        """Cancel a call that runs, and stop it; False if it has ended."""
        if self.scheduler.lane_of_task(future) < 0:
            return False
        # The worker's end is not the future's any more: cancelled, it takes no later outcome.
        self.supervisor.tell(lambda: self.supervisor.ladder.stop_task(future))
        cancelled = future.mark_cancelled()
        if cancelled:
            self.scheduler.note_cancelled()
        return cancelled

    def cancel_session(self, session: int) -> int:
        """Stop all calls of a session; returns how many."""
        calls = self.calls.of_session(session) if self.calls else {}
        tasks = set(tasks_of_session(self.scheduler, session)).difference(calls.values())
        return sum(future.stop() for future in (*calls, *tasks))

    def forget_session(self, session: int) -> bool:
        """Let a strict session begin anew (see `Executor.forget_session`)."""
        return self.affinity.forget(session)

    # -- what workers say --------------------------------------------------------------------------

    def _on_mail(
        self, kind: int, lane: int, number: int, definition: int, epoch: int, encoding: int,
        flags: int, payload: bytes | None, segment: Any, length: int,
    ) -> None:  # fmt: skip
        if kind == MAIL_READY:
            self.supervisor.tell(lambda: self.supervisor.worker_ready(lane, number))
        elif kind == MAIL_WORN:
            self.supervisor.tell(lambda: self.supervisor.recycler.worn(lane))
        elif kind == MAIL_CHUNK:
            if self.streams is not None:
                self.streams.rings.rouse(number)
        elif kind == MAIL_FAILED:
            try:
                error, text = self.scheduler.channel.decode_bytes(
                    encoding, payload, segment, length
                )
            except BaseException as problem:
                error, text = problem, ""
            # Known here and not in the supervisor's thread, which may bury the worker first.
            spare = self.roster.holds(lane)
            self.supervisor.tell(
                lambda: self.supervisor.worker_failed(lane, number, error, text, spare=spare)
            )
        elif kind == MAIL_TOOL:
            self.asks.hear_tool(lane, number, encoding, payload, segment, length)
        elif kind == MAIL_RAN:
            self.asks.hear_ran(number, encoding, payload, segment, length)
        else:
            self.nested.deliver(kind, lane, number, encoding, flags, payload, segment, length)

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; returns at once.

        Raises PoolShutdownError's cause when the pool was closed before, and ForkedPoolError.
        """
        self.scheduler.refuse_in_child()
        with self._claim:
            registry.check()
            # A signal handler may come here on top of this very call: what it submits waits. None
            # comes between these two steps, in which nothing is called.
            if self._begun or self._closed:
                return
            self._begun = True
            try:
                self._start_threads()
            except BaseException:
                self._begun = self._started
                raise
            if self._forks:
                # A fork copies the locks that other threads hold at that instant, those of imports
                # above all. So this one holds still until its workers exist.
                with self._life:
                    self._life.wait_for(lambda: self.supervisor.started, FORK_PATIENCE)

    def _start_threads(self) -> None:
        # The supervisor last: what it starts cannot be undone, and of it there must not be two when
        # the system refuses the other thread and the next call tries again.
        collector = PoolThread(f"snakepit-{self.name}-collector", self._collect)
        supervisor = PoolThread(f"snakepit-{self.name}-supervisor", self.supervisor.run)
        try:
            self._lifeline = os.pipe()
            self.supervisor.prepare()
            # Before a worker can be forked: a fork lets go of the pools that it finds here.
            _running.add(self)
            if self._template is not None:
                self._template.start()
            collector.start()
            supervisor.start()
            self._note_started(supervisor, collector)
        except BaseException:
            if supervisor.withdraw():
                self._undo_start(collector)
            else:
                self._note_started(supervisor, collector)
            raise

    def _note_started(self, *threads: threading.Thread) -> None:
        self._threads = list(threads)
        self._started = True

    def _undo_start(self, collector: PoolThread) -> None:
        """Free what a start has opened that failed before the supervisor began."""
        if not collector.withdraw():
            self._undoing = True
            self.scheduler.dismiss()
            collector.join()
            self.scheduler.recall()
            self._undoing = False
        _running.discard(self)
        self.supervisor.unprepare()
        if self._template is not None:
            self._template.stop()
        self._close_lifeline()

    def _collect(self) -> None:
        while not self._undoing and (not self._over or self.scheduler.unsettled):
            try:
                self.scheduler.attend()
            except BaseException:
                logger.exception("snakepit pool %s: error while settling tasks", self.name)
        self._callbacks.end()

    def start_process(self, lane: int, client: int, spare: bool = False) -> Any:
        """Start a worker process for a lane; a spare waits until another leaves."""
        assert self._lifeline is not None
        link = self.nested.open_link(lane, client)
        recording = self.recordings[lane] = Recording()
        passed = [
            self.scheduler.control.fd, self._lifeline[0], link.theirs.fileno(), recording.fd
        ]  # fmt: skip
        # A plain fork inherits descriptors, and `forget_after_fork` closes the pool's own in
        # every child.
        copies = [os.dup(fd) for fd in passed] if self._forks else []
        control, lifeline, theirs, record = copies or passed
        spec = WorkerSpec(
            pool=self.name,
            lane=lane,
            client=client,
            control=PassedDescriptor(control),
            arena=PassedDescriptor(self._arena.fd),
            lifeline=PassedDescriptor(lifeline),
            link=PassedDescriptor(theirs),
            recording=PassedDescriptor(record),
            threshold=self._config.inline_threshold,
            patience=ARENA_PATIENCE,
            initializer=self._initializer,
            env=self._env,
            max_tasks=self._config.recycling.max_tasks,
            worn_after=self._config.recycling.tasks_until_worn() or None,
            workers=self.capacity,
            threads=self._config.threads,
            run_id=run_ids.current(),
        )
        for each in range(lane, lane + self.threads):
            self.scheduler.prepare_lane(each, client)
        if spare:
            self.roster.hold(lane)
        try:
            # With a hard limit of tasks, the place of a spare is about to be free.
            idly = spare and self._config.recycling.max_tasks is None
            return self._start(spec, in_no_hurry=idly)
        finally:
            link.close_theirs()
            for fd in copies:
                os.close(fd)

    def _start(self, spec: WorkerSpec, *, in_no_hurry: bool) -> Any:
        process = self._context.Process(  # type: ignore[attr-defined]
            target=worker_main, args=(spec,), name=f"snakepit-{self.name}-{spec.lane}"
        )
        self._newest = process
        if self._template is not None:
            process.in_no_hurry = in_no_hurry
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
        # Bounded: a signal handler may wait for the pool's end on top of a call that holds this.
        if self._life.acquire(timeout=NOTE_PATIENCE):
            self._life.notify_all()
            self._life.release()
        else:
            self.supervisor.after(NOTE_PATIENCE, self.note_ready)

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError; PoolShutdownError when the pool is closed, before or
        meanwhile.
        """
        self.start()
        with self._life:
            done = self._life.wait_for(
                lambda: (
                    self.broken is not None or self._closed or self.ready_workers() >= self.size
                ),
                timeout,
            )
        if self.broken is not None:
            raise self._why_broken()
        if self._closed:
            raise PoolShutdownError.of(self.name)
        if not done:
            raise TimeoutError(
                f"{self.ready_workers()} of {self.size} workers were ready after {timeout:g} s"
            )

    @property
    def template(self) -> Template | None:
        """What workers are forked from, unless a context starts them."""
        return self._template

    @property
    def start_timeout(self) -> float:
        """Seconds that a worker, and before it the template, has to get ready."""
        return self._config.start_timeout

    def ends_batch(self, started: int) -> bool:
        """Whether the first workers pause after the `started`th."""
        batch = self._config.startup_batch_size
        return bool(batch and started < self.size and started % batch == 0)

    @property
    def batch_delay(self) -> float:
        """Seconds between two batches of first workers."""
        return self._config.startup_batch_delay

    def _serving(self) -> list[Worker]:
        serves = self.roster.serves
        workers = list(self.supervisor.workers.values())
        return [worker for worker in workers if worker.ready and serves(worker.lane)]

    def ready_workers(self) -> int:
        """Return how many workers are ready for work; spares are not counted."""
        return len(self._serving())

    def worker_pids(self) -> list[int]:
        """Return the pids of the ready workers, without spares."""
        return [worker.pid for worker in self._serving()]

    def recycle(self, lane: int | None, wait: bool, timeout: float | None) -> None:
        """Replace a worker, or all (see `Executor.recycle_worker`)."""
        self.scheduler.refuse_in_child()
        if lane is not None and lane not in self.supervisor.workers:
            known = ", ".join(str(lane) for lane in sorted(self.supervisor.workers)) or "none"
            raise ValueError(f"pool {self.name!r} has no worker {lane!r}; its workers are: {known}")
        if not self._started:
            return
        errand = Errand(set())
        self.supervisor.tell(lambda: self.supervisor.recycler.recycle(lane, errand))
        if wait and not self._over and not errand.done.wait(timeout):
            raise TimeoutError(
                f"{len(errand.pids)} workers were not replaced within {timeout:g} s: "
                "each ends after the task that it runs, and a successor has to be ready"
            )

    def set_broken(self, error: PoolNotReadyError) -> None:
        """Give up: fail everything that is queued, and every later call, with `error`."""
        self.broken = error
        self.note_ready()
        for task in self.scheduler.withdraw_all():
            self.scheduler.fail_elsewhere(task, self._why_broken())

    def _why_broken(self) -> PoolNotReadyError:
        assert self.broken is not None
        # A copy for each: an exception that several threads raise collects all their tracebacks.
        error = PoolNotReadyError(str(self.broken), details=self.broken.details)
        error.__cause__ = self.broken.__cause__
        return error

    def add_map(self, running: Any) -> None:
        """Remember a map with items left to submit: closing the pool submits them first."""
        self._waiting_maps.add(running)

    @property
    def desk(self) -> SessionDesk:
        """The pool's sessions."""
        return self.asks.desk

    def watch(self) -> None:
        """Somebody waits for outcomes without asking futures for them."""
        self.scheduler.watch()

    def close(self, *, cancel_futures: bool = False, only_sized: bool = False) -> None:
        """Take no more calls; when those that were taken are done, the workers end.

        Returns at once. `only_sized`: of maps that nobody has asked for results, go on only with
        those whose sources tell their length. In a forked child, where the pool is not its
        own, this does nothing.
        """
        if self.scheduler.forked:
            return
        for running in self._waiting_maps:
            if cancel_futures:
                running.abandon()
            else:
                running.finish_reading(only_sized=only_sized)
        self.scheduler.close()
        if cancel_futures:
            # First, so that no attempt enters behind the back of what withdraws them.
            if self.calls is not None:
                self.calls.end()
            for task in self.scheduler.withdraw_all():
                task.mark_cancelled()
        with self._claim:
            self._closed = True
            started = self._begun
        if started:
            self.supervisor.tell(self.note_ready)
        else:
            self._discard()
            self.asks.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a closed pool is gone; False when it is not after `timeout` seconds."""
        if self.scheduler.forked:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.streams is not None:
            # What this thread has to read, it cannot read while it waits here.
            self.streams.abandon()
        for thread in self._own_threads():
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def _own_threads(self) -> Iterator[threading.Thread]:
        yield from self._threads
        # Asked for last, when nobody can start another.
        yield from self._callbacks.threads()

    def end_workers(self, sig: int) -> None:
        """Close the pool, cancel what is queued, end every worker by a signal: what runs fails."""
        if self.scheduler.forked:
            return
        self.close(cancel_futures=True)
        if self._started:
            if self._template is not None:
                self._template.abandon()
            reason = "kill_workers" if sig == signal.SIGKILL else "terminate_workers"
            self.supervisor.tell(lambda: self.supervisor.end_workers(sig, reason))

    def is_over(self) -> bool:
        """Whether the pool is closed and has nothing left to do."""
        return self._closed and not self.calls and self.scheduler.unsettled == 0

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
        self.asks.close()
        _running.discard(self)

    def _close_lifeline(self) -> None:
        if self._lifeline is not None:
            for fd in self._lifeline:
                os.close(fd)
            self._lifeline = None

    def _discard(self) -> None:
        self._close_lifeline()
        self.scheduler.control.close_descriptor()

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what would keep the owner's workers alive."""
        self._discard()
        # Else multiprocessing would try to join them when the child ends.
        children: set[Any] = multiprocessing.process._children  # type: ignore[attr-defined]
        ours = [worker.process for worker in self.supervisor.workers.values()]
        children.difference_update([*ours, self._newest])

    def lifecycle_stats(self) -> LifecycleStats:
        """Read who works, and what became of those who did."""
        return LifecycleStats.read(self.name, self.size, self.scheduler, self.supervisor)

    def stats(self) -> PoolStats:
        """Read the counters."""
        return PoolStats.read(
            self.scheduler, self.size, self.ready_workers(), self.supervisor, self.capacity
        )


_running: LivingSet[ProcessPool] = LivingSet()


def _after_fork_in_child() -> None:
    global _starting
    _starting = threading.RLock()
    for pool in _running.forget_in_child():
        pool.forget_after_fork()


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
            pool.end_workers(signal.SIGKILL)
        for pool in pools:
            pool.join()
