"""A circuit breaker: calls that keep failing are refused for a while, then tried one by one.

          `failures` in a row                 `reset_timeout` has passed
closed ------------------------> open ----------------------------------> half-open
  ^                                ^                                          |
  |                                +--------------- a probe fails ------------+
  +---------------------------------- `probes` probes succeed ----------------+
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError

from snakepit.errors import (
    ArenaFullError,
    CircuitOpenError,
    EncodeError,
    ForkedPoolError,
    PoolNotReadyError,
    PoolShutdownError,
    TaskTimeoutError,
)
from snakepit.options import with_hints
from snakepit.pool.retry import checked_classes, checked_seconds

__all__ = ["CircuitBreaker"]

# What says nothing about the thing that is called: the call was cancelled, or never reached it.
_NEUTRAL = (
    ArenaFullError,
    CancelledError,
    CircuitOpenError,
    EncodeError,
    ForkedPoolError,
    PoolNotReadyError,
    PoolShutdownError,
)


class CircuitBreaker:
    """Refuses calls, with CircuitOpenError, once they keep failing; see `Executor.options`.

    `failures`: failed calls in a row that open it, by default 5.
    `reset_timeout`: seconds for which it then refuses every call, by default 30.
    `probes`: calls that it lets through after that; if all succeed it closes, if one fails it opens
    again. By default 1.
    `failure_on`: the exception classes that count as a failure, by default every `Exception`,
    timeouts and crashes of the worker among them. Other exceptions count as success: what was
    called has answered. What was cancelled or never reached a worker counts as neither.
    `name` stands in messages. `clock()` returns the time in seconds; for tests.

    One breaker may guard the calls of several executors: give each service that can fail its own.
    Thread-safe. Raises TypeError and ValueError for arguments that make no sense.
    """

    @with_hints
    def __init__(
        self,
        failures: int = 5,
        reset_timeout: float = 30.0,
        probes: int = 1,
        *,
        failure_on: type[BaseException] | Iterable[type[BaseException]] = (Exception,),
        name: str = "default",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for what, count in (("failures", failures), ("probes", probes)):
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"{what} must be a whole number, not {count!r}")
            if count < 1:
                raise ValueError(f"{what} must be at least 1, not {count}")
        self.name = name
        self._failures = failures
        self._reset_timeout = checked_seconds("reset_timeout", reset_timeout)
        self._probes = probes
        self._failure_on = checked_classes("failure_on", failure_on)
        self._clock = clock
        # Re-entrant, for a signal handler that calls while its thread is in here. Nothing below
        # runs foreign code between two changes.
        self._lock = threading.RLock()
        # Grows with each change of state: what was admitted before says nothing about the new one.
        self._period = 0
        self._failed = 0  # in a row, while closed
        self._opened_at: float | None = None  # None while closed
        self._probing = 0  # probes under way
        self._succeeded = 0  # probes that did

    @property
    def state(self) -> str:
        """What the next call meets: "closed", "open" or "half-open"."""
        now = self._clock()
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "open" if self._seconds_left(now) > 0 else "half-open"

    @property
    def retry_after(self) -> float:
        """Seconds until a call may be let through as a probe; 0.0 unless the breaker is open."""
        now = self._clock()
        with self._lock:
            return self._seconds_left(now)

    def reset(self) -> None:
        """Close the breaker, whatever happened."""
        with self._lock:
            self._close()

    def admit(self) -> int:
        """Let a call through and return its permit, for `settle`. Raises CircuitOpenError."""
        now = self._clock()
        with self._lock:
            if self._opened_at is None:
                return self._period
            left = self._seconds_left(now)
            if left == 0 and self._probing + self._succeeded < self._probes:
                self._probing += 1
                return self._period
            failed = self._failed
        details = {"breaker": self.name, "failures": failed, "retry_after": left}
        if left == 0:
            raise CircuitOpenError(
                f"circuit breaker {self.name!r} is half-open: it waits for the outcome of the "
                "calls that it let through as probes, and refuses others until then",
                details=details,
            )
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
        raise CircuitOpenError(
            f"circuit breaker {self.name!r} is open until {until}, for another {left:.3g} s, "
            f"after {failed} failed calls; the call did not run",
            details=details,
        )

    def settle(self, permit: int, error: BaseException | None) -> None:
        """Tell how the call with this permit ended: once for each `admit`."""
        neutral = isinstance(error, _NEUTRAL) or (
            isinstance(error, TaskTimeoutError) and error.details.get("phase") == "queued"
        )
        failed = isinstance(error, self._failure_on) or (
            # An exit or interrupt that the call raised is no answer either.
            error is not None and not isinstance(error, Exception)
        )
        now = self._clock()
        with self._lock:
            if permit != self._period:
                return
            if self._opened_at is not None:
                self._probing -= 1
            if neutral:
                return
            if failed:
                if self._opened_at is None:
                    self._failed += 1
                if self._opened_at is not None or self._failed >= self._failures:
                    self._open(now)
            elif self._opened_at is None:
                self._failed = 0
            else:
                self._succeeded += 1
                if self._succeeded >= self._probes:
                    self._close()

    def _open(self, now: float) -> None:
        self._period += 1
        self._opened_at = now
        self._probing = self._succeeded = 0

    def _close(self) -> None:
        self._period += 1
        self._opened_at = None
        self._failed = self._probing = self._succeeded = 0

    def _seconds_left(self, now: float) -> float:
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._reset_timeout - now)

    def __repr__(self) -> str:
        return f"<snakepit.CircuitBreaker {self.name!r}: {self.state}>"
