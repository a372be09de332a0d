"""Exception classes that a configuration names: `retry_on` and `failure_on`, as text.

What Python or `snakepit.errors` has goes by its name alone; another class by
"package.module:Class", whose module is imported when the pool is made: checking a configuration
runs nobody's code.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from snakepit.config.references import is_reference, resolved
from snakepit.options import did_you_mean

__all__ = ["class_problem", "one_by_one", "references_in", "with_classes"]

SETTINGS = ("retry_on", "failure_on")


def with_classes(arguments: Mapping[str, Any], *, imported: bool) -> dict[str, Any]:
    """Return the arguments with classes in place of their names.

    `imported`: import what is named by its module; else `Exception` stands for it. Raises
    ValueError, which names the setting.
    """
    found = dict(arguments)
    for setting in SETTINGS:
        if setting in found:
            found[setting] = tuple(
                _class_of(setting, entry, imported=imported) if isinstance(entry, str) else entry
                for entry in _entries(found[setting])
            )
    return found


def one_by_one(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each argument by itself, and of those that take classes each class."""
    for key, value in arguments.items():
        entries = list(_entries(value)) if key in SETTINGS else []
        if entries:
            yield from ({key: (entry,)} for entry in entries)
        else:
            yield {key: value}


def references_in(arguments: object) -> Iterator[tuple[str, str]]:
    """Yield each setting, and each class that it names by its module."""
    if isinstance(arguments, Mapping):
        for setting in SETTINGS:
            for entry in _entries(arguments.get(setting, ())):
                if isinstance(entry, str) and _names_module(entry):
                    yield setting, entry


def class_problem(found: object) -> str | None:
    """Say why an object is no exception class; None if it is one."""
    if _is_exception(found):
        return None
    what = found.__name__ if isinstance(found, type) else f"of type {type(found).__name__}"
    return f"is not an exception class but {what}"


def _entries(value: Any) -> Iterable[Any]:
    several = isinstance(value, Iterable) and not isinstance(value, str | type)
    return value if several else (value,)


def _names_module(text: str) -> bool:
    return "." in text or ":" in text


def _class_of(setting: str, text: str, *, imported: bool) -> Any:
    found: Any
    if not _names_module(text):
        known = _known()
        found = known.get(text, getattr(builtins, text, None))
        if found is None:
            hint = did_you_mean(text, known) or (
                "; name a built-in one, one of snakepit.errors, or another one as "
                '"package.module:Class"'
            )
            raise ValueError(f"{setting}: there is no exception class {text!r}{hint}")
    elif not is_reference(text):
        raise ValueError(f'{setting}: {text!r} is not of the form "package.module:Class"')
    elif not imported:
        return Exception
    else:
        try:
            found = resolved(text)
        except ValueError as error:
            raise ValueError(f"{setting}: {text!r}: {error}") from error.__cause__
    problem = class_problem(found)
    if problem is not None:
        raise ValueError(f"{setting}: {text!r} {problem}")
    return found


def _known() -> dict[str, type[BaseException]]:
    from snakepit import broken, errors

    every = {**vars(broken), **vars(errors), **vars(builtins)}
    return {name: found for name, found in every.items() if _is_exception(found)}


def _is_exception(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseException)
