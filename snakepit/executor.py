"""Executor: the `concurrent.futures` face of a pool."""

from __future__ import annotations

import concurrent.futures
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar

from snakepit.options import checked_seconds, checked_wait, with_hints

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext
    from types import TracebackType

    from snakepit.diagnostics import PoolReport
    from snakepit.lifecycle.graces import Graces
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool
    from snakepit.pool.pool import ProcessPool
    from snakepit.pool.retry import RetryPolicy
    from snakepit.pool.stats import LifecycleStats, PoolStats
    from snakepit.pool.streams import Stream
    from snakepit.sessions.session import Session
    from snakepit.sessions.store import SessionStore
    from snakepit.sessions.tools import HostTool
    from snakepit.view import PoolView

__all__ = ["Executor"]

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Runs calls in a pool of warm workers; takes the place of ProcessPoolExecutor.

    `max_workers`: number of workers, 1 to 1000; None: the CPUs that this process may use.
    `profile`: "process": each worker is a process that runs one call at a time; "thread": each is a
    process of `threads_per_worker` threads (by default 10) that runs as many at once, for
    free-threaded Python and for calls that release the GIL; "local": threads of this process.
    `start_method`: "template" (the default on Linux: forked from a clean process that imported
    `preload`), "forkserver", "spawn" or "fork"; `mp_context`, a multiprocessing context, decides it
    instead.
    `initializer(*initargs)` runs in each worker before its first call; if it raises while no worker
    is ready, the pool is broken and says why; else the start is tried again later.
    `max_tasks_per_child`: calls (or chunks of map) that a worker runs at most; None: no limit.
    `worker_ttl` (seconds, or text such as "1h"), `worker_max_requests` (calls or chunks) and
    `memory_threshold_mb` (megabytes of the worker's own memory, or text such as "2GiB"): age, work
    and size at which a worker is replaced, after the call that it runs and once a successor is
    ready; None: never.
    `heartbeat_interval`: seconds between two looks at the workers' health, None for no looks;
    `heartbeat_timeout`: seconds and `max_missed`: looks without a sign of life after which a worker
    that should have taken a call, or whose process is stopped, is replaced. A long call is none.
    Given both, so many looks must fit into that time; given either, there must be looks.
    `preload`: names of modules to import once in the template. `env`: environment variables of the
    workers, in force before they import anything of the program's.
    `blas_threads`: threads of BLAS and OpenMP libraries in each worker, in force before anything is
    imported; "share": the usable CPUs divided among the workers; None: 1, and with profile "thread"
    "share". Variables that `env` or the environment sets win.
    `start_timeout`: seconds, or text, that a worker has to start, its initializer included, and
    before that the template to import what is preloaded; what takes longer is killed and counts as
    a failed start; by default 60. Three failed starts in a row break the pool.
    `inline_threshold`: bytes up to which a message goes inline; larger ones go by shared memory.
    `cancel_running`: `cancel()` of a future also stops a call that runs (`options` can say
    otherwise). `stop_grace`: what a call that is stopped, or late, is given before it is made to
    end: `snakepit.Graces` or a dict of its fields, in seconds or text such as "500ms".
    `session_store`: the SessionStore that keeps its sessions; None: one of its own, made when it is
    needed and gone with the pool.

    With profile "local" an option that is for processes must be left out, at its default, or empty.

    The workers start at the first call (or at `wait_ready`). A worker that dies fails the call that
    ran on it (of profile "thread": every call that did), with WorkerCrashedError, and is replaced.
    Raises ValueError and TypeError for arguments that make no sense.
    """

    @with_hints
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        profile: Literal["process", "thread", "local"] = "process",
        threads_per_worker: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        worker_ttl: float | str | None = None,
        worker_max_requests: int | None = None,
        memory_threshold_mb: float | str | None = None,
        heartbeat_interval: float | str | None = 1.0,
        heartbeat_timeout: float | str = 10.0,
        max_missed: int = 3,
        start_method: Literal["template", "forkserver", "spawn", "fork"] | None = None,
        preload: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        inline_threshold: int = 10_240,
        start_timeout: float | str | None = None,
        cancel_running: bool = False,
        stop_grace: Graces | Mapping[str, float | str] | None = None,
        name: str = "default",
        blas_threads: int | Literal["share"] | None = None,
        session_store: SessionStore | None = None,
    ) -> None:
        # With the first executor: multiprocessing and the compiled core take their time.
        from snakepit.lifecycle.graces import Graces
        from snakepit.pool.engine import checked_size, make_engine
        from snakepit.pool.terms import Terms

        size = checked_size(max_workers)
        self._pool: ProcessPool | LocalPool = make_engine(
            profile,
            size,
            name=name,
            graces=Graces.checked(stop_grace),
            mp_context=mp_context,
            start_method=start_method,
            initializer=initializer,
            initargs=initargs,
            max_tasks_per_child=max_tasks_per_child,
            worker_ttl=worker_ttl,
            worker_max_requests=worker_max_requests,
            memory_threshold_mb=memory_threshold_mb,
            heartbeat_interval=heartbeat_interval,
            heartbeat_timeout=heartbeat_timeout,
            max_missed=max_missed,
            preload=preload,
            env=env,
            inline_threshold=inline_threshold,
            start_timeout=start_timeout,
            blas_threads=blas_threads,
            session_store=session_store,
            threads_per_worker=threads_per_worker,
        )
        self._max_workers = size
        self._terms = Terms(cancel_running=cancel_running)
        # Plain calls take the shortest way, which carries no terms.
        self._submit_terms = self._terms if cancel_running else None
        # Dropped without shutdown, the pool still ends once its calls are done.
        self._finalizer = weakref.finalize(self, self._pool.close)
        self._finalizer.atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue the call `fn(*args, **kwargs)` and return its future.

        What cannot be pickled is the future's error, EncodeError. Raises PoolShutdownError (a
        RuntimeError) after `shutdown` and PoolNotReadyError when the initializer failed.
        """
        return self._pool.submit(fn, args, kwargs, self._submit_terms)

    @with_hints
    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | str | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables; return an iterator of the results.

        Several iterables are read in step, as `zip` takes them.
        The iterables are read as the results are consumed, never further ahead than the buffer:
        `buffersize` items, by default two chunks a worker and two. `chunksize`: items a message, by
        default chosen by what the calls cost.
        `timeout`: seconds from now, or text such as "5s", within which each result must come, else
        TimeoutError.
        `ordered=False` yields results as they come. `progress=True` shows a bar on stderr (needs
        the extra `progress`). What a call raised is raised in its place and ends the iteration.
        Dropped unread, the iterator lets all calls run.
        """
        from snakepit.pool.mapping import start_map

        return start_map(
            self._pool,
            self._terms,
            fn,
            iterables,
            timeout,
            chunksize,
            buffersize,
            ordered=ordered,
            progress=progress,
        )

    def stream(
        self, fn: Callable[P, Iterable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]:
        """Queue the call `fn(*args, **kwargs)` and return the stream of the chunks that it yields.

        `fn`: a generator function, or one that returns an iterable. The chunks arrive as they are
        yielded (see `snakepit.Stream`); an error of the call is raised after them. What cannot be
        pickled is such an error, EncodeError. `options(timeout=…)` is for the whole stream.
        Raises PoolShutdownError, PoolNotReadyError, ArenaFullError, and for async functions
        TypeError.
        """
        return self._pool.stream(fn, args, kwargs, self._submit_terms)

    @with_hints
    def options(
        self,
        *,
        timeout: float | str | None = None,
        priority: Literal["high", "normal", "low"] = "normal",
        session: str | None = None,
        cancel_running: bool | None = None,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        idempotent: bool = False,
        affinity: Literal["hint", "strict_queue", "strict_fail_fast"] = "hint",
        max_chunks: int | None = None,
        max_bytes: float | str | None = None,
    ) -> PoolView:
        """Return a view of this executor whose calls carry these terms.

        `timeout`: seconds, or text such as "90s", for queueing, running and answering together,
        then TaskTimeoutError, and a worker that still runs the call is replaced. `priority`: of
        what is queued, higher goes first. `session`: calls of one session go to the worker that ran
        it last, if it is free.
        `affinity`: how closely they keep to it. "hint": as above. "strict_queue": they run there
        and nowhere else, and wait for it; "strict_fail_fast": WorkerBusyError if it is busy.
        The first strict call of a session goes to whichever worker is free. When that worker dies
        or is replaced, strict calls of the session, those that wait included, fail with
        SessionWorkerUnavailableError until `forget_session`. They make their session in the store,
        with whose end the worker is forgotten. With profile "local", the worker is
        this process: any thread serves.
        `cancel_running`: `cancel()` also stops a call that runs; None: as the executor has it.

        `retry`: a call that raises is tried again as this policy says, with the arguments that it
        was submitted with; `timeout` is for all attempts together. `breaker`: calls that it refuses
        fail with CircuitOpenError; it hears how each attempt ends. `idempotent`: to run the call
        twice does no harm, so that it is tried once more, in another worker, when its worker dies.
        With `retry`, `breaker` or `timeout`, `map` sends its items one by one.

        `max_chunks` and `max_bytes`: how much of a stream may be on its way before its worker has
        to wait for the reader; by default 100 chunks and 16 MiB (bytes, or text such as "1MiB"). A
        chunk that is larger goes alone. In a pool of threads, where nothing travels, chunks count
        alone.
        Raises ValueError and TypeError for terms that make no sense.
        """
        from snakepit.pool.terms import checked_terms
        from snakepit.view import PoolView

        terms = checked_terms(
            timeout=timeout,
            priority=priority,
            session=session,
            cancel_running=self._terms.cancel_running if cancel_running is None else cancel_running,
            retry=retry,
            breaker=breaker,
            idempotent=idempotent,
            affinity=affinity,
            max_chunks=max_chunks,
            max_bytes=max_bytes,
        )
        return PoolView(self._pool, terms, self)

    def forget_session(self, session: str) -> bool:
        """Forget which worker a session is strictly bound to: its next call begins it anew.

        To begin one again whose worker was lost; of sessions that end in the store it is forgotten
        by itself. What is queued for that worker still runs there.
        False when there is nothing to forget. Raises TypeError.
        """
        from snakepit.pool.terms import session_key

        return self._pool.forget_session(session_key(session))

    def session(self, session_id: str) -> Session:
        """Return a session of the pool, made when it is new: the owner's side of it.

        Raises SessionQuotaError when the store is full, PoolShutdownError after the pool's end.
        """
        return self._pool.desk.owned(session_id)

    @property
    def session_store(self) -> SessionStore:
        """The store that keeps the pool's sessions."""
        return self._pool.desk.store

    def register_tool(
        self,
        session_id: str,
        name: str,
        function: Callable[..., Any],
        description: str = "",
        parameters: Any = None,
        exposed: bool = True,
    ) -> HostTool:
        """Let the calls of a session call a function of this process; return the tool.

        In a worker it is `snakepit.current_session().tools[name]`. It runs here, in a thread of the
        pool's, several at once if several calls ask, and may use this pool. It ends with the
        session, and takes the place of one of the same name. `description` and `parameters` are for
        whoever looks at `tools`; `exposed=False`: workers neither see nor call it.
        """
        return self.session(session_id).register_tool(
            name, function, description, parameters, exposed
        )

    def cancel(self, *, session: str) -> int:
        """Stop all calls of a session, and return how many there were to stop.

        Those that are queued are cancelled at once; those that run are stopped as by
        `Future.stop`.
        """
        from snakepit.pool.terms import session_key

        return self._pool.cancel_session(session_key(session))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when those that were taken are done.

        `wait`: return only then. `cancel_futures`: cancel what has not started.
        """
        self._finalizer.detach()
        self._pool.close(cancel_futures=cancel_futures)
        if wait:
            self._pool.join()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        try:
            if interrupted:
                # Who pressed Ctrl-C does not want to wait for what is queued, nor for what runs.
                self._pool.give_up()
            elif kind is not None:
                # A source of `map` that nobody reads from yet may be endless; a block that has
                # failed wants no results of it.
                self._pool.close(only_sized=True)
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            from snakepit.pool.endings import end_interrupted

            end_interrupted([self._pool], again=interrupted)
            # Of two, the first goes on through the caller's frames.
            if not interrupted:
                raise
        return None

    def terminate_workers(self) -> None:
        """End all workers by SIGTERM, after a grace time (`stop_grace`) by SIGKILL.

        Running calls fail, queued ones are cancelled. Threads cannot be ended by force: their
        calls are stopped as by `Future.stop`.
        """
        self._finalizer.detach()
        self._pool.end_workers(signal.SIGTERM)

    def kill_workers(self) -> None:
        """End all workers by SIGKILL. Running calls fail, queued ones are cancelled.

        Threads cannot be killed: they are interrupted, and left behind at once.
        """
        self._finalizer.detach()
        self._pool.end_workers(signal.SIGKILL)

    def wait_ready(self, timeout: float | str | None = None) -> None:
        """Start the workers and wait until all are ready.

        `timeout`: seconds, or text such as "30s"; None: for ever. Raises PoolNotReadyError when the
        executor is broken, or three starts of workers fail meanwhile, ReadyTimeoutError after
        `timeout`, and PoolShutdownError when the executor is shut down.
        """
        self._pool.await_ready(checked_wait("timeout", timeout))

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers that are ready; an empty list for profile "local"."""
        return self._pool.worker_pids()

    def recycle_worker(
        self, worker_id: int | None = None, *, wait: bool = True, timeout: float | None = None
    ) -> None:
        """Replace one worker (`id` in `lifecycle_stats`), or all, one after the other.

        Each ends after the call that it runs and once a successor is ready: no call is lost, and no
        capacity. `wait`: return only when they are gone; `timeout`: seconds to wait for that, then
        TimeoutError, and the replacement goes on. Raises ValueError when there is no such worker,
        and with profile "local"; PoolNotReadyError when three starts of successors fail in a row
        meanwhile, and then, too, the replacement goes on.
        """
        if timeout is not None:
            timeout = checked_seconds("timeout", timeout)
        self._pool.recycle(worker_id, wait, timeout)

    def lifecycle_stats(self) -> LifecycleStats:
        """Return who works in the pool now, and what became of earlier workers."""
        return self._pool.lifecycle_stats()

    def stats(self) -> PoolStats:
        """Return what the pool saw so far."""
        return self._pool.stats()

    def dump(self, *, stacks: bool = True, timeout: float = 2.0) -> PoolReport:
        """Return where every worker is: its state, its task, and the task's Python stack.

        `str()` of it is the text that `snakepit dump` prints. A worker is neither interrupted nor
        waited for: one that does not show its stack within `timeout` seconds, which all share, is
        reported with the reason. `stacks=False`: without Python stacks.
        """
        from snakepit.diagnostics import dump_pool

        return dump_pool(self._pool, stacks=stacks, timeout=timeout)

    def __reduce__(self) -> NoReturn:
        from snakepit.pool.travel import refuse_to_travel

        refuse_to_travel("an Executor", self._pool.name)

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<snakepit.Executor {self._pool.name!r}: "
            f"{stats.ready} of {stats.workers} workers ready, {stats.busy} busy, "
            f"{stats.queued} queued, {stats.completed + stats.failed} done>"
        )


def _at_exit() -> None:
    # Where it is not loaded, there is no pool.
    endings = sys.modules.get("snakepit.pool.endings")
    if endings is not None and hasattr(endings, "end_all"):
        endings.end_all()


# Before threads are joined. Here, because a thread that makes the first pool may come too late for
# that: then this is registered, and the module has hooks of its own.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
