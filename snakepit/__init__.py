"""Warm worker pools: calls in other processes, tens of times cheaper, that crashes do not break."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # As in `typing`, whose import would cost more than the rest of this file.
if TYPE_CHECKING:
    from typing import Any

    from snakepit import errors as errors
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
    from snakepit.sessions.session import Session as Session
    from snakepit.sessions.store import SessionStore as SessionStore
    from snakepit.worker.context import cancelled as cancelled
    from snakepit.worker.context import current_pool as current_pool
    from snakepit.worker.context import current_session as current_session

__version__ = "0.2.0"

# Loaded when first used: `import snakepit` itself costs next to nothing, and a worker loads only
# what it needs.
_HOMES = {
    "CircuitBreaker": "snakepit.pool.breaker",
    "Compatibility": "snakepit.diagnostics.compatibility",
    "Executor": "snakepit.executor",
    "Future": "snakepit.pool.futures",
    "HALT": "snakepit.pool.streams",
    "Graces": "snakepit.lifecycle.graces",
    "PoolStats": "snakepit.pool.stats",
    "PythonVersion": "snakepit.diagnostics.python_version",
    "RetryPolicy": "snakepit.pool.retry",
    "Session": "snakepit.sessions.session",
    "SessionStore": "snakepit.sessions.store",
    "Stream": "snakepit.pool.streams",
    "TaskInterrupt": "snakepit.errors",
    "cancelled": "snakepit.worker.context",
    "current_pool": "snakepit.worker.context",
    "current_session": "snakepit.worker.context",
    "recommend_profile": "snakepit.diagnostics.compatibility",
    "share": "snakepit.pool.memory",
    "shared_array": "snakepit.pool.memory",
}

__all__ = [*_HOMES, "__version__", "errors"]


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
