"""Pool: workers that each hold an adapter, and the tools of it that callers run there."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, Unpack

from snakepit import errors
from snakepit.adapters.adapter import Adapter, has_health, wrong_return
from snakepit.adapters.tools import (
    Tool,
    can_move_sessions,
    find_adapter,
    name_of_adapter,
    tools_of,
    unknown_tool,
)
from snakepit.errors import AdapterError, PoolShutdownError
from snakepit.lifecycle.fitness import Fitness, checked_health_interval
from snakepit.lifecycle.graces import Graces
from snakepit.options import checked_bytes, checked_environment, checked_seconds, checked_wait
from snakepit.pool.affinity import MODES, check_session, checked_affinity
from snakepit.pool.engine import WorkerOptions, check_options, checked_name, make_engine
from snakepit.pool.limits import HEARTBEAT_INTERVAL, checked_every, checked_limits, checked_span
from snakepit.pool.local import LocalPool
from snakepit.pool.mapping import start_map
from snakepit.pool.names import UNNAMED, names
from snakepit.pool.pool import ProcessPool
from snakepit.pool.shape import (
    PROFILES_OF_THREADS,
    check_no_processes,
    check_thread_safety,
    checked_batches,
    checked_shape,
)
from snakepit.pool.terms import (
    AffinityMode,
    CallTerms,
    Priority,
    StreamTerms,
    Terms,
    bounded_terms,
    checked_priority,
    checked_terms,
    session_key,
)
from snakepit.pool.toolcalls import (
    NO_NAMES,
    LocalCalls,
    PackedItems,
    Plan,
    ProcessCalls,
    adapter_spec,
    plans_of,
    usage_error,
)
from snakepit.pool.travel import refuse_to_travel

if TYPE_CHECKING:
    from snakepit.diagnostics import PoolReport
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.futures import Future
    from snakepit.pool.moving import Mover
    from snakepit.pool.retry import RetryPolicy
    from snakepit.pool.stats import LifecycleStats, PoolStats
    from snakepit.pool.streams import Stream
    from snakepit.sessions.session import Session
    from snakepit.sessions.store import SessionStore
    from snakepit.sessions.tools import HostTool

__all__ = ["Pool"]


class Pool:
    """Keeps an adapter alive in each of its workers, and runs its tools there.

    `adapter`: a subclass of `snakepit.Adapter`, or "package.module:Class". `name`: by which errors
    and metrics know the pool; of pools that run it is one's alone, but for "default". `profile`:
    "process", "thread" (processes of several threads), or "local": threads of this process, which
    share one instance. `pool_size`: worker processes, 1 to 1000; None: twice the usable CPUs.
    `threads_per_worker`: for the profiles "thread" and "local". `adapter_args`: keyword arguments
    of the adapter's constructor. `adapter_env`: environment variables of the workers, in force
    before the adapter's module is imported there.

    `timeout`, `stream_timeout`: seconds that a call or a stream has, its waiting included, then
    TaskTimeoutError; `queue_timeout`: seconds that it may wait for a worker, then
    QueueTimeoutError, and it never runs. None: as `timeout_profile` says, "balanced" by default
    (300, 900 and 10 s), the wait cut down to the time of the call where that is shorter; to ask for
    a longer wait than time is an error. math.inf: no limit. Profiles: balanced, production,
    production_strict, development, ml_inference, batch. `max_queue_size`: calls that may wait
    (1000), then PoolSaturatedError.

    `retry`, `breaker`: for each call, as in `Executor.options`. `affinity`: which worker calls of a
    session go to. `thread_safety`: what becomes of an adapter that several threads are to share and
    that does not declare `__thread_safe__ = True`: "warn" (once), "strict" (AdapterError) or None.
    `startup_batch_size`: processes that start at once, `startup_batch_delay_ms`: milliseconds until
    the next; None: 16, or four a CPU where that is more, the next as each is ready (all at once
    with `start_method="fork"`). `stop_grace.terminate` also bounds an adapter's `teardown`.
    `session_store`: a `snakepit.SessionStore`; None: one of its own, in memory. The other options
    are those of `Executor`.

    `snapshot_every`: where the adapter has `snapshot` and `restore`, after how many calls of a
    strict session it is saved (1), or text such as "30s"; None: only before its worker leaves and
    on request. `snapshot_memory_mb`: what all its snapshots may take here (1024; or text such as
    "2GiB"). `health_interval`: seconds between two looks at the health of idle workers, where the
    adapter has `health`; None: as `heartbeat_interval`; math.inf: never. `capacity_strategy`: how
    many calls a worker of several threads is given at once: "pool", "hybrid": one a thread;
    "profile": one, which may use the threads itself.

    `cancel()` of a pool's futures also stops a call that runs. The workers start with `start`,
    `with`, or the first call. Raises AdapterError, ValueError, TypeError; EncodeError for
    `adapter_args` that cannot be pickled for worker processes.
    """

    def __init__(
        self,
        adapter: type[Adapter] | str,
        *,
        name: str = UNNAMED,
        profile: Literal["process", "thread", "local"] = "process",
        pool_size: int | None = None,
        threads_per_worker: int | None = None,
        adapter_args: Mapping[str, Any] | None = None,
        adapter_env: Mapping[str, str] | None = None,
        timeout: float | str | None = None,
        stream_timeout: float | str | None = None,
        queue_timeout: float | str | None = None,
        max_queue_size: float | None = None,
        timeout_profile: str | None = None,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        affinity: AffinityMode = "hint",
        thread_safety: Literal["warn", "strict"] | None = "warn",
        startup_batch_size: int | None = None,
        startup_batch_delay_ms: float = 0.0,
        stop_grace: Graces | Mapping[str, float | str] | None = None,
        session_store: SessionStore | None = None,
        snapshot_every: int | str | None = 1,
        snapshot_memory_mb: float | str = 1024,
        health_interval: float | str | None = None,
        capacity_strategy: Literal["pool", "profile", "hybrid"] = "pool",
        **options: Unpack[WorkerOptions],
    ) -> None:
        check_options(options, Pool)
        self.name = checked_name(name)
        self.profile = profile
        self.adapter = find_adapter(adapter)
        self._limits = checked_limits(
            profile=timeout_profile,
            timeout=timeout,
            stream_timeout=stream_timeout,
            queue_timeout=queue_timeout,
            max_queue_size=max_queue_size,
        )
        self._affinity = checked_affinity(affinity)
        self._strict = affinity != "hint"
        terms = checked_terms(
            timeout=None,
            priority="normal",
            session=None,
            cancel_running=True,
            retry=retry,
            breaker=breaker,
            idempotent=False,
        )
        self._terms = replace(
            terms, timeout=self._limits.timeout, queue_timeout=self._limits.queue_timeout
        )
        self._patience_ns = int((self._limits.queue_timeout or 0) * 1e9)
        size, threads = checked_shape(profile, pool_size, threads_per_worker, capacity_strategy)
        shared = profile != "process" and threads > 1
        check_thread_safety(self.adapter, thread_safety, profile, shared=shared)
        graces = Graces.checked(stop_grace)
        local = profile == "local"
        if local:
            check_no_processes(
                **options,
                adapter_env=adapter_env,
                startup_batch_size=startup_batch_size,
                startup_batch_delay_ms=startup_batch_delay_ms,
                snapshot_every=snapshot_every,
                snapshot_memory_mb=snapshot_memory_mb,
                health_interval=health_interval,
            )
        spec = adapter_spec(
            self.adapter, adapter_args, local=local, shared=shared or local, grace=graces.terminate
        )
        spec = replace(spec, snapshot_every=checked_every(snapshot_every))
        most_bytes = checked_bytes("snapshot_memory_mb", snapshot_memory_mb, 10**6)
        moves = can_move_sessions(self.adapter) and not local
        heartbeats = options.get("heartbeat_interval", HEARTBEAT_INTERVAL)
        fitness = checked_health_interval(health_interval, heartbeats)
        self._calls = (
            LocalCalls(self.adapter, spec) if local else ProcessCalls(self.adapter, spec, moves)
        )
        limits: dict[str, Any] = {"max_queue_size": self._limits.max_queue_size or 0}
        if isinstance(self._calls, ProcessCalls):
            limits |= {
                "limited": True,
                "adapter": spec.name,
                "queue_timeout": self._limits.queue_timeout,
                **checked_batches(startup_batch_size, startup_batch_delay_ms),
            }
            # Whatever starts the workers: what cannot be pickled is named here.
            hook = self._calls.template_hook()
            if options.get("start_method") in (None, "template") and not options.get("mp_context"):
                limits["template_hook"] = hook
        self._engine: ProcessPool | LocalPool = make_engine(
            profile,
            size,
            name=name,
            graces=graces,
            initializer=self._calls.initializer,
            initargs=self._calls.initargs,
            env=checked_environment("adapter_env", adapter_env),
            session_store=session_store,
            limits=limits,
            **({"threads_per_worker": threads} if profile in PROFILES_OF_THREADS else {}),
            **options,
        )
        # What keeps the states of sessions that move, and what asks after the health of workers.
        self._mover = self._fitness = None
        if isinstance(self._engine, ProcessPool):
            if moves:
                from snakepit.pool.moving import Mover

                self._mover = Mover(self._engine, spec.name, most_bytes)
            if fitness is not None and has_health(self.adapter):
                self._fitness = Fitness(self._engine, fitness)
        self._all_plans = plans_of(self.adapter, self._terms, self._limits.stream_timeout)
        # Empty until the start, so that the first call finds no plan, and starts the pool.
        self._plans: dict[str, Plan] = {}
        self._started = False
        self._life = threading.RLock()  # a signal handler may start or stop the pool
        self._stopped = False
        self._use_session = self._engine.uses.use
        # Dropped without `stop`, the pool still ends once its calls are done.
        self._finalizer = weakref.finalize(self, self._engine.close)
        self._finalizer.atexit = False

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the workers, unless they run; returns at once.

        Under the profile "local" the adapter is made here. Raises PoolNotReadyError when that
        fails, PoolExistsError while another pool runs under the `name` that this one was given,
        PoolShutdownError after `stop`.
        """
        with self._life:
            if self._stopped:
                raise PoolShutdownError(
                    f"pool {self.name!r} was stopped; make another", details={"pool": self.name}
                )
            if not self._started:
                names.claim(self.name, self._takes_calls)
                try:
                    self._begin()
                except BaseException:
                    names.release(self.name, self._takes_calls)
                    raise
                self._started = True
                self._plans = self._all_plans
        return self

    def _begin(self) -> None:
        try:
            self._calls.start(self._engine, self._all_plans.values())  # type: ignore[arg-type]
        except AdapterError as error:
            raise errors.PoolNotReadyError(
                f"pool {self.name!r} cannot start: {error}",
                details={**error.details, "pool": self.name},
            ) from error
        self._engine.start()
        if self._fitness is not None:
            self._fitness.begin()

    def _takes_calls(self) -> bool:
        return not self._stopped and self._engine.broken is None

    def await_ready(self, timeout: float | str | None = 15.0) -> None:
        """Start the workers and wait until all of them can take calls (`Executor.wait_ready`).

        Raises PoolNotReadyError when the pool is broken, or three starts of workers fail meanwhile,
        and ReadyTimeoutError after `timeout`: seconds, or "30s"; None: waits for ever.
        """
        seconds = checked_wait("timeout", timeout)
        self.start()
        self._engine.await_ready(seconds)

    def stop(self, wait: bool = True, *, cancel_calls: bool = False) -> None:
        """Take no more calls; end the workers when those that were taken are done.

        `wait`: return only then. `cancel_calls`: cancel what waits, and stop what runs, as by
        `Future.stop`. Workers run their adapter's `teardown` either way, unless they have to be
        ended by force.
        """
        self._note_stop()
        if cancel_calls:
            self._engine.give_up()
        else:
            self._engine.close()
        if wait:
            self._engine.join()
            self._calls.end()

    def terminate_workers(self) -> None:
        """End all workers by SIGTERM, after a grace time (`stop_grace`) by SIGKILL.

        Returns at once; `stop` waits for their end. No `teardown` and no `finally` runs there.
        Running calls fail, queued ones are cancelled, and the pool takes no more. Threads cannot be
        ended by force: their calls are stopped as by `Future.stop`.
        """
        self._note_stop()
        self._engine.end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """End all workers by SIGKILL, without teardown (see `terminate_workers`).

        Threads cannot be killed: they are interrupted, and left behind at once.
        """
        self._note_stop()
        self._engine.end_workers(signal.SIGKILL)

    def _note_stop(self) -> None:
        with self._life:
            self._stopped = True
        self._finalizer.detach()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Who pressed Ctrl-C does not want to wait for what is queued, nor for what runs.
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            self.stop(cancel_calls=interrupted)
        except KeyboardInterrupt:
            from snakepit.pool.endings import end_interrupted

            end_interrupted([self._engine], again=interrupted)
            self.stop()
            # Of two, the first goes on through the caller's frames.
            if not interrupted:
                raise

    # -- calls -------------------------------------------------------------------------------------

    def execute(
        self,
        tool: str,
        args: Mapping[str, Any] = NO_NAMES,
        *,
        timeout: float | str | None = None,
        session: str | None = None,
        affinity: AffinityMode | None = None,
        priority: Priority | None = None,
    ) -> Any:
        """Run a tool in a worker and return its value, or raise what it raised.

        `args`: its arguments by name. `timeout`: seconds for waiting and running together (None:
        the tool's, else the pool's; math.inf: any time), then TaskTimeoutError. `session`: calls of
        one session go to the worker that ran it last, as `affinity` (None: the pool's) says; it is
        made when it is new, and its time to live begins anew. `priority`: of what waits, higher
        goes first.

        Raises, before a worker is taken: ToolNotFoundError, ToolArgumentError, PoolSaturatedError,
        PoolShutdownError, PoolNotReadyError, SessionQuotaError; ValueError for an empty `session`,
        and for a strict `affinity` without one. QueueTimeoutError when no worker was free in time.
        """
        return self._submit(tool, args, timeout, session, affinity, priority).result()

    def submit(
        self,
        tool: str,
        args: Mapping[str, Any] = NO_NAMES,
        *,
        timeout: float | str | None = None,
        session: str | None = None,
        affinity: AffinityMode | None = None,
        priority: Priority | None = None,
    ) -> Future[Any]:
        """Queue a call of a tool and return its future (see `execute`).

        Its `cancel()` also stops the call while it runs.
        """
        return self._submit(tool, args, timeout, session, affinity, priority)

    def execute_program_command(
        self,
        session_id: str,
        command: str,
        args: Mapping[str, Any] = NO_NAMES,
        *,
        timeout: float | str | None = None,
        affinity: AffinityMode | None = None,
        priority: Priority | None = None,
    ) -> Any:
        """Run a tool in a session, which keeps the programs that it makes; return its value.

        "create_program": what the tool returns is kept in the session under its "program_id", or
        that of `args`, in place of one of the same name. "execute_program": the program of
        `args["program_id"]`, of the session or else a global one, is given to the tool as its
        argument `program`, and "program_id" if it takes that. Any other tool runs as by `execute`,
        whose terms these are.

        Raises ToolNotFoundError, AdapterError when a tool is not made for this,
        ProgramNotFoundError, and what `execute` raises.
        """
        from snakepit.pool.programs import run_command

        terms = {"timeout": timeout, "affinity": affinity, "priority": priority}
        return run_command(self, session_id, command, args, terms)

    def _submit(
        self, tool: str, args: Any, timeout: Any, session: Any, affinity: Any, priority: Any
    ) -> Future[Any]:
        plan = self._plans.get(tool)
        if plan is None:
            plan = self._plan(tool)
        values = plan.bind(args) if type(args) is dict else None
        if values is None:
            values, named = (), plan.named(args)
        else:
            named = NO_NAMES
        number = plan.number
        if (
            number is None
            or affinity is not None
            or priority is not None
            or plan.streaming
            or (self._strict and session is not None)
        ):
            return self._submit_otherwise(plan, values, named, timeout, session, affinity, priority)
        timeout_ns = plan.timeout_ns
        if timeout is not None:
            timeout_ns = int((checked_span("timeout", timeout, None) or 0) * 1e9)
        return self._engine.submit_numbered(  # type: ignore[union-attr]
            number, values, named, timeout_ns, self._patience_ns, 1,
            0 if session is None else self._use_session(session),
        )  # fmt: skip

    def _submit_otherwise(
        self, plan: Plan, values: tuple[Any, ...], named: dict[str, Any],
        timeout: Any, session: Any, affinity: Any, priority: Any,
    ) -> Future[Any]:  # fmt: skip
        """Queue a call that is under terms of its own, or of several attempts, or in threads."""
        if plan.streaming:
            raise usage_error(plan.name, "streams; read it by stream(), not execute()")
        terms = self._terms_of(plan, values, named, timeout, session, affinity, priority)
        target = plan.moving if terms.affinity else plan.target
        return self._engine.submit(target, values, named, terms)

    def _terms_of(
        self, plan: Plan, values: tuple[Any, ...], named: dict[str, Any],
        timeout: Any, session: Any, affinity: Any, priority: Any,
    ) -> Terms:  # fmt: skip
        terms = plan.terms
        changes: dict[str, Any] = {}
        chosen = self._affinity if affinity is None else checked_affinity(affinity)
        if timeout is not None:
            changes["timeout"] = checked_span("timeout", timeout, None)
        elif plan.asks_timeout:
            arguments = {**plan.signature.by_name(values), **named}
            asked = self.adapter.command_timeout(plan.name, arguments)
            if asked is not None:
                changes["timeout"] = self._checked_timeout(plan, asked)
        if session is not None:
            if chosen == "hint":
                changes["session"] = self._use_session(session)
            else:
                changes["session"] = self._engine.uses.use_strictly(session)[0]
                changes["affinity"] = MODES[chosen]
        elif affinity is not None:
            check_session(affinity, session)
        if priority is not None:
            changes["priority"] = checked_priority(priority)
        return replace(terms, **changes) if changes else terms

    def _checked_timeout(self, plan: Plan, asked: Any) -> float | None:
        try:
            return checked_span("command_timeout", asked, None)
        except (TypeError, ValueError):
            wanted = 'seconds above 0, text such as "90s", or None'
            name = name_of_adapter(self.adapter)
            raise wrong_return(name, "command_timeout", wanted, asked, tool=plan.name) from None

    def _plan(self, tool: Any) -> Plan:
        """Return the plan of a tool that is not among the known; the pool may have to start."""
        if not isinstance(tool, str) or tool not in self._all_plans:
            raise unknown_tool(self.adapter, tool)
        self.start()
        return self._plans[tool]

    def stream(
        self,
        tool: str,
        args: Mapping[str, Any] = NO_NAMES,
        *,
        timeout: float | str | None = None,
        session: str | None = None,
        affinity: AffinityMode | None = None,
        priority: Priority | None = None,
        max_chunks: int | None = None,
        max_bytes: float | str | None = None,
    ) -> Stream[Any]:
        """Run a streaming tool; return an iterator of its chunks, also for `async for`.

        Leaving it, or its `close()`, ends the generator in the worker. `timeout`: seconds for the
        whole stream (None: the tool's, else the pool's `stream_timeout`). `max_chunks`,
        `max_bytes`: what may be under way before the generator is made to wait, by default 100
        chunks or 16 MiB.
        """
        plan = self._plans.get(tool) or self._plan(tool)
        if not plan.streaming:
            raise usage_error(plan.name, "returns one value; call it by execute(), not stream()")
        values = plan.bind(args) if type(args) is dict else None
        named = NO_NAMES
        if values is None:
            values, named = (), plan.named(args)
        terms = self._terms_of(plan, values, named, timeout, session, affinity, priority)
        terms = bounded_terms(terms, max_chunks, max_bytes)
        target = plan.moving if terms.affinity else plan.target
        return self._engine.stream(target, values, named, terms)

    def map(
        self,
        tool: str,
        items: Iterable[Mapping[str, Any]],
        *,
        timeout: float | str | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Call a tool with each of the arguments (dicts); return an iterator of the values.

        `timeout`: seconds for each call; without one, calls travel several at a time and have any
        time. The other options are those of `Executor.map`. Its parts may wait however many calls
        wait already: what is under way is bounded by the buffer.
        """
        plan = self._plans.get(tool) or self._plan(tool)
        if plan.streaming:
            raise usage_error(plan.name, "streams; read it by stream(), not map()")
        span = checked_span("timeout", timeout, None)
        terms = replace(plan.terms, timeout=span, queue_timeout=None, idempotent=False)
        return start_map(
            self._engine,
            terms,
            plan.packed,
            (PackedItems(plan, items),),
            None,
            chunksize,
            buffersize,
            ordered=ordered,
            progress=progress,
        )

    async def aexecute(
        self, tool: str, args: Mapping[str, Any] = NO_NAMES, **terms: Unpack[CallTerms]
    ) -> Any:
        """Run a tool and await its value (see `execute`); no thread waits for it meanwhile.

        Cancelled, it cancels the call, also while that runs.
        """
        import asyncio

        return await asyncio.wrap_future(self.submit(tool, args, **terms))

    def astream(
        self, tool: str, args: Mapping[str, Any] = NO_NAMES, **terms: Unpack[StreamTerms]
    ) -> Stream[Any]:
        """Run a streaming tool; return its chunks for `async for` (see `stream`).

        `async with`, or `contextlib.aclosing`, says when it is closed, also where something else
        still holds it.
        """
        return self.stream(tool, args, **terms)

    def cancel(self, *, session: str) -> int:
        """Stop all calls of a session, queued and running; return how many there were."""
        return self._engine.cancel_session(session_key(session))

    # -- sessions ----------------------------------------------------------------------------------

    @property
    def session_store(self) -> SessionStore:
        """The store of this pool's sessions; one of its own is made when first asked for."""
        return self._engine.desk.store

    def session(self, session_id: str) -> Session:
        """Return the owner's side of a session, made when it is new.

        Raises SessionQuotaError when the store is full, PoolShutdownError after `stop`.
        """
        return self._engine.desk.owned(session_id)

    def forget_session(self, session_id: str) -> bool:
        """Forget which worker a session is strictly bound to (see `Executor.forget_session`).

        What was saved of it for another worker is dropped.
        """
        return self._engine.forget_session(session_key(session_id))

    def snapshot_session(self, session_id: str, *, timeout: float = 30.0) -> int:
        """Have a strict session saved now, after its calls that are queued; return the bytes.

        It can go on from there in another worker. Raises AdapterError when `snapshot` fails,
        SessionNotFoundError, TaskTimeoutError, ValueError where sessions do not move.
        """
        seconds = checked_seconds("timeout", timeout)
        return self._mover_or_raise().snapshot(session_id, session_key(session_id), seconds)

    def move_session(
        self, session_id: str, worker_id: int | None = None, *, timeout: float = 30.0
    ) -> int:
        """Move a strict session to another worker (`id` in `list_workers`); return its id.

        None: to the one with least to do. Calls that are queued end where it is; later ones run
        where it goes, in the state that the former left. Raises AdapterError when `snapshot` fails,
        and it stays; SessionNotFoundError, SessionWorkerUnavailableError, WorkerBusyError,
        TimeoutError, ValueError where sessions do not move.
        """
        seconds = checked_seconds("timeout", timeout)
        key = session_key(session_id)
        return self._mover_or_raise().move(session_id, key, worker_id, seconds)

    def _mover_or_raise(self) -> Mover:
        if self._mover is not None:
            return self._mover
        if self.profile == "local":
            why = "with profile='local' there is one process, in which they all are"
        else:
            why = f"{self.adapter.__qualname__} has no snapshot() and restore()"
        raise ValueError(f"the sessions of pool {self.name!r} do not move: {why}")

    def register_tool(
        self,
        session_id: str,
        name: str,
        function: Callable[..., Any],
        description: str = "",
        parameters: Any = None,
        *,
        exposed: bool = True,
    ) -> HostTool:
        """Let tools that run in a session call a function of this process.

        It ends with the session (see `Executor.register_tool`).
        """
        return self.session(session_id).register_tool(
            name, function, description, parameters, exposed
        )

    # -- looking, and changing workers -------------------------------------------------------------

    def tools(self) -> dict[str, Tool]:
        """Return what callers may run, by name."""
        return dict(tools_of(self.adapter))

    def get_stats(self) -> dict[str, Any]:
        """Return what the pool saw so far, as plain values (see `snakepit.PoolStats`)."""
        lifecycle = self._engine.lifecycle_stats()
        mover = self._mover
        return {
            "pool": self.name,
            "profile": self.profile,
            "adapter": name_of_adapter(self.adapter),
            **asdict(self._engine.stats()),
            "max_queue_size": self._limits.max_queue_size,
            "recycled": lifecycle.recycled,
            "health_check_failed": lifecycle.health_check_failed,
            "sessions_moved": 0 if mover is None else mover.moved,
            "snapshot_bytes": 0 if mover is None else mover.bytes,
        }

    def list_workers(self) -> list[dict[str, Any]]:
        """Return the worker processes, as plain values; none under the profile "local"."""
        return [asdict(worker) for worker in self._engine.lifecycle_stats().workers]

    def stats(self) -> PoolStats:
        """Return what the pool saw so far; `get_stats` has it as plain values, and more."""
        return self._engine.stats()

    def lifecycle_stats(self) -> LifecycleStats:
        """Return who works in the pool now, and what became of earlier workers.

        Under the profile "local" no worker is listed, and all counts are 0.
        """
        return self._engine.lifecycle_stats()

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that are ready; an empty list for profile "local"."""
        return self._engine.worker_pids()

    def dump(self, *, stacks: bool = True, timeout: float = 2.0) -> PoolReport:
        """Return where every worker is, with the Python stack of its task (see `Executor.dump`).

        `timeout`: seconds that all workers together have to show their stacks.
        """
        from snakepit.diagnostics import dump_pool

        return dump_pool(self._engine, stacks=stacks, timeout=timeout)

    def recycle_worker(
        self,
        worker_id: int | None = None,
        *,
        wait: bool = True,
        timeout: float | str | None = None,
    ) -> None:
        """Replace one worker (`id` in `list_workers`), or all (see `Executor.recycle_worker`)."""
        if timeout is not None:
            timeout = checked_seconds("timeout", timeout)
        self._engine.recycle(worker_id, wait, timeout)

    def check_health(self, timeout: float = 5.0) -> dict[int, bool | None]:
        """Ask each worker's adapter whether it is fit; return the answers by the workers' ids.

        One that is not is replaced, after the call that it may run. None: it did not say so within
        `timeout` seconds, for it is busy with a call. Under the profile "local" the one instance
        answers, as number 0, and cannot be replaced.
        """
        self.start()
        if isinstance(self._calls, LocalCalls):
            assert self._calls.host is not None
            return {0: self._calls.host.check_health()[1]}
        from snakepit.pool.fitness import ask_workers

        return ask_workers(self._engine, checked_seconds("timeout", timeout))  # type: ignore[arg-type]

    def __reduce__(self) -> NoReturn:
        refuse_to_travel("a Pool", self.name)

    def __repr__(self) -> str:
        stats = self._engine.stats()
        return (
            f"<snakepit.Pool {self.name!r} of {name_of_adapter(self.adapter)}: "
            f"{stats.ready} of {stats.workers} workers ready, {stats.busy} busy, "
            f"{stats.queued} queued, {stats.completed + stats.failed} done>"
        )
