"""The names of the pools that run in this process; errors, metrics and dumps know pools by them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakMethod

from snakepit.errors import PoolExistsError

__all__ = ["UNNAMED", "PoolNames", "names"]

UNNAMED = "default"
"""What pools are called that were given no name: any number of them."""

Lives = Callable[[], bool]


class PoolNames:
    """Lets one pool at a time have a name; one that has ended, or was dropped, has none."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all; for a forked child, in which no pool of its owner runs."""
        # Re-entrant: a signal handler may start a pool.
        self._lock = threading.RLock()
        self._holders: dict[str, WeakMethod[Lives]] = {}

    def claim(self, name: str, lives: Lives) -> None:
        """Give a name to a pool. `lives`: a method of it that says whether it takes calls.

        Raises PoolExistsError when another that lives has it.
        """
        if name == UNNAMED:
            return
        with self._lock:
            self._holders = {n: one for n, one in self._holders.items() if _has_living(one)}
            holder = self._holders.get(name)
            if holder is not None and holder() not in (None, lives):
                raise PoolExistsError.of(name)
            self._holders[name] = WeakMethod(lives)

    def release(self, name: str, lives: Lives) -> None:
        """Take the name back, if that pool has it."""
        with self._lock:
            holder = self._holders.get(name)
            if holder is not None and holder() in (None, lives):
                del self._holders[name]


def _has_living(holder: WeakMethod[Lives]) -> bool:
    lives = holder()
    return lives is not None and lives()


names = PoolNames()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=names.begin_anew)
