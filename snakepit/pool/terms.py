"""The terms of a call: what `Executor.options` takes, checked."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.retry import RetryPolicy

PRIORITIES = {"high": 0, "normal": 1, "low": 2}


@dataclass(frozen=True)
class Terms:
    """What a call is run under."""

    timeout: float | None = None
    priority: int = 1
    session: int = 0
    cancel_running: bool = False
    nested: bool = False  # submitted by a task, from whatever thread
    retry: RetryPolicy | None = None
    breaker: CircuitBreaker | None = None
    idempotent: bool = False
    queue_timeout: float | None = None  # seconds that it may wait for a worker

    @property
    def guarded(self) -> bool:
        """Whether a call may take several attempts, or be refused."""
        return self.retry is not None or self.breaker is not None or self.idempotent

    @property
    def by_call(self) -> bool:
        """Whether the terms are those of one call, so that `map` cannot send several together."""
        return self.timeout is not None or self.retry is not None or self.breaker is not None


def checked_terms(
    *,
    timeout: float | None,
    priority: str,
    session: str | None,
    cancel_running: bool,
    retry: RetryPolicy | None,
    breaker: CircuitBreaker | None,
    idempotent: bool,
) -> Terms:
    """Return the terms that a user asked for. Raises TypeError, ValueError."""
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, or None, not {timeout!r}")
    if priority not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}")
    if retry is not None or breaker is not None:
        _check_guards(retry, breaker)
    if not isinstance(idempotent, bool):
        raise TypeError(f"idempotent must be True or False, not {idempotent!r}")
    return Terms(
        timeout,
        PRIORITIES[priority],
        0 if session is None else session_key(session),
        cancel_running,
        retry=retry,
        breaker=breaker,
        idempotent=idempotent,
    )


def session_key(session: str) -> int:
    """Return the number by which a session is known to the scheduler; never 0. Raises TypeError."""
    if not isinstance(session, str):
        raise TypeError(f"session must be a string, not {session!r}")
    name = session.encode()
    return (zlib.crc32(name) << 32 | zlib.adler32(name)) or 1


def _check_guards(retry: Any, breaker: Any) -> None:
    # Imported when first used: most programs never are in need of them.
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.retry import RetryPolicy

    if retry is not None and not isinstance(retry, RetryPolicy):
        raise TypeError(f"retry takes a snakepit.RetryPolicy, or None, not {retry!r}")
    if breaker is not None and not isinstance(breaker, CircuitBreaker):
        raise TypeError(
            f"breaker takes a snakepit.CircuitBreaker, or None, not {breaker!r}; keep one for "
            "each thing that can fail, and give it to every call of that"
        )
