"""What a store remembers of sessions that have expired, so that it can say so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakepit.sessions.session import Session

__all__ = ["MOST_TOMBSTONES", "Tombstones", "worded"]

MOST_TOMBSTONES = 1024


class Tombstones:
    """The ids of the sessions that were removed last because they had expired.

    Of more than MOST_TOMBSTONES, the oldest are forgotten. Thread-safe.
    """

    def __init__(self) -> None:
        # Re-entrant, as the store's own: a finaliser or signal handler may come here while its
        # thread is in here.
        self._lock = threading.RLock()
        self._removed: dict[str, tuple[float, float]] = {}  # time to live, when it was removed

    def __len__(self) -> int:
        return len(self._removed)

    def add(self, sessions: Sequence[Session], now: float) -> None:
        """Remember sessions that have just been removed."""
        with self._lock:
            for session in sessions[-MOST_TOMBSTONES:]:
                # As the latest, also where there was one of this id.
                self._removed.pop(session.id, None)
                self._removed[session.id] = session.ttl, now
            while len(self._removed) > MOST_TOMBSTONES:
                del self._removed[next(iter(self._removed))]

    def find(self, id: str) -> tuple[float, float] | None:
        """Return a removed session's time to live and when it was removed, if that is known."""
        with self._lock:
            return self._removed.get(id)

    def take(self, id: str) -> tuple[float, float] | None:
        """Forget a removed session; return what was known of it."""
        with self._lock:
            return self._removed.pop(id, None)


def worded(tombstone: tuple[float, float], now: float) -> str:
    """Say what a tombstone does."""
    ttl, removed = tombstone
    return f"not used for {ttl:g} s, its time to live; removed {now - removed:.1f} s ago"
