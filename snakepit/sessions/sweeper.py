"""The thread that removes expired sessions from a store, for as long as somebody has the store."""

from __future__ import annotations

import logging
import threading
import weakref
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakepit.sessions.store import SessionStore

__all__ = ["Sweeper"]

logger = logging.getLogger("snakepit")


class Sweeper:
    """Calls the store's `sweep` every `interval` seconds, in a daemon thread, until it is ended.

    It ends by itself when the store is collected.
    """

    def __init__(self, store: SessionStore, interval: float) -> None:
        # A finaliser may end it in the middle of anything, such as its own waiting: put() of this
        # queue is made for that, and takes no lock that somebody may hold. An Event's does.
        self._end: SimpleQueue[None] = SimpleQueue()
        end = self._end
        self._store = weakref.ref(store, lambda _: end.put(None))
        self._thread = threading.Thread(
            target=_run,
            args=(self._store, interval, self._end),
            name="snakepit-sessions",
            daemon=True,
        )

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if the interpreter is ending."""
        self._thread.start()

    def end(self) -> None:
        """Have the thread end, and wait for it unless it is this one."""
        self._end.put(None)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _run(reference: weakref.ref[SessionStore], interval: float, end: SimpleQueue[None]) -> None:
    from queue import Empty

    while True:
        try:
            end.get(timeout=interval)
            return
        except Empty:
            pass
        store = reference()
        if store is None:
            return
        try:
            store._sweep()
        except Exception:
            logger.exception("the expired sessions of %r could not be removed", store)
        del store
