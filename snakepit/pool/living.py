"""A set of living objects that one thread may read while another changes it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class LivingSet(Generic[T]):
    """Knows objects without keeping them alive; iterating goes over those of that instant.

    A `weakref.WeakSet` bears the death of a member while it is iterated over, but not that another
    thread adds one.
    """

    def __init__(self) -> None:
        # Re-entrant: a finaliser may come here in the middle of a change.
        self._lock = threading.RLock()
        self._members: weakref.WeakSet[T] = weakref.WeakSet()

    def add(self, member: T) -> None:
        """Know `member`."""
        with self._lock:
            self._members.add(member)

    def discard(self, member: T) -> None:
        """Forget `member`, if it is known."""
        with self._lock:
            self._members.discard(member)

    def __iter__(self) -> Iterator[T]:
        with self._lock:
            return iter(list(self._members))

    def forget_in_child(self) -> list[T]:
        """In a forked child: forget all, whoever held the lock before; return who it was."""
        self._lock = threading.RLock()
        members = list(self._members)
        self._members = weakref.WeakSet()
        return members
