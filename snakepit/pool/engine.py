"""Making the engine of a pool or executor: which profile runs it, and the check of its options."""

from __future__ import annotations

import multiprocessing
import numbers
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import snakepit.pool.endings  # noqa: F401 - registers the pools' end
from snakepit._core.constants import MAX_LANES
from snakepit.lifecycle.blas import checked_blas_threads
from snakepit.lifecycle.graces import Graces
from snakepit.lifecycle.health import HealthPolicy
from snakepit.lifecycle.recycling import RecyclingPolicy
from snakepit.lifecycle.template import can_use_template
from snakepit.options import (
    checked_bytes,
    checked_count,
    checked_environment,
    checked_seconds,
    did_you_mean,
    option_hint,
    shortened,
)
from snakepit.pool.limits import (
    HEARTBEAT_INTERVAL,
    HEARTBEAT_TIMEOUT,
    MAX_MISSED,
    heartbeat_problems,
    recycling_problems,
)
from snakepit.pool.pool import START_TIMEOUT, PoolConfig, ProcessPool, lanes_for
from snakepit.resources import usable_cpus

if TYPE_CHECKING:
    from snakepit.pool.local import LocalPool
    from snakepit.sessions.store import SessionStore

MOST_WORKERS = 1000
START_METHODS = ("template", "forkserver", "spawn", "fork")
PROFILES = ("process", "thread", "local")
THREADS_PER_WORKER = 10
INLINE_THRESHOLD = 10_240  # bytes


class WorkerOptions(TypedDict, total=False):
    """The options of a pool's workers, which `Executor` explains."""

    worker_ttl: float | str | None
    worker_max_requests: int | None
    memory_threshold_mb: float | str | None
    heartbeat_interval: float | str | None
    heartbeat_timeout: float | str
    max_missed: int
    preload: Iterable[str]
    start_method: Literal["template", "forkserver", "spawn", "fork"] | None
    mp_context: BaseContext | None
    start_timeout: float | str | None
    inline_threshold: int
    blas_threads: int | Literal["share"] | None


def check_options(options: Mapping[str, object], maker: Callable[..., object]) -> None:
    """Raise TypeError, which names the nearest, for an option that there is not.

    `maker`: who takes them, beside parameters of its own.
    """
    known = WorkerOptions.__annotations__
    for name in options:
        if name not in known:
            import inspect  # Only for errors: it is slow to import.

            there_are = [*known, *inspect.signature(maker).parameters]
            raise TypeError(f"a pool has no option {name!r}{option_hint(name, there_are)}")


def make_engine(
    profile: str,
    size: int,
    *,
    name: str,
    graces: Graces,
    mp_context: BaseContext | None = None,
    start_method: str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    max_tasks_per_child: int | None = None,
    worker_ttl: float | str | None = None,
    worker_max_requests: int | None = None,
    memory_threshold_mb: float | str | None = None,
    heartbeat_interval: float | str | None = HEARTBEAT_INTERVAL,
    heartbeat_timeout: float | str = HEARTBEAT_TIMEOUT,
    max_missed: int = MAX_MISSED,
    preload: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    inline_threshold: int = INLINE_THRESHOLD,
    start_timeout: float | str | None = None,
    blas_threads: int | str | None = None,
    session_store: SessionStore | None = None,
    threads_per_worker: int | None = None,
    limits: Mapping[str, Any] | None = None,
) -> ProcessPool | LocalPool:
    """Make what runs a pool's calls; nothing starts yet (see `Executor` for the options).

    `limits`: further fields of PoolConfig or LocalConfig, checked by who gives them. Raises
    TypeError, ValueError.
    """
    checked_profile(profile)
    checked_name(name)
    if initializer is not None and not callable(initializer):
        raise TypeError(f"initializer must be callable, not {initializer!r}")
    initargs = _checked_initargs(initargs)
    _check_store(session_store)
    check_count("max_tasks_per_child", max_tasks_per_child)
    recycling = _checked_recycling(
        worker_ttl, worker_max_requests, memory_threshold_mb, max_tasks_per_child
    )
    health = _checked_health(heartbeat_interval, heartbeat_timeout, max_missed)
    threads = _checked_threads(profile, threads_per_worker, size)
    if profile == "local":
        _refuse_for_threads(
            mp_context=mp_context,
            start_method=start_method,
            max_tasks_per_child=max_tasks_per_child,
            worker_ttl=worker_ttl,
            worker_max_requests=worker_max_requests,
            memory_threshold_mb=memory_threshold_mb,
            # These are at their default, or empty, where nothing is asked for.
            heartbeat_interval=_unless(HEARTBEAT_INTERVAL, heartbeat_interval),
            heartbeat_timeout=_unless(HEARTBEAT_TIMEOUT, heartbeat_timeout),
            max_missed=_unless(MAX_MISSED, max_missed),
            inline_threshold=_unless(INLINE_THRESHOLD, inline_threshold),
            preload=tuple(preload) or None,
            env=env or None,
            blas_threads=blas_threads,
            start_timeout=start_timeout,
        )
        from snakepit.pool.local import LocalConfig, LocalPool

        return LocalPool(
            LocalConfig(
                size, initializer, initargs, name, graces, session_store=session_store,
                **(limits or {}),
            )
        )  # fmt: skip
    context = _chosen_context(mp_context, start_method)
    return ProcessPool(
        PoolConfig(
            size=size,
            context=context,
            initializer=initializer,
            initargs=initargs,
            recycling=recycling,
            health=health,
            preload=_checked_preload(preload, context),
            env=checked_environment("env", env),
            inline_threshold=_checked_threshold(inline_threshold),
            start_timeout=(
                START_TIMEOUT
                if start_timeout is None
                else checked_seconds("start_timeout", start_timeout)
            ),
            name=name,
            blas_threads=checked_blas_threads(blas_threads),
            graces=graces,
            session_store=session_store,
            threads=threads,
            **(limits or {}),
        )
    )


