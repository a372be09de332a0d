"""Object references: text that names a class by its module, such as "package.module:Class"."""

from __future__ import annotations

import importlib
from typing import Any

from snakepit.options import did_you_mean

__all__ = ["imported_module", "is_reference", "module_of", "resolved"]


def is_reference(text: str) -> bool:
    """Whether text is of the form "package.module:Class" or "package.module.Class"."""
    module, _, attribute = text.rpartition(":" if ":" in text else ".")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(module) and all(part.isidentifier() for part in parts)


def module_of(reference: str) -> str:
    """Return the name of its module."""
    return reference.rpartition(":" if ":" in reference else ".")[0]


def imported_module(name: str) -> Any:
    """Import a module. Raises ValueError, whose cause is what the import raised."""
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a module raises, SystemExit too, is its author's
        raise ValueError(f"cannot be imported: {type(error).__name__}: {error}") from error


def resolved(reference: str) -> Any:
    """Import what it names. Raises ValueError, which says why that cannot be."""
    module_name = module_of(reference)
    attribute = reference.replace(":", ".").removeprefix(f"{module_name}.")
    found = imported_module(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            hint = did_you_mean(name, dir(found))
            raise ValueError(f"{module_name!r} has no {attribute!r}{hint}")
        found = getattr(found, name)
    return found
