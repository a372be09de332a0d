"""Workers that have left, and whose processes do not end.

A worker that claims nothing any more has its sessions to hand in, a teardown to run and threads of
tasks to wait for. It bounds each of these itself (`worker/process.py`, `adapters/host.py`), but
code that holds the interpreter, or hangs in an exit handler, can keep it from that; and until its
process is gone, its lanes are nobody's.
"""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

LEAVE_GRACE = 60.0  # seconds; longer than a worker takes to hand in its sessions and tear down
LOOK = 5.0  # seconds between two looks whether a worker has left: none says so


class Leaving:
    """Ends the processes of workers that have left `pool`; used by its supervisor's thread."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._last = 0.0

    def next_look(self) -> float | None:
        """Return the monotonic time at which `look` may have something to do, None for never."""
        times = [
            self._last + LOOK if worker.left_at is None else worker.left_at + LEAVE_GRACE
            for worker in self._supervisor.workers.values()
            if worker.left_at is not None or worker.due or worker.spare or worker.expected
        ]
        return min(times, default=None)

    def note(self, worker: Worker) -> None:
        """A worker has only to end from now on."""
        if worker.left_at is None:
            worker.left_at = time.monotonic()

    def look(self, now: float) -> None:
        """Note who has left, and end who has left long ago."""
        self._last = now
        for worker in list(self._supervisor.workers.values()):
            if worker.left_at is None:
                if self._pool.roster.has_left(worker.lane):
                    worker.left_at = now
            elif now >= worker.left_at + LEAVE_GRACE:
                self._end(worker)

    def _end(self, worker: Worker) -> None:
        logger.warning(
            "snakepit pool %s: worker %d (pid %d) has left, but its process did not end within "
            "%g s: it is ended",
            self._pool.name, worker.lane, worker.pid, LEAVE_GRACE,
        )  # fmt: skip
        worker.expected = True
        worker.left_at = float("inf")
        worker.send(signal.SIGTERM, "replacement")
        self._supervisor.kill_later(worker)
