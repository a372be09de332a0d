"""What workers, or the template that they are forked from, import for their pool."""

from __future__ import annotations

import importlib
from types import ModuleType

_importing: list[str] = []


def import_for_pool(module: str) -> ModuleType:
    """Import a module, in a process that makes workers; no pool can start meanwhile."""
    _importing.append(module)
    try:
        return importlib.import_module(module)
    finally:
        _importing.pop()


def refuse_pools() -> None:
    """Raise RuntimeError if a module that is being imported here starts a pool.

    Its workers would import it, too, and each would start another.
    """
    if _importing:
        raise RuntimeError(
            f"module {_importing[-1]!r}, which workers import, starts a pool while it is imported, "
            "so that each worker would start one of its own; start the pool under "
            'if __name__ == "__main__":, or move what workers import into a module of its own'
        )
