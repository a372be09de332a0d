"""A pool of worker processes: the compiled scheduler, and the two threads that serve it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit._core.channel import Channel
from snakepit._core.constants import CALL, MAX_LANES
from snakepit._core.control import create_control
from snakepit._core.definitions import Definitions
from snakepit._core.roster import Roster
from snakepit._core.scheduler import Scheduler
from snakepit._core.stopping import tasks_of_session
from snakepit.errors import ArenaFullError, EncodeError
from snakepit.lifecycle.deadlines import ProcessDeadlines, SweptDeadlines
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.health import HealthPolicy
from snakepit.lifecycle.launcher import ARENA_PATIENCE, Launcher
from snakepit.lifecycle.recycling import Errand, RecyclingPolicy
from snakepit.lifecycle.supervisor import Supervisor
from snakepit.lifecycle.worker import Worker
from snakepit.pool.affinity import Affinity
from snakepit.pool.asks import Asks
from snakepit.pool.callbacks import CallbackThread
from snakepit.pool.functions import FunctionRegistry
from snakepit.pool.futures import Future, StoppableFuture
from snakepit.pool.mail import MailRoom
from snakepit.pool.memory import own_arena
from snakepit.pool.nested import NestedTasks
from snakepit.pool.process_life import ProcessLife
from snakepit.pool.terms import Terms
from snakepit.pool.uses import SessionUses
from snakepit.resources import usable_cpus

if TYPE_CHECKING:
    from snakepit._core.definitions import Published
    from snakepit._core.view import CallView
    from snakepit.lifecycle.template import Template
    from snakepit.pool.attempts import GuardedCall
    from snakepit.pool.sessions import SessionDesk
    from snakepit.pool.stats import LifecycleStats, PoolStats
    from snakepit.pool.streams import ProcessStreams, Stream
    from snakepit.sessions.store import SessionStore

SLOTS = 1024
DEFINITIONS = 4096
SPIN_NS = 250_000  # three times what it takes to wake a sleeping core
START_TIMEOUT = 60.0  # seconds
LEAST_STARTING = 16  # workers that may start at the same time, however few CPUs there are


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
    adapter: str | None = None  # the name of what the hook and the initializer make
    threads: int = 0  # that run calls in each worker; 0: its main thread does, one at a time


def lanes_for(size: int, threads: int) -> int:
    """Return how many lanes a pool has: those of its workers, and of a few more.

    A replacement can then start before the old worker is gone.
    """
    lanes = threads * (size + max(2, size // 8))
    return min(lanes, MAX_LANES) if threads == 1 else lanes


class ProcessPool(ProcessLife):
    """Runs calls in `config.size` processes. Workers start with `start` or the first call."""

    def __init__(self, config: PoolConfig) -> None:
        super().__init__(config.name, config.size)
        self.threads = max(1, config.threads)  # lanes of one worker
        self.capacity = config.size * self.threads  # calls that run at once
        self.lanes = lanes_for(config.size, self.threads)
        self.streams: ProcessStreams | None = None  # made with the first
        self._config = config
        self.launcher = Launcher(self, config)
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
        self.scheduler = Scheduler(
            control,
            self._arena,
            channel,
            self._functions.importable,
            MailRoom(self).hear,
            self._on_idle,
        )
        self.affinity = Affinity(config.name, self.scheduler)
        self.asks = Asks(self, config.session_store)
        self.roster = Roster(control)
        self.graces = config.graces
        self.supervisor = Supervisor(self, config.recycling, config.health)
        self.uses = SessionUses(
            self.asks.desk,
            lambda key: self._is_under_way(key, tasks_of_session(self.scheduler, key)),
            self.supervisor.after,
        )
        self.max_queue_size = config.max_queue_size
        self.queue_timeout = config.queue_timeout
        self._deadlines = SweptDeadlines(self) if config.limited else ProcessDeadlines(self)
        self._callbacks = CallbackThread(f"snakepit-{self.name}-callbacks")
        self.scheduler.spare_all_threads(self._callbacks.add)

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
        view: CallView | None = None,
    ) -> Future[Any]:
        """Queue a call and return its future. Raises PoolShutdownError, PoolNotReadyError.

        `view`: in place of its terms, if they are plain. A call that cannot be encoded is returned
        with that error in its future.
        """
        if not self._started:
            self.start()
        if self.broken is not None:
            raise self._why_broken()
        if terms is not None and terms.guarded:
            return self._submit_guarded(terms, function, CALL, args, kwargs)
        future: Future[Any] = Future()
        try:
            if terms is None:
                if self.scheduler.submit_known(future, self, function, args, kwargs, view):
                    return future
                if view is not None:
                    terms = view._terms
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

    def function_of(self, definition: Published) -> Any:
        """Return the function that has a number, None when it is gone: for messages."""
        return self._functions.find(definition)

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
                from snakepit.pool.travel import unpicklable_item

                error = unpicklable_item(error, items, "argument")
            self.scheduler.fail(future, error)
            return future
        if terms.timeout is not None:
            self._deadlines.add(future, terms.timeout)
        return future

    def _set_terms(self, call: Future[Any], timeout: float | None, terms: Terms) -> None:
        self.scheduler.set_terms(call, timeout, terms.priority, terms.session, terms.affinity)

    def stream(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        terms: Terms | None = None,
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
        self.scheduler.refuse_in_child()
        call = self._make_guarded(terms, on_settled)
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
        return self._stop_session(session, tasks_of_session(self.scheduler, session))

    def forget_session(self, session: int) -> bool:
        """Let a strict session begin anew (see `Executor.forget_session`)."""
        return self.affinity.forget(session)

    # -- workers -----------------------------------------------------------------------------------

    @property
    def template(self) -> Template | None:
        """What workers are forked from, unless a context starts them."""
        return self.launcher.template

    @property
    def start_timeout(self) -> float:
        """Seconds that a worker, and before it the template, has to get ready."""
        return self._config.start_timeout

    def ends_batch(self, started: int) -> bool:
        """Whether the first workers pause after the `started`th."""
        batch = self._config.startup_batch_size
        return bool(batch and started < self.size and started % batch == 0)

    @property
    def most_starting(self) -> int:
        """How many workers may start at the same time.

        What they import competes for the CPUs, and each has `start_timeout`. Who has said how many
        start together, or has them forked while the first call holds still, has said it.
        """
        if self._config.startup_batch_size or self.launcher.forks:
            return self.lanes
        return max(LEAST_STARTING, 4 * usable_cpus())

    @property
    def batch_delay(self) -> float:
        """Seconds between two batches of first workers."""
        return self._config.startup_batch_delay

    def serving(self) -> list[Worker]:
        """Return the workers that are ready for work, without spares."""
        serves = self.roster.serves
        workers = list(self.supervisor.workers.values())
        return [worker for worker in workers if worker.ready and serves(worker.lane)]

    def worker_pids(self) -> list[int]:
        """Return the pids of the ready workers, without spares."""
        # As the lanes say it of themselves, one that has just been started included: results may
        # have come from there before the supervisor hears of it. Read in this order, since it
        # leaves `starting` for `workers`.
        serves, starting = self.roster.serves, self.supervisor.starting
        workers = {worker.lane: worker.pid for worker in list(self.supervisor.workers.values())}
        if starting is not None and starting not in workers:
            workers[starting] = self.roster.lane_info(starting)["pid"]
        return [pid for lane, pid in workers.items() if serves(lane)]

    def ready_workers(self) -> int:
        """Return how many workers are ready for work; spares are not counted."""
        return len(self.worker_pids())

    def unread_streams(self) -> int:
        """Return how many calls that run are streams that wait for their readers."""
        return 0 if self.streams is None else self.streams.rings.unread()

    def start_failures(self) -> tuple[int, str]:
        """Return how many starts of workers have failed so far, and why the last of them did."""
        return self.supervisor.failed_starts, self.supervisor.last_failure

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
        if not wait or self._over:
            return
        if not errand.done.wait(timeout):
            raise TimeoutError(
                f"{len(errand.pids)} workers were not replaced within {timeout:g} s: "
                "each ends after the task that it runs, and a successor has to be ready"
            )
        if errand.problem:
            left = len(errand.pids)
            raise errors.PoolNotReadyError(
                f"{left} workers of pool {self.name!r} were not replaced: {errand.failed_starts} "
                "starts of successors failed in a row, the last: "
                f"{errand.problem}; they go on, and the pool goes on trying",
                details={"pool": self.name, "left": left},
            )

    @property
    def desk(self) -> SessionDesk:
        """The pool's sessions."""
        return self.asks.desk

    def watch(self) -> None:
        """Somebody waits for outcomes without asking futures for them."""
        self.scheduler.watch()

    def lifecycle_stats(self) -> LifecycleStats:
        """Read who works, and what became of those who did."""
        from snakepit.pool.stats import LifecycleStats

        return LifecycleStats.read(self.name, self.size, self.roster, self.supervisor)

    def stats(self) -> PoolStats:
        """Read the counters."""
        from snakepit.pool.stats import PoolStats

        return PoolStats.read(
            self.scheduler, self.size, self.ready_workers(), self.supervisor, self.capacity
        )
