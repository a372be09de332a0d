"""Notes that are run later, by one thread that exists only while there are any."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("snakepit")


class Timers:
    """Runs notes at their times; for pools that have no supervisor. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` run in `seconds`; it must not block."""
        with self._condition:
            when = time.monotonic() + seconds
            heapq.heappush(self._heap, (when, next(self._numbers), note))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            else:
                self._condition.notify()

    def clear(self) -> None:
        """Forget every note; the thread ends."""
        with self._condition:
            self._heap.clear()
            self._condition.notify()

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._heap:
                    self._thread = None
                    return
                when, _, note = self._heap[0]
                left = when - time.monotonic()
                if left > 0:
                    self._condition.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                heapq.heappop(self._heap)
            try:
                note()
            except Exception:
                logger.exception("%s: error in a timer", self._name)
            del note
