"""Executor: the `concurrent.futures` face of a pool."""

from __future__ import annotations

import atexit
import concurrent.futures
import multiprocessing
import multiprocessing.util  # registers its hook
import numbers
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from snakepit.lifecycle.blas import checked_blas_threads
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.health import HealthPolicy
from snakepit.lifecycle.recycling import RecyclingPolicy
from snakepit.lifecycle.registry import registry
from snakepit.lifecycle.template import can_use_template
from snakepit.options import checked_bytes, checked_count, checked_seconds
from snakepit.pool import local
from snakepit.pool import pool as processes
from snakepit.pool.local import LocalConfig, LocalPool
from snakepit.pool.mapping import MapResults, MapRun
from snakepit.pool.pool import MOST_LANES, START_TIMEOUT, PoolConfig, ProcessPool, lanes_for
from snakepit.pool.terms import Terms, checked_terms, session_key
from snakepit.resources import usable_cpus

if TYPE_CHECKING:
    from snakepit.diagnostics import PoolReport
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.futures import Future
    from snakepit.pool.retry import RetryPolicy
    from snakepit.pool.stats import LifecycleStats, PoolStats

__all__ = ["Executor", "PoolView"]

P = ParamSpec("P")
T = TypeVar("T")

MOST_WORKERS = 1000
START_METHODS = ("template", "forkserver", "spawn", "fork")
PROFILES = ("process", "thread", "local")
THREADS_PER_WORKER = 10
EXIT_PATIENCE = 1.0  # seconds that the registry's writer has at the interpreter's exit


