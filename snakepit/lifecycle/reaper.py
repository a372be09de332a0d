"""Reaping the workers that were forked from a template, which has to be asked how they ended."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakepit.lifecycle.worker import Worker

logger = logging.getLogger("snakepit")


class Reaper:
    """Reaps dead workers one after the other, in a thread of its own.

    The template may be stopped, or busy with what a worker has left, and answers one at a time. The
    thread starts with the first worker and ends after the last. `reaped(worker)` is called there.
    """

    def __init__(self, name: str, reaped: Callable[[Worker], None]) -> None:
        self._name = name
        self._reaped = reaped
        self._lock = threading.Lock()
        self._queue: deque[Worker] = deque()
        self._runs = False

    def add(self, worker: Worker) -> None:
        """Have a dead worker reaped soon."""
        with self._lock:
            self._queue.append(worker)
            if self._runs:
                return
            self._runs = True
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except Exception:  # No room for another thread, or the interpreter ends.
            self._run()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._runs = False
                    return
                worker = self._queue.popleft()
            try:
                worker.reap()
            except Exception:
                logger.exception("snakepit: error while reaping worker %d", worker.pid)
            self._reaped(worker)
