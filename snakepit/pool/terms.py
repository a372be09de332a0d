"""The terms of a call: what `Executor.options` takes, checked."""

from __future__ import annotations

import math
import weakref
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from snakepit.options import checked_bytes, checked_count, checked_seconds, did_you_mean
from snakepit.pool.affinity import MODES, check_session, checked_affinity

if TYPE_CHECKING:
    from snakepit.pool.breaker import CircuitBreaker
    from snakepit.pool.retry import RetryPolicy

MAX_CHUNKS = 100
MAX_BYTES = 16 << 20

PRIORITIES = {"high": 0, "normal": 1, "low": 2}

AffinityMode = Literal["hint", "strict_queue", "strict_fail_fast"]
Priority = Literal["high", "normal", "low"]


class CallWays(TypedDict, total=False):
    """By which way a call goes, as `Pool.execute` explains."""

    affinity: AffinityMode | None
    priority: Priority | None


class StreamWays(CallWays, total=False):
    """By which way a stream goes, as `Pool.stream` explains."""

    max_chunks: int | None
    max_bytes: float | str | None


class CallTerms(CallWays, total=False):
    """What `Pool.execute` takes beside the tool and its arguments."""

    timeout: float | str | None
    session: str | None


class StreamTerms(StreamWays, total=False):
    """What `Pool.stream` takes beside the tool and its arguments."""

    timeout: float | str | None
    session: str | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call is run under.

    `guarded`: whether a call may take several attempts, or be refused. `plain`: whether it is said
    no more than which worker takes a call, and when.
    """

    timeout: float | None = None
    priority: int = 1
    session: SessionKey | int = 0
    cancel_running: bool = False
    nested: bool = False  # submitted by a task, from whatever thread
    retry: RetryPolicy | None = None
    breaker: CircuitBreaker | None = None
    idempotent: bool = False
    affinity: int = 0  # a value of `MODES`
    max_chunks: int = MAX_CHUNKS  # of a stream, in flight; and bytes of payload
    max_bytes: int = MAX_BYTES
    queue_timeout: float | None = None  # seconds that it may wait for a worker

    # Each call reads them.
    guarded: bool = field(init=False)
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        guarded = self.retry is not None or self.breaker is not None or self.idempotent
        limited = self.timeout is not None or self.queue_timeout is not None
        object.__setattr__(self, "guarded", guarded)
        object.__setattr__(self, "plain", not (limited or self.cancel_running or guarded))

    @property
    def by_call(self) -> bool:
        """Whether the terms are those of one call, so that `map` cannot send several together."""
        return self.timeout is not None or self.retry is not None or self.breaker is not None


def checked_terms(
    *,
    timeout: float | str | None,
    priority: str,
    session: str | None,
    cancel_running: bool,
    retry: RetryPolicy | None,
    breaker: CircuitBreaker | None,
    idempotent: bool,
    affinity: str = "hint",
    max_chunks: int | None = None,
    max_bytes: float | str | None = None,
) -> Terms:
    """Return the terms that a user asked for. Raises TypeError, ValueError."""
    if timeout is not None and timeout != math.inf:
        timeout = checked_seconds("timeout", timeout)
    if not isinstance(cancel_running, bool):
        raise TypeError(f"cancel_running must be True or False, not {cancel_running!r}")
    urgency = checked_priority(priority)
    if retry is not None or breaker is not None:
        _check_guards(retry, breaker)
    if not isinstance(idempotent, bool):
        raise TypeError(f"idempotent must be True or False, not {idempotent!r}")
    check_session(checked_affinity(affinity), session)
    return Terms(
        timeout,
        urgency,
        0 if session is None else session_key(session),
        cancel_running,
        retry=retry,
        breaker=breaker,
        idempotent=idempotent,
        affinity=MODES[affinity],
        max_chunks=MAX_CHUNKS if max_chunks is None else checked_count("max_chunks", max_chunks),
        max_bytes=MAX_BYTES if max_bytes is None else checked_bytes("max_bytes", max_bytes),
    )


def checked_priority(priority: str) -> int:
    """Return the number of a priority; lower goes first. Raises ValueError."""
    if priority not in PRIORITIES:
        raise ValueError(
            f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}"
            f"{did_you_mean(priority, PRIORITIES)}"
        )
    return PRIORITIES[priority]


def bounded_terms(terms: Terms, max_chunks: int | None, max_bytes: float | str | None) -> Terms:
    """Return the terms of a stream with so much in flight; None: as they are.

    Raises TypeError, ValueError.
    """
    if max_chunks is None and max_bytes is None:
        return terms

    if max_chunks is not None:
        terms = replace(terms, max_chunks=checked_count("max_chunks", max_chunks))
    if max_bytes is not None:
        terms = replace(terms, max_bytes=checked_bytes("max_bytes", max_bytes))
    return terms


class SessionName(str):
    """A session's id, of which there may be weak references."""


class SessionKey(int):
    """The number by which a session is known to the scheduler, and its name.

    The tasks of the session hold it, so that its name is known for as long as any may ask for it,
    and no longer.
    """

    name: SessionName


_names: weakref.WeakValueDictionary[int, SessionName] = weakref.WeakValueDictionary()


def session_key(session: str) -> SessionKey:
    """Return the number by which a session is known to the scheduler; never 0.

    Raises TypeError; ValueError if it is empty, or if another session, still in use, has the same
    number.
    """
    if not isinstance(session, str):
        raise TypeError(f"session must be a string, not {session!r}")
    if not session:
        raise ValueError("session must not be empty; leave it out for a call without one")
    key = SessionKey(session_number(session))
    name = _names.get(key)
    if name is None:
        name = _names.setdefault(int(key), SessionName(session))
    if name != session:
        # By accident about never; but what one session keeps must not be shown to another.
        raise ValueError(
            f"session {session!r} cannot be used beside {str(name)!r}: their ids have the same "
            "checksum; rename one of them"
        )
    key.name = name
    return key


def session_number(session: str) -> int:
    """Return what `session_key` does, without its name."""
    encoded = session.encode()
    return (zlib.crc32(encoded) << 32 | zlib.adler32(encoded)) or 1


def session_name(key: int) -> SessionName | None:
    """Return the id of a session that is in use, None if there is no such.

    It is in use for as long as this is held.
    """
    return _names.get(key)


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
