"""Checks of options that carry a unit: durations and sizes, as numbers or as text."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Iterable

__all__ = ["checked_bytes", "checked_count", "checked_seconds", "did_you_mean"]

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
_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?[0-9]*\.?[0-9]+)\s*([^\s0-9.]*)\s*")


def checked_seconds(name: str, value: object) -> float:
    """Return the seconds that `value` stands for: a number above 0, or text such as "90s", "1h".

    Raises TypeError and ValueError, which name the option and the units there are.
    """
    return _checked(name, value, "seconds", 1.0, SECONDS, '"90s" or "1h"')


def checked_bytes(name: str, value: object, unit: int = 1) -> int:
    """Return the bytes that `value` stands for: a number of `unit` bytes, or text such as "2GiB".

    Raises TypeError and ValueError, which name the option and the units there are.
    """
    what = {1: "bytes", 10**6: "megabytes"}[unit]
    return int(_checked(name, value, what, unit, BYTES, '"500MB" or "2GiB"'))


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
) -> float:
    expected = f"{name} must be a number of {what} above 0, or text such as {example}"
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
        amount = float(value) * unit
    if not math.isfinite(amount) or amount <= 0:
        raise ValueError(f"{expected}, not {value!r}")
    return amount


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(value, list(known), n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""
