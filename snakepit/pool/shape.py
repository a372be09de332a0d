"""The shape of a pool of adapters: the checks of what is asked for in words."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sized
from typing import Any

from snakepit.adapters.adapter import Adapter
from snakepit.adapters.tools import name_of_adapter
from snakepit.errors import AdapterError
from snakepit.options import checked_count, did_you_mean
from snakepit.pool.engine import (
    MOST_WORKERS,
    THREADS_PER_WORKER,
    checked_profile,
    checked_size,
)
from snakepit.resources import usable_cpus

# Whose engines are processes of several threads each.
PROFILES_OF_THREADS = ("thread",)
STRATEGIES = ("pool", "profile", "hybrid")
# Of what `Pool` hands on whether it was given or not.
_DEFAULTS = {"startup_batch_delay_ms": 0, "snapshot_every": 1, "snapshot_memory_mb": 1024}

_warned: weakref.WeakSet[type] = weakref.WeakSet()


def checked_shape(
    profile: str, pool_size: int | None, threads_per_worker: int | None, strategy: str = "pool"
) -> tuple[int, int]:
    """Return the number of workers of the engine, and the calls that each runs at once."""
    checked_profile(profile)
    if profile == "process" and threads_per_worker is not None:
        raise ValueError("threads_per_worker is for profile='thread' or 'local'")
    threads = THREADS_PER_WORKER if threads_per_worker is None else threads_per_worker
    threads = checked_count("threads_per_worker", threads)
    if strategy not in STRATEGIES:
        raise ValueError(
            f"capacity_strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}"
            f"{did_you_mean(strategy, STRATEGIES)}"
        )
    if strategy == "profile":
        if profile == "local":
            raise ValueError(
                "capacity_strategy='profile' is for workers that are processes: those "
                "of profile='local' are threads; give it fewer of them"
            )
        threads = 1
    if profile == "local":
        if pool_size is not None:
            raise ValueError(
                "pool_size counts worker processes, of which profile='local' has none; "
                "give threads_per_worker"
            )
        return checked_size(threads, "threads_per_worker"), threads
    most = min(2 * usable_cpus(), MOST_WORKERS)
    return checked_size(pool_size, "pool_size", most), threads


def checked_batches(size: int | None, delay_ms: float) -> dict[str, Any]:
    """Return what a pool is told about starting in batches. Raises TypeError, ValueError."""
    if isinstance(delay_ms, bool) or not isinstance(delay_ms, int | float):
        raise TypeError(f"startup_batch_delay_ms must be a number, not {delay_ms!r}")
    if not 0 <= delay_ms <= 600_000:
        raise ValueError(f"startup_batch_delay_ms must be 0 to 600000, not {delay_ms!r}")
    return {
        "startup_batch_size": 0 if size is None else checked_count("startup_batch_size", size),
        "startup_batch_delay": delay_ms / 1000,
    }


def check_no_processes(**options: Any) -> None:
    """Raise ValueError for an option of worker processes, which profile='local' has none of.

    None, a default, what is empty and what never happens ask for nothing.
    """
    for name, value in options.items():
        if value is None or value == math.inf or value == _DEFAULTS.get(name):
            continue
        if isinstance(value, Sized) and not len(value):
            continue
        raise ValueError(f"{name} is for workers that are processes; profile='local' has none")


def check_thread_safety(
    cls: type[Adapter], mode: str | None, profile: str, *, shared: bool
) -> None:
    """Warn of, or refuse, an adapter that several threads would share unawares.

    `shared`: whether they do. Raises AdapterError; ValueError for a mode that there is not.
    """
    if mode not in (None, "warn", "strict"):
        raise ValueError(
            f"thread_safety must be 'warn', 'strict' or None, not {mode!r}"
            f"{did_you_mean(mode, ('warn', 'strict'))}"
        )
    if not shared or cls.__thread_safe__ or mode is None:
        return
    problem = (
        f"{cls.__qualname__} does not declare __thread_safe__ = True, and under profile="
        f"{profile!r} several threads share one instance: make it safe (see "
        "snakepit.ThreadSafeAdapter) and declare it, or use profile='process'"
    )
    if mode == "strict":
        details = {"adapter": name_of_adapter(cls), "step": "declare"}
        raise AdapterError(problem, details=details)
    if cls not in _warned:
        _warned.add(cls)
        warnings.warn(problem, RuntimeWarning, stacklevel=3)
