"""Threads that run what may block: as many as there is to run at once, and none that stay idle."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

logger = logging.getLogger("snakepit")

IDLE_SECONDS = 5.0  # that a thread waits for more to run before it ends


class Crew:
    """Runs jobs at once, each on a thread of its own; threads are used again, the warmest first.

    There is no most: what runs here may wait for what is yet to run here, at any depth, so a job
    that had to queue behind others could wait for ever.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Re-entrant: a finaliser or signal handler may come here in the middle of `run`.
        self._lock = threading.RLock()
        self._idle: list[_Seat] = []
        self._closed = False

    def run(self, job: Callable[[], object]) -> None:
        """Have a thread run `job()` now."""
        with self._lock:
            seat = self._idle.pop() if self._idle else None
        if seat is None:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()
        else:
            seat.jobs.append(job)
            seat.called.set()

    def _work(self, job: Callable[[], object] | None) -> None:
        seat = _Seat()
        while job is not None:
            try:
                job()
            except BaseException:
                logger.exception("snakepit: error in a thread of %s", self._name)
            # Idle, the thread must not keep the last job's objects alive.
            job = None
            with self._lock:
                if self._closed:
                    return
                self._idle.append(seat)
            seat.called.wait(IDLE_SECONDS)
            with self._lock:
                if seat in self._idle:
                    # Nobody will call any more.
                    self._idle.remove(seat)
                    return
            # Taken off the list, so that a job is here or about to be.
            seat.called.wait()
            seat.called.clear()
            job = seat.jobs.popleft() if seat.jobs else None

    def close(self) -> None:
        """Let the threads end, each after what it runs."""
        with self._lock:
            self._closed = True
            seats, self._idle = self._idle, []
        for seat in seats:
            seat.called.set()


class _Seat:
    """Where an idle thread waits to be called."""

    __slots__ = ("called", "jobs")

    def __init__(self) -> None:
        self.called = threading.Event()
        self.jobs: deque[Callable[[], object]] = deque()
