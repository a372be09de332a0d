"""Warm worker pools: calls in other processes, tens of times cheaper, that crashes do not break."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # As in `typing`, whose import would cost more than the rest of this file.
if TYPE_CHECKING:
    from typing import Any

    from snakepit import errors as errors
    from snakepit.errors import TaskInterrupt as TaskInterrupt
    from snakepit.adapters.adapter import Adapter as Adapter
    from snakepit.adapters.adapter import tool as tool
    from snakepit.executor import Executor as Executor
    from snakepit.lifecycle.graces import Graces as Graces
    from snakepit.pool.breaker import CircuitBreaker as CircuitBreaker
    from snakepit.pool.futures import Future as Future
    from snakepit.pool.memory import share as share
    from snakepit.pool.memory import shared_array as shared_array
    from snakepit.pool.retry import RetryPolicy as RetryPolicy
    from snakepit.pool.stats import PoolStats as PoolStats
    from snakepit.pools import Pool as Pool
    from snakepit.worker.context import cancelled as cancelled
    from snakepit.worker.context import current_pool as current_pool

__version__ = "0.2.0"

# Loaded when first used: `import snakepit` itself costs next to nothing, and a worker loads only
# what it needs.
_HOMES = {
    "Adapter": "snakepit.adapters.adapter",
    "CircuitBreaker": "snakepit.pool.breaker",
    "Executor": "snakepit.executor",
    "Future": "snakepit.pool.futures",
    "Graces": "snakepit.lifecycle.graces",
    "Pool": "snakepit.pools",
    "PoolStats": "snakepit.pool.stats",
    "RetryPolicy": "snakepit.pool.retry",
    "TaskInterrupt": "snakepit.errors",
    "cancelled": "snakepit.worker.context",
    "current_pool": "snakepit.worker.context",
    "share": "snakepit.pool.memory",
    "shared_array": "snakepit.pool.memory",
    "tool": "snakepit.adapters.adapter",
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
