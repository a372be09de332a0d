"""Stopping a running task: the cooperative flag, then SIGTERM, then SIGKILL for its worker."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snakepit._core.task import Task
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.pool.pool import ProcessPool

FLAG_GRACE = 0.1  # seconds between the cooperative flag and SIGTERM


class Ladder:
    """Climbs from asking to killing, in the supervisor's thread."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor

    def stop_task(self, task: Task) -> None:
        """Stop a running task: the cooperative flag, then SIGTERM, then SIGKILL for its worker."""
        scheduler = self._pool.scheduler
        if scheduler.ask_to_stop(task):
            self._supervisor.at(time.monotonic() + FLAG_GRACE, lambda: self._end_worker_of(task))

    def _end_worker_of(self, task: Task) -> None:
        scheduler = self._pool.scheduler
        lane = scheduler.lane_of_task(task, True)
        worker = self._supervisor.workers.get(lane)
        if worker is None:
            return
        # Told to retire, the worker claims nothing after this task. Still running it now, it runs
        # nothing else when the signal arrives; if the task ended meanwhile, the worker ends by
        # itself and a new one takes its place.
        scheduler.retire_lane(lane)
        worker.expected = True
        if scheduler.lane_of_task(task, True) == lane:
            worker.victim = task
            worker.send(signal.SIGTERM)
            self._supervisor.kill_later(worker)
