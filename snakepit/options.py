"""Checks of options that carry a unit: durations and sizes, as numbers or as text."""

from __future__ import annotations

import functools
import math
import numbers
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = [
    "checked_bytes",
    "checked_count",
    "checked_environment",
    "checked_seconds",
    "checked_wait",
    "did_you_mean",
    "option_hint",
    "shortened",
    "with_hints",
]

LONGEST_TEXT = 100  # characters of a value in a message
SHORTEST_BEGINNING = 3  # characters of a word by which it is known

SECONDS = {
    "ms": 0.001,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
# Names for one and the same option, ours first, then those that other pools have for it.
SAME_OPTIONS = (
    (
        "pool_size", "max_workers", "workers", "size", "processes", "nprocs", "num_workers",
        "n_workers", "n_jobs", "max_processes", "num_processes",
    ),
    ("max_tasks_per_child", "worker_max_requests", "maxtasksperchild"),
    ("env", "adapter_env"),
)  # fmt: skip
_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?[0-9]*\.?[0-9]+)\s*([^\s0-9.]*)\s*")


def checked_seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return the seconds that `value` stands for: a number above 0, or text such as "90s", "1h".

    `zero`: 0 is a time, too. Raises TypeError and ValueError, which name the option and the units
    there are.
    """
    return _checked(name, value, "seconds", 1.0, SECONDS, '"90s" or "1h"', zero=zero)


def checked_bytes(name: str, value: object, unit: int = 1) -> int:
    """Return the bytes that `value` stands for: a number of `unit` bytes, or text such as "2GiB".

    Raises TypeError and ValueError, which name the option and the units there are.
    """
    what = {1: "bytes", 10**6: "megabytes"}[unit]
    amount = _checked(name, value, what, unit, BYTES, '"500MB" or "2GiB"')
    if amount < 1:
        raise ValueError(f"{name} must be at least 1 byte, not {value!r}")
    return int(amount)


def checked_wait(name: str, value: object) -> float | None:
    """Return the seconds to wait that `value` stands for; None, for ever, stays None.

    As in the standard library, 0 and less mean not to wait, and math.inf for ever. Raises TypeError
    and ValueError.
    """
    if value is None or value == math.inf:
        return None
    if not isinstance(value, bool) and isinstance(value, numbers.Real) and value <= 0:
        return 0.0
    return checked_seconds(name, value)


def checked_environment(name: str, value: object) -> dict[str, str]:
    """Return environment variables as text; None are none. Raises TypeError, ValueError."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict of environment variables, not {shortened(value)}")
    checked = {}
    for key, content in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}: the name of a variable must be text, not {key!r}")
        if not key or "=" in key or "\0" in key:
            raise ValueError(f"{name}: {key!r} cannot be the name of an environment variable")
        if not isinstance(content, str | int | float | os.PathLike):
            raise TypeError(f"{name}: {key} must be text or a number, not {shortened(content)}")
        if "\0" in str(content):
            raise ValueError(f"{name}: {key} contains a NUL, where the system would end it")
        checked[key] = str(content)
    return checked


def shortened(value: object) -> str:
    """Return the repr of a value, the middle of a long one left out."""
    try:
        text = repr(value)
    except Exception as error:
        # Also of a whole number of more digits than Python prints.
        return f"<{type(value).__qualname__}: {type(error).__name__}>"
    return text if len(text) <= LONGEST_TEXT else f"{text[:60]}…{text[-20:]}"


F = TypeVar("F", bound=Callable[..., Any])


def with_hints(function: F) -> F:
    """Decorate what takes named options: for one that there is not, TypeError names the nearest.

    The signature stays, for readers, editors and type checkers.
    """
    code: Any = function.__code__
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    known = frozenset(named) - {"self"}
    who = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        if not kwargs.keys() <= known:
            name = next(name for name in kwargs if name not in known)
            raise TypeError(
                f"{who}() got an unexpected keyword argument {name!r}{option_hint(name, known)}"
            )
        return function(*args, **kwargs)

    return checked  # type: ignore[return-value]


def checked_count(name: str, value: object) -> int:
    """Return a whole number from 1 on. Raises TypeError and ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be >= 1, not {value}")
    return int(value)


def _checked(
    name: str,
    value: object,
    what: str,
    unit: float,
    units: dict[str, float] | dict[str, int],
    example: str,
    *,
    zero: bool = False,
) -> float:
    least = "from 0 on" if zero else "above 0"
    expected = f"{name} must be a number of {what} {least}, or text such as {example}"
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise ValueError(f"{expected}, not {value!r}")
        known = ", ".join(units)
        if not match[2]:
            raise ValueError(f"{name}={value!r} has no unit; the units are {known}")
        if match[2] not in units:
            raise ValueError(
                f"{name}={value!r} has the unknown unit {match[2]!r}; the units are {known}"
            )
        amount = float(match[1]) * units[match[2]]
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{expected}, not {value!r}")
    else:
        try:
            amount = float(value) * unit
        except OverflowError:
            raise ValueError(f"{expected}, not {shortened(value)}: that is too large") from None
    if not math.isfinite(amount) or amount < 0 or (amount == 0 and not zero):
        raise ValueError(f"{expected}, not {value!r}")
    return amount


def did_you_mean(value: object, known: Iterable[str], likeness: float = 0.6) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or nothing.

    `likeness`: from 0 to 1, how much alike they must be; more where there are many words. The
    beginning of a word counts as near, too.
    """
    from difflib import get_close_matches

    if not isinstance(value, str):
        return ""
    words = list(known)
    near = get_close_matches(value, words, n=1, cutoff=likeness)
    if not near and len(value) >= SHORTEST_BEGINNING:
        near = [word for word in words if word.startswith(value)]
    return f"; did you mean {near[0]!r}?" if near else ""


def option_hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown option: the one that is meant, or nothing.

    That is the one that other pools call so (`processes`, `max_workers`), else the nearest name.
    """
    there = set(known)
    for names in SAME_OPTIONS:
        if name in names and (meant := next((each for each in names if each in there), None)):
            return f"; did you mean {meant!r}?"
    return did_you_mean(name, there)
