"""When a call that failed is tried again: policy only, without clocks, threads or pools."""

from __future__ import annotations

import math
import numbers
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit.errors import (
    CircuitOpenError,
    EncodeError,
    ForkedPoolError,
    PoolNotReadyError,
    PoolShutdownError,
    SnakepitError,
    TaskStoppedError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from snakepit.options import shortened, with_hints

__all__ = ["RetryPolicy"]

# What another attempt cannot mend: nothing is left of the deadline, or somebody wants the call to
# end, or it never got as far as a worker.
_FINAL = (
    CircuitOpenError,
    EncodeError,
    ForkedPoolError,
    PoolNotReadyError,
    PoolShutdownError,
    TaskStoppedError,
    TaskTimeoutError,
)


@dataclass(frozen=True, init=False)
class RetryPolicy:
    """Whether, and after how long, a call that raised is tried again; see `Executor.options`.

    `max_attempts`: attempts altogether, the first included; at least 1, by default 3.
    `backoff`: seconds before the second attempt, the third, and so on; where the sequence ends, the
    last doubles. By default 0.1, 0.2, 0.4, 0.8, 1.6. One number stands for a sequence of one.
    `max_backoff`: no wait is longer, by default 30 s.
    `jitter`: each wait is drawn evenly from this share, 0 to 1, below to above it; by default 0.25.
    `retry_on`: an exception class or several; by default every `Exception`. Errors of Snakepit's
    own, such as WorkerCrashedError, count only where they are named. Those that another attempt
    cannot mend, such as TaskTimeoutError, are refused.

    Raises TypeError and ValueError for arguments that make no sense.
    """

    max_attempts: int = 3
    backoff: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    max_backoff: float = 30.0
    jitter: float = 0.25
    retry_on: tuple[type[BaseException], ...] = (Exception,)

    @with_hints
    def __init__(
        self,
        max_attempts: int = 3,
        backoff: float | Iterable[float] = (0.1, 0.2, 0.4, 0.8, 1.6),
        max_backoff: float = 30.0,
        jitter: float = 0.25,
        retry_on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
    ) -> None:
        if isinstance(max_attempts, bool) or not isinstance(max_attempts, int):
            raise TypeError(f"max_attempts must be a whole number, not {max_attempts!r}")
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
        waits: Any = (backoff,) if isinstance(backoff, numbers.Real) else backoff
        if isinstance(waits, str) or not isinstance(waits, Iterable):
            raise TypeError(f"backoff must be seconds, one number or several, not {backoff!r}")
        checked = tuple(checked_seconds("backoff", wait) for wait in waits)
        if not checked:
            raise ValueError("backoff needs at least one number of seconds; 0 is one")
        share = checked_seconds("jitter", jitter)
        if share > 1:
            raise ValueError(f"jitter must be a share from 0 to 1, not {jitter!r}")
        self._set("max_attempts", max_attempts)
        self._set("backoff", checked)
        self._set("max_backoff", checked_seconds("max_backoff", max_backoff))
        self._set("jitter", share)
        self._set("retry_on", _checked_retry_on(retry_on))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def retries(self, error: BaseException) -> bool:
        """Whether a call that raised `error` may be tried again."""
        if not isinstance(error, self.retry_on) or isinstance(error, _FINAL):
            return False
        if not isinstance(error, SnakepitError):
            return True
        return any(issubclass(c, SnakepitError) and isinstance(error, c) for c in self.retry_on)

    def delay(self, retry: int) -> float:
        """Return the seconds to wait before retry number `retry`, counted from 1; with jitter."""
        steps = len(self.backoff)
        if retry <= steps:
            wait = self.backoff[retry - 1]
        else:
            # The bound keeps a thousandth retry from overflowing a float.
            wait = self.backoff[-1] * 2.0 ** min(retry - steps, 64)
        wait = min(wait, self.max_backoff)
        if self.jitter:
            wait *= 1 + random.uniform(-self.jitter, self.jitter)
        return min(wait, self.max_backoff)


def checked_seconds(name: str, value: object) -> float:
    """Return a finite number that is not negative. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} must be a finite number of at least 0, not {shortened(value)}")
    return seconds


def checked_classes(name: str, value: object) -> tuple[type[BaseException], ...]:
    """Return exception classes as a tuple. Raises TypeError, ValueError."""
    one = isinstance(value, type | str)
    checked = (value,) if one or not isinstance(value, Iterable) else tuple(value)
    for each in checked:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"{name} takes exception classes, not {each!r}")
    if not checked:
        raise ValueError(f"{name} needs at least one exception class")
    return checked


def _checked_retry_on(value: object) -> tuple[type[BaseException], ...]:
    classes = checked_classes("retry_on", value)
    for each in classes:
        if issubclass(each, _FINAL):
            raise ValueError(
                f"retry_on cannot hold {each.__name__}: another attempt would not mend it "
                "(the deadline of a call, for instance, is that of all its attempts)"
            )
    return classes


# What a call that is marked idempotent gets when its worker dies, beside any policy of its own.
CRASH_POLICY = RetryPolicy(
    max_attempts=2, backoff=(0.05, 0.1, 0.2), jitter=0.0, retry_on=WorkerCrashedError
)