def _checked_threads(profile: str, value: object, size: int) -> int:
    """Return how many threads run calls in each worker; 0: its main thread does."""
    if profile != "thread":
        if value is not None:
            raise ValueError(
                f"threads_per_worker is for profile='thread'; with profile={profile!r} the number "
                "of calls that run at once is that of the workers"
            )
        return 0
    threads = THREADS_PER_WORKER if value is None else checked_count("threads_per_worker", value)
    lanes = lanes_for(size, threads)
    if lanes > MAX_LANES:
        raise ValueError(
            f"{size} workers with threads_per_worker={threads} need {lanes} threads, those of "
            f"spare workers included; a pool can have at most {MAX_LANES}: take fewer workers, or "
            "fewer threads in each"
        )
    return threads


def _check_store(store: object) -> None:
    if store is None:
        return
    from snakepit.sessions.store import SessionStore

    if not isinstance(store, SessionStore):
        raise TypeError(f"session_store must be a snakepit.SessionStore or None, not {store!r}")


def checked_profile(profile: object) -> None:
    """Raise ValueError for a profile that does not exist; it names the nearest."""
    if profile not in PROFILES:
        raise ValueError(
            f"profile must be one of {', '.join(PROFILES)}, not {profile!r}"
            f"{did_you_mean(profile, PROFILES)}"
        )


def checked_name(name: object) -> str:
    """Return the name of a pool. Raises TypeError."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a string that is not empty, not {shortened(name)}")
    return name


def _checked_initargs(initargs: object) -> tuple[Any, ...]:
    # Text is a sequence, too, but nobody means its characters.
    if isinstance(initargs, str | bytes) or not isinstance(initargs, Iterable):
        raise TypeError(
            "initargs must be a tuple of the initializer's arguments, not "
            f"{shortened(initargs)}; a tuple of one is written with a comma: (value,)"
        )
    return tuple(initargs)


def _unless(default: object, value: object) -> object:
    return None if value == default else value


def _refuse_for_threads(**options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(
                f"{option} is for workers that are processes; profile='local' has none"
            )


def checked_size(wanted: object, name: str = "max_workers", default: int | None = None) -> int:
    """Return the number of workers that a user asked for, by default that of the usable CPUs.

    Raises TypeError, ValueError, which name the option.
    """
    if wanted is None:
        return usable_cpus() if default is None else default
    if isinstance(wanted, bool) or not isinstance(wanted, numbers.Integral):
        raise TypeError(f"{name} must be a whole number or None, not {wanted!r}")
    size = int(wanted)
    if size <= 0:
        raise ValueError(f"{name} must be greater than 0, not {size}")
    if size > MOST_WORKERS:
        raise ValueError(f"{name} must be at most {MOST_WORKERS}, not {size}")
    return size


def check_count(name: str, value: int | None) -> None:
    """Raise TypeError, ValueError for what is neither None nor a whole number from 1 on."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number or None, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, not {value}")


def _checked_recycling(
    ttl: object, requests: object, memory: object, max_tasks: int | None
) -> RecyclingPolicy:
    policy = RecyclingPolicy(
        ttl=None if ttl is None else checked_seconds("worker_ttl", ttl),
        max_requests=None if requests is None else checked_count("worker_max_requests", requests),
        memory=None if memory is None else checked_bytes("memory_threshold_mb", memory, 10**6),
        max_tasks=max_tasks,
    )
    for _, problem in recycling_problems(policy.ttl, policy.max_requests, max_tasks):
        raise ValueError(problem)
    return policy


def _checked_health(interval: object, timeout: object, max_missed: object) -> HealthPolicy:
    policy = HealthPolicy(
        timeout=checked_seconds("heartbeat_timeout", timeout),
        max_missed=checked_count("max_missed", max_missed),
        interval=None if interval is None else checked_seconds("heartbeat_interval", interval),
    )
    for _, problem in heartbeat_problems(policy.interval, policy.timeout, policy.max_missed):
        raise ValueError(problem)
    return policy


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
            f"{did_you_mean(start_method, START_METHODS)}"
        )
    if start_method == "template":
        if not can_use_template():
            raise ValueError(
                "start_method='template' needs Linux 5.3 or later with pidfd_open; use 'spawn'"
            )
        return None
    return multiprocessing.get_context(start_method)
