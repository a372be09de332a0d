"""Warm worker pools: calls in other processes, tens of times cheaper, that crashes do not break."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # As in `typing`, whose import would cost more than the rest of this file.
if TYPE_CHECKING:
    from typing import Any

    from snakepit import errors as errors
    from snakepit.adapters.adapter import Adapter as Adapter
    from snakepit.adapters.adapter import tool as tool
    from snakepit.adapters.checker import ThreadSafetyChecker as ThreadSafetyChecker
    from snakepit.adapters.showcase import ShowcaseAdapter as ShowcaseAdapter
    from snakepit.adapters.showcase import ThreadedShowcaseAdapter as ThreadedShowcaseAdapter
    from snakepit.adapters.thread_safe import ThreadSafeAdapter as ThreadSafeAdapter
    from snakepit.adapters.thread_safe import thread_safe_method as thread_safe_method
    from snakepit.api import await_ready as await_ready
    from snakepit.api import execute as execute
    from snakepit.api import execute_in_session as execute_in_session
    from snakepit.api import execute_in_session_stream as execute_in_session_stream
    from snakepit.api import execute_stream as execute_stream
    from snakepit.api import get_pool as get_pool
    from snakepit.api import get_stats as get_stats
    from snakepit.api import list_workers as list_workers
    from snakepit.api import recycle_worker as recycle_worker
    from snakepit.api import run_as_script as run_as_script
    from snakepit.api import start as start
    from snakepit.api import stop as stop
    from snakepit.api import stream as stream
    from snakepit.diagnostics.compatibility import Compatibility as Compatibility
    from snakepit.diagnostics.compatibility import recommend_profile as recommend_profile
    from snakepit.diagnostics.python_version import PythonVersion as PythonVersion
    from snakepit.errors import TaskInterrupt as TaskInterrupt
    from snakepit.executor import Executor as Executor
    from snakepit.lifecycle.graces import Graces as Graces
    from snakepit.pool.breaker import CircuitBreaker as CircuitBreaker
    from snakepit.pool.futures import Future as Future
    from snakepit.pool.memory import share as share
    from snakepit.pool.memory import shared_array as shared_array
    from snakepit.pool.retry import RetryPolicy as RetryPolicy
    from snakepit.pool.stats import PoolStats as PoolStats
    from snakepit.pool.streams import HALT as HALT
    from snakepit.pool.streams import Stream as Stream
    from snakepit.pools import Pool as Pool
    from snakepit.sessions.session import Session as Session
    from snakepit.sessions.store import SessionStore as SessionStore
    from snakepit.worker.context import cancelled as cancelled
    from snakepit.worker.context import current_pool as current_pool
    from snakepit.worker.context import current_session as current_session
    from snakepit.worker.session import SessionContext as SessionContext

__version__ = "0.7.0"

# Loaded when first used: `import snakepit` itself costs next to nothing, and a worker loads only
# what it needs.
_HOMES = {
    "Adapter": "snakepit.adapters.adapter",
    "CircuitBreaker": "snakepit.pool.breaker",
    "Compatibility": "snakepit.diagnostics.compatibility",
    "Executor": "snakepit.executor",
    "Future": "snakepit.pool.futures",
    "HALT": "snakepit.pool.streams",
    "Graces": "snakepit.lifecycle.graces",
    "Pool": "snakepit.pools",
    "PoolStats": "snakepit.pool.stats",
    "PythonVersion": "snakepit.diagnostics.python_version",
    "RetryPolicy": "snakepit.pool.retry",
    "Session": "snakepit.sessions.session",
    "SessionContext": "snakepit.worker.session",
    "SessionStore": "snakepit.sessions.store",
    "Stream": "snakepit.pool.streams",
    "ShowcaseAdapter": "snakepit.adapters.showcase",
    "TaskInterrupt": "snakepit.errors",
    "ThreadSafeAdapter": "snakepit.adapters.thread_safe",
    "ThreadSafetyChecker": "snakepit.adapters.checker",
    "ThreadedShowcaseAdapter": "snakepit.adapters.showcase",
    "await_ready": "snakepit.api",
    "cancelled": "snakepit.worker.context",
    "current_pool": "snakepit.worker.context",
    "current_session": "snakepit.worker.context",
    "recommend_profile": "snakepit.diagnostics.compatibility",
    "execute": "snakepit.api",
    "execute_in_session": "snakepit.api",
    "execute_in_session_stream": "snakepit.api",
    "execute_stream": "snakepit.api",
    "get_pool": "snakepit.api",
    "get_stats": "snakepit.api",
    "list_workers": "snakepit.api",
    "recycle_worker": "snakepit.api",
    "run_as_script": "snakepit.api",
    "share": "snakepit.pool.memory",
    "shared_array": "snakepit.pool.memory",
    "start": "snakepit.api",
    "stop": "snakepit.api",
    "stream": "snakepit.api",
    "thread_safe_method": "snakepit.adapters.thread_safe",
    "tool": "snakepit.adapters.adapter",
}

__all__ = [*_HOMES, "__version__", "errors"]


if not TYPE_CHECKING:  # To a type checker it would mean that every name is there.

    def __getattr__(name: str) -> Any:
        if name == "errors":
            return importlib.import_module("snakepit.errors")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'snakepit' has no attribute {name!r}")
        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
