"""The environment of workers that a context of multiprocessing starts: set by themselves.

Such a context starts a process with the owner's own environment. To change that for the time of a
start would show it to whatever else the owner starts meanwhile, and would write to what C code of
any thread may be reading. But the first thing that a spawned process reads is its name.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NameWithEnvironment"]

# Of builtins alone: when it is read, the process has neither the owner's import path nor its main
# module.
_CODE = "__import__('os').environ.update(environment) or name"


class NameWithEnvironment(str):
    """A process's name, which sets `environment` in the process that unpickles it.

    That is before the owner's main module, or anything else of the owner's, is imported there. What
    the interpreter or the dynamic linker reads before that (PYTHONHASHSEED, LD_LIBRARY_PATH) is not
    affected.
    """

    environment: dict[str, str]

    def __new__(cls, name: str, environment: dict[str, str]) -> NameWithEnvironment:
        self = super().__new__(cls, name)
        self.environment = environment
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_CODE, {"name": str(self), "environment": self.environment})
