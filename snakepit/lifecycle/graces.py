"""How long each rung of the ladder may take: the grace times of stopping a task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakepit.options import checked_seconds, did_you_mean

__all__ = ["Graces"]

LONGEST = 86_400.0  # seconds


@dataclass(frozen=True)
class Graces:
    """Grace times in seconds, or text: what a task that is to stop is given before the next rung.

    `flag` (0.1): to see `snakepit.cancelled()`, then TaskInterrupt is raised in it. `interrupt`
    (0.4): to clean up after that, then its worker gets SIGTERM; a thread is left behind instead.
    `terminate` (1.0): for the worker to end, then SIGKILL. 0 goes on to the next rung at once.
    Text has a unit, "500ms" or "2s". Raises TypeError for what is neither, ValueError for one that
    is negative, not finite, or more than a day, and for text without a unit or with an unknown one.
    """

    flag: float = 0.1
    interrupt: float = 0.4
    terminate: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__match_args__:
            value = getattr(self, name)
            if isinstance(value, str):
                value = checked_seconds(f"stop_grace: {name}", value, zero=True)
                object.__setattr__(self, name, value)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(
                    f"stop_grace: {name} must be a number of seconds, or text such as "
                    f'"500ms", not {value!r}'
                )
            if not (math.isfinite(value) and 0 <= value <= LONGEST):
                remedy = (
                    "; to let a call run to its end, however long that takes, do not stop it: "
                    "leave out timeout, stop() and cancel_running"
                    if value > LONGEST
                    else "; 0 goes on to the next step at once"
                )
                raise ValueError(
                    f"stop_grace: {name} must be from 0 to {LONGEST:g} seconds (a day), "
                    f"not {value!r}{remedy}"
                )

    @classmethod
    def checked(cls, value: Graces | Mapping[str, float | str] | None) -> Graces:
        """Return the grace times that a user gave: Graces, a mapping of some of them, or None."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(
                "stop_grace must be snakepit.Graces(flag=…, interrupt=…, terminate=…) or a dict "
                f"of these, not {value!r}"
            )
        known = cls.__match_args__
        for name in value:
            if name not in known:
                raise ValueError(
                    f"stop_grace: unknown grace time {name!r}, known are {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )
        times: dict[str, Any] = dict(value)
        return cls(**times)