class PoolView:
    """Calls into a pool under given terms; what `Executor.options` returns."""

    def __init__(self, pool: ProcessPool | LocalPool, terms: Terms) -> None:
        self._pool = pool
        self._terms = terms

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue the call `fn(*args, **kwargs)` and return its future. Raises PoolShutdownError."""
        return self._pool.submit(fn, args, kwargs, self._terms)

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: bool = False,
    ) -> Iterator[Any]:
        """Call `fn` with the items of the iterables; return an iterator (see `Executor.map`)."""
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


class Executor(concurrent.futures.Executor):
    """Runs calls in a pool of warm workers; takes the place of ProcessPoolExecutor.

    `max_workers`: number of workers, 1 to 1000; None: the CPUs that this process may use.
    `profile`: "process": each worker is a process that runs one call at a time; "thread": each is a
    process of `threads_per_worker` threads (by default 10) that runs as many at once, for
    free-threaded Python and for calls that release the GIL; "local": threads of this process.
    `start_method`: "template" (the default on Linux: forked from a clean process that imported
    `preload`), "forkserver", "spawn" or "fork"; `mp_context`, a multiprocessing context, decides it
    instead.
    `initializer(*initargs)` runs in each worker before its first call; if it raises, the pool is
    broken and says why.
    `max_tasks_per_child`: calls (or chunks of map) that a worker runs at most; None: no limit.
    `worker_ttl` (seconds, or text such as "1h"), `worker_max_requests` (calls or chunks) and
    `memory_threshold_mb` (megabytes of the worker's own memory, or text such as "2GiB"): age, work
    and size at which a worker is replaced, after the call that it runs and once a successor is
    ready; None: never.
    `heartbeat_interval`: seconds between two looks at the workers' health, None for no looks;
    `heartbeat_timeout`: seconds and `max_missed`: looks without a sign of life after which a worker
    that should have taken a call, or whose process is stopped, is replaced. A long call is none.
    `preload`: names of modules to import once in the template. `env`: environment variables of the
    workers, in force before they import anything.
    `blas_threads`: threads of BLAS and OpenMP libraries in each worker, in force before anything is
    imported; "share": the usable CPUs divided among the workers; None: 1. Variables that `env` or
    the environment sets win.
    `start_timeout`: seconds that a worker has to start, its initializer included, before it is
    killed and counts as failed; by default 60. Three failed starts in a row break the pool.
    `inline_threshold`: bytes up to which a message goes inline; larger ones go by shared memory.
    `cancel_running`: `cancel()` of a future also stops a call that runs (`options` can say
    otherwise). `stop_grace`: what a call that is stopped, or late, is given before it is made to
    end: `snakepit.Graces` or a dict of its fields, in seconds.

    The workers start at the first call (or at `wait_ready`). A worker that dies fails the call that
    ran on it (of profile "thread": every call that did), with WorkerCrashedError, and is replaced.
    Raises ValueError and TypeError for arguments that make no sense.
    """

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
        start_timeout: float | None = None,
        cancel_running: bool = False,
        stop_grace: Graces | Mapping[str, float] | None = None,
        name: str = "default",
        blas_threads: int | Literal["share"] | None = None,
    ) -> None:
        size = _checked_size(max_workers)
        threads = _checked_threads(profile, threads_per_worker, size)
        graces = Graces.checked(stop_grace)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        _check_count("max_tasks_per_child", max_tasks_per_child)
        recycling = _checked_recycling(
            worker_ttl, worker_max_requests, memory_threshold_mb, max_tasks_per_child
        )
        health = _checked_health(heartbeat_interval, heartbeat_timeout, max_missed)
        if profile == "local":
            for option, value in (
                ("mp_context", mp_context),
                ("start_method", start_method),
                ("max_tasks_per_child", max_tasks_per_child),
                ("worker_ttl", worker_ttl),
                ("worker_max_requests", worker_max_requests),
                ("memory_threshold_mb", memory_threshold_mb),
                ("env", env),
                ("blas_threads", blas_threads),
                ("start_timeout", start_timeout),
            ):
                if value is not None:
                    raise ValueError(
                        f"{option} is for workers that are processes; profile='local' has none"
                    )
            self._pool: ProcessPool | LocalPool = LocalPool(
                LocalConfig(size, initializer, tuple(initargs), name, graces)
            )
        elif profile in ("process", "thread"):
            context = _chosen_context(mp_context, start_method)
            self._pool = ProcessPool(
                PoolConfig(
                    size=size,
                    context=context,
                    initializer=initializer,
                    initargs=tuple(initargs),
                    recycling=recycling,
                    health=health,
                    preload=_checked_preload(preload, context),
                    env={str(key): str(value) for key, value in (env or {}).items()},
                    inline_threshold=_checked_threshold(inline_threshold),
                    start_timeout=_checked_start_timeout(start_timeout),
                    name=name,
                    blas_threads=checked_blas_threads(blas_threads),
                    graces=graces,
                    threads=threads,
                )
            )
        else:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
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

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
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
        `timeout`: seconds from now within which each result must come, else TimeoutError.
        `ordered=False` yields results as they come. `progress=True` shows a bar on stderr (needs
        the extra `progress`). What a call raised is raised in its place and ends the iteration.
        Dropped unread, the iterator lets all calls run.
        """
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

    def options(
        self,
        *,
        timeout: float | None = None,
        priority: Literal["high", "normal", "low"] = "normal",
        session: str | None = None,
        cancel_running: bool | None = None,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        idempotent: bool = False,
    ) -> PoolView:
        """Return a view of this executor whose calls carry these terms.

        `timeout`: seconds for queueing, running and answering together, then TaskTimeoutError, and
        a worker that still runs the call is replaced. `priority`: of what is queued, higher goes
        first. `session`: calls of one session go to the worker that ran it last, if it is free.
        `cancel_running`: `cancel()` also stops a call that runs; None: as the executor has it.

        `retry`: a call that raises is tried again as this policy says, with the arguments that it
        was submitted with; `timeout` is for all attempts together. `breaker`: calls that it refuses
        fail with CircuitOpenError; it hears how each attempt ends. `idempotent`: to run the call
        twice does no harm, so that it is tried once more, in another worker, when its worker dies.
        With `retry`, `breaker` or `timeout`, `map` sends its items one by one.
        Raises ValueError and TypeError for terms that make no sense.
        """
        terms = checked_terms(
            timeout=timeout,
            priority=priority,
            session=session,
            cancel_running=self._terms.cancel_running if cancel_running is None else cancel_running,
            retry=retry,
            breaker=breaker,
            idempotent=idempotent,
        )
        return PoolView(self._pool, terms)

    def cancel(self, *, session: str) -> int:
        """Stop all calls of a session, and return how many there were to stop.

        Those that are queued are cancelled at once; those that run are stopped as by
        `Future.stop`.
        """
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
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            # Who pressed Ctrl-C does not want to wait for what is queued, nor for what runs.
            self._pool.end_workers(signal.SIGTERM)
            try:
                self.shutdown(wait=True)
            except KeyboardInterrupt:
                # Pressed twice: no grace for anybody.
                self._pool.end_workers(signal.SIGKILL)
                raise
            return None
        self.shutdown(wait=True)
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

    def wait_ready(self, timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready.

        Raises PoolNotReadyError, and TimeoutError after `timeout`.
        """
        self._pool.await_ready(timeout)

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
        and with profile "local".
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

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<snakepit.Executor {self._pool.name!r}: "
            f"{stats.ready} of {stats.workers} workers ready, {stats.busy} busy, "
            f"{stats.queued} queued, {stats.completed + stats.failed} done>"
        )


def start_map(
    pool: ProcessPool | LocalPool,
    terms: Terms,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | None,
    chunksize: int | None,
    buffersize: int | None,
    *,
    ordered: bool,
    progress: bool,
) -> Iterator[Any]:
    """Start a `map` on a pool: its first chunks are read and submitted before this returns."""
    _check_count("chunksize", chunksize)
    _check_count("buffersize", buffersize)
    if terms.by_call and chunksize is None:
        chunksize = 1  # The terms are those of a call, not of a chunk.
    if chunksize != 1 and (terms.retry is not None or terms.breaker is not None):
        raise ValueError(
            f"with retry or breaker, map sends its items one by one: chunksize={chunksize} cannot "
            "be; leave it out, or let the function take a list and submit lists"
        )
    number = pool.number_for_map(fn)

    def submit_chunk(
        kind: int, items: list[Any], on_settled: Callable[[Any], None] | None
    ) -> Future[Any]:
        return pool.submit_items(number, fn, kind, items, terms, on_settled)

    run = MapRun(
        submit_chunk,
        iterables,
        workers=pool.capacity,
        chunksize=chunksize,
        buffersize=buffersize,
        ordered=ordered,
        timeout=timeout,
        watch=pool.watch,
    )
    pool.add_map(run)
    run.feed()
    results: Iterator[Any] = MapResults(run)
    if progress:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                "progress=True needs tqdm: pip install 'snakepit-pool[progress]'"
            ) from error
        results = iter(tqdm(results, total=run.total))
    return results


# -- checks ----------------------------------------------------------------------------------------


def _checked_size(max_workers: object) -> int:
    if max_workers is None:
        return usable_cpus()
    if isinstance(max_workers, bool) or not isinstance(max_workers, numbers.Integral):
        raise TypeError(f"max_workers must be a whole number or None, not {max_workers!r}")
    size = int(max_workers)
    if size <= 0:
        raise ValueError(f"max_workers must be greater than 0, not {size}")
    if size > MOST_WORKERS:
        raise ValueError(f"max_workers must be at most {MOST_WORKERS}, not {size}")
    return size


def _checked_threads(profile: str, value: object, size: int) -> int:
    """Return how many threads run calls in each worker."""
    if profile != "thread":
        if value is not None:
            raise ValueError(
                f"threads_per_worker is for profile='thread'; with profile={profile!r} the number "
                "of calls that run at once is max_workers"
            )
        return 0
    threads = THREADS_PER_WORKER if value is None else checked_count("threads_per_worker", value)
    lanes = lanes_for(size, threads)
    if lanes > MOST_LANES:
        raise ValueError(
            f"max_workers={size} with threads_per_worker={threads} needs {lanes} threads, those of "
            f"spare workers included; a pool can have at most {MOST_LANES}: take fewer workers, or "
            "fewer threads in each"
        )
    return threads


def _check_count(name: str, value: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, not {value}")


def _checked_start_timeout(value: float | None) -> float:
    if value is None:
        return START_TIMEOUT
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"start_timeout must be a number of seconds, not {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"start_timeout must be more than 0 seconds and finite, not {value}")
    return float(value)


def _checked_recycling(
    ttl: object, requests: object, memory: object, max_tasks: int | None
) -> RecyclingPolicy:
    return RecyclingPolicy(
        ttl=None if ttl is None else checked_seconds("worker_ttl", ttl),
        max_requests=None if requests is None else checked_count("worker_max_requests", requests),
        memory=None if memory is None else checked_bytes("memory_threshold_mb", memory, 10**6),
        max_tasks=max_tasks,
    )


def _checked_health(interval: object, timeout: object, max_missed: object) -> HealthPolicy:
    seconds = checked_seconds("heartbeat_timeout", timeout)
    missed = checked_count("max_missed", max_missed)
    if interval is None:
        return HealthPolicy(None, seconds, missed)
    every = checked_seconds("heartbeat_interval", interval)
    if every > seconds:
        raise ValueError(
            f"heartbeat_timeout ({seconds:g} s) must be at least heartbeat_interval ({every:g} s): "
            "no worker can answer more often than it is looked at"
        )
    return HealthPolicy(every, seconds, missed)


def _checked_threshold(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"inline_threshold must be a whole number of bytes, not {value!r}")
    if not 0 <= value <= 1 << 20:
        raise ValueError(f"inline_threshold must be 0 to {1 << 20} bytes, not {value}")
    return value


def _checked_preload(preload: Iterable[str], context: BaseContext | None) -> tuple[str, ...]:
    names = (preload,) if isinstance(preload, str) else tuple(preload)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"preload takes names of modules, not {name!r}")
    if names and context is not None:
        raise ValueError(
            "preload needs start_method='template'; for forkserver use its own "
            "set_forkserver_preload, for spawn an initializer"
        )
    return names


def _chosen_context(mp_context: BaseContext | None, start_method: str | None) -> BaseContext | None:
    """The multiprocessing context to start workers with; None for the template."""
    if mp_context is not None:
        if start_method is not None:
            raise ValueError("give mp_context or start_method, not both")
        if not isinstance(mp_context, BaseContext):
            raise TypeError(f"mp_context must be a multiprocessing context, not {mp_context!r}")
        return mp_context
    if start_method is None:
        start_method = "template" if can_use_template() else "spawn"
    if start_method not in START_METHODS:
        raise ValueError(
            f"start_method must be one of {', '.join(START_METHODS)}, not {start_method!r}"
        )
    if start_method == "template":
        if not can_use_template():
            raise ValueError(
                "start_method='template' needs Linux 5.3 or later with pidfd_open; use 'spawn'"
            )
        return None
    return multiprocessing.get_context(start_method)


# -- the interpreter's exit ------------------------------------------------------------------------


def _at_exit() -> None:
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    processes.close_all(interrupted=isinstance(last, KeyboardInterrupt))
    local.close_all()
    registry.flush(EXIT_PATIENCE)


# Before threads are joined; and once more after that, for pools that such a thread started, but
# still before multiprocessing's own hook, which would wait for the workers for ever.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
atexit.register(_at_exit)
_owner = os.getpid()
