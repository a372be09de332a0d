"""What a pool bounds: how many calls wait and for how long, how long one takes, what a worker may.

And which of these limits contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from snakepit.options import checked_count, checked_seconds, did_you_mean

__all__ = [
    "HEARTBEAT_INTERVAL",
    "HEARTBEAT_TIMEOUT",
    "MAX_MISSED",
    "PROFILES",
    "Limits",
    "checked_every",
    "checked_limits",
    "checked_span",
    "heartbeat_problems",
    "recycling_problems",
]

MOST_QUEUED = 1000
HEARTBEAT_INTERVAL = 1.0  # seconds
HEARTBEAT_TIMEOUT = 10.0  # seconds
MAX_MISSED = 3
SHORTEST_LIFE = 0.01  # seconds; hardly a worker starts in less


@dataclass(frozen=True)
class Limits:
    """Seconds, None for no limit."""

    timeout: float | None = 300.0
    stream_timeout: float | None = 900.0
    queue_timeout: float | None = 10.0
    max_queue_size: int | None = MOST_QUEUED


PROFILES = {
    "balanced": Limits(),
    "production": Limits(),
    "production_strict": Limits(60.0, 300.0, 5.0),
    "development": Limits(900.0, 3600.0, 60.0),
    "ml_inference": Limits(900.0, 3600.0, 60.0),
    "batch": Limits(3600.0, None, 300.0),
}


def checked_limits(
    *,
    profile: str | None,
    timeout: float | str | None,
    stream_timeout: float | str | None,
    queue_timeout: float | str | None,
    max_queue_size: float | None,
) -> Limits:
    """Return the limits of a pool: those of a timeout profile, and over them what is given.

    math.inf stands for no limit. Raises TypeError, ValueError.
    """
    if profile is None:
        profile = "balanced"
    if profile not in PROFILES:
        raise ValueError(
            f"timeout_profile must be one of {', '.join(PROFILES)}, not {profile!r}"
            f"{did_you_mean(profile, PROFILES)}"
        )
    base = PROFILES[profile]
    most: int | None = MOST_QUEUED
    if max_queue_size == math.inf:
        most = None
    elif max_queue_size is not None:
        most = checked_count("max_queue_size", max_queue_size)
    limits = Limits(
        checked_span("timeout", timeout, base.timeout),
        checked_span("stream_timeout", stream_timeout, base.stream_timeout),
        checked_span("queue_timeout", queue_timeout, base.queue_timeout),
        most,
    )
    check_together(
        None if timeout is None else limits.timeout,
        None if stream_timeout is None else limits.stream_timeout,
        None if queue_timeout is None else limits.queue_timeout,
    )
    return limits


def check_together(
    timeout: float | None, stream_timeout: float | None, queue_timeout: float | None
) -> None:
    """Raise ValueError where what a user set contradicts itself. None: not set, or no limit.

    What only a profile says, or a default, gives way: a call may not wait longer than its time.
    """
    for name, time in (("timeout", timeout), ("stream_timeout", stream_timeout)):
        if time is not None and queue_timeout is not None and queue_timeout > time:
            raise ValueError(
                f"queue_timeout ({queue_timeout:g} s) must be at most {name} ({time:g} s), which "
                "the wait for a worker is part of; lower the one, raise the other, or leave "
                "queue_timeout out"
            )


def heartbeat_problems(
    interval: float | None, timeout: float, max_missed: int
) -> Iterator[tuple[str, str]]:
    """Yield what contradicts itself in how stuck workers are found: an option, and a sentence.

    Seconds, None for no looks. What is at its default gives way.
    """
    timed, counted = timeout != HEARTBEAT_TIMEOUT, max_missed != MAX_MISSED
    if interval is None:
        for name, given, value in (
            ("heartbeat_timeout", timed, f"{timeout:g} s"),
            ("max_missed", counted, f"{max_missed}"),
        ):
            if given:
                yield (
                    name,
                    f"{name} ({value}) means nothing with heartbeat_interval=None, which looks at "
                    f"no worker: leave {name} out, or give heartbeat_interval in seconds",
                )
    elif interval > timeout and timed:
        yield (
            "heartbeat_interval",
            f"heartbeat_timeout ({timeout:g} s) must be at least heartbeat_interval "
            f"({interval:g} s): no worker can answer more often than it is looked at; raise the "
            "one, or lower the other",
        )
    elif timed and counted and interval * max_missed > timeout * (1 + 1e-9):
        yield (
            "max_missed",
            f"max_missed ({max_missed}) looks every heartbeat_interval ({interval:g} s) take "
            f"{interval * max_missed:g} s, longer than heartbeat_timeout ({timeout:g} s): lower "
            "max_missed or heartbeat_interval, or raise heartbeat_timeout",
        )


def recycling_problems(
    ttl: float | None, max_requests: int | None, max_tasks: int | None = None
) -> Iterator[tuple[str, str]]:
    """Yield what makes no sense in when workers are replaced: an option, and a sentence."""
    if ttl is not None and ttl < SHORTEST_LIFE:
        yield (
            "worker_ttl",
            f"worker_ttl ({ttl:g} s) must be at least {SHORTEST_LIFE:g} s: a worker takes longer "
            "to start, and none would serve; to replace it after so many calls, give "
            "worker_max_requests instead",
        )
    if max_requests is not None and max_tasks is not None and max_requests > max_tasks:
        yield (
            "worker_max_requests",
            f"worker_max_requests ({max_requests}) must be at most max_tasks_per_child "
            f"({max_tasks}), after which a worker ends in any case: lower the one, raise the "
            "other, or leave one out",
        )


def checked_span(name: str, value: float | str | None, default: float | None) -> float | None:
    """Return seconds; `default` for None, and None, which is no limit, for math.inf."""
    if value is None:
        return default
    if value == math.inf:
        return None
    return checked_seconds(name, value)


def checked_every(value: object) -> int | float | None:
    """Return how often a session is saved: calls, an int; seconds, a float; None for never.

    Raises TypeError, ValueError.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return float(checked_seconds("snapshot_every", value))
    return checked_count("snapshot_every", value)
