"""Adapters: stateful code that lives in the workers of a pool, and the tools that callers may run.

Everything is loaded when it is first used: a worker loads only what its adapter needs.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from snakepit.adapters.adapter import Adapter as Adapter
    from snakepit.adapters.adapter import tool as tool
    from snakepit.adapters.checker import ThreadSafetyChecker as ThreadSafetyChecker
    from snakepit.adapters.showcase import ShowcaseAdapter as ShowcaseAdapter
    from snakepit.adapters.showcase import ThreadedShowcaseAdapter as ThreadedShowcaseAdapter
    from snakepit.adapters.thread_safe import ThreadSafeAdapter as ThreadSafeAdapter
    from snakepit.adapters.thread_safe import thread_safe_method as thread_safe_method

_HOMES = {
    "Adapter": "snakepit.adapters.adapter",
    "ShowcaseAdapter": "snakepit.adapters.showcase",
    "ThreadSafeAdapter": "snakepit.adapters.thread_safe",
    "ThreadSafetyChecker": "snakepit.adapters.checker",
    "ThreadedShowcaseAdapter": "snakepit.adapters.showcase",
    "thread_safe_method": "snakepit.adapters.thread_safe",
    "tool": "snakepit.adapters.adapter",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'snakepit.adapters' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
