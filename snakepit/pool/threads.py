"""A pool's own threads."""

from __future__ import annotations

import threading
from collections.abc import Callable


class PoolThread(threading.Thread):
    """A thread of a pool that can be kept from beginning: `start` may fail, or be interrupted.

    Who is interrupted in it, by Ctrl-C for instance, does not know whether there is a thread now.
    """

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._body = body
        # Taken once, and never waited for: by the thread as it begins, or by who withdraws it.
        self._claim = threading.Lock()

    def run(self) -> None:
        """Run the body, unless the thread was withdrawn."""
        if self._claim.acquire(blocking=False):
            self._body()

    def withdraw(self) -> bool:
        """Keep the thread, if there is one, from its body; False when it has begun."""
        return self._claim.acquire(blocking=False)
