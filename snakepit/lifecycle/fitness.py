"""Asking idle workers whether they are fit for more, where their adapter has an answer.

    supervisor's thread     a word in the lane of a worker that runs nothing, and a ring
    worker, on its waking   the adapter's health(), between two tasks (`WorkerLane.be_examined`)
    unfit                   mail to the owner --> `Recycler.unfit`: replaced, as if it were too old

It is no call: nobody's place in a queue is taken, no counter of calls moves, and a worker that is
busy is not disturbed, since it looks at the word only when it finds no work. One whose health()
hangs stands idle beside work that it should take, and `lifecycle/health.py` sees to that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from snakepit.options import checked_seconds

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool


def checked_health_interval(value: object, heartbeat: object) -> float | None:
    """Return the seconds between two looks, None for never; by default those of the heartbeat.

    Raises TypeError, ValueError.
    """
    if value is None:
        return None if heartbeat is None else checked_seconds("heartbeat_interval", heartbeat)
    if value == math.inf:
        return None
    return checked_seconds("health_interval", value)


class Fitness:
    """Asks the workers of a pool, one look after the other, once it has begun."""

    def __init__(self, engine: ProcessPool, interval: float) -> None:
        self._engine = engine
        self._interval = interval

    def begin(self) -> None:
        """Look from now on, until the pool ends."""
        self._engine.supervisor.after(self._interval, self._look)

    def _look(self) -> None:
        for worker in list(self._engine.supervisor.workers.values()):
            if worker.ready and worker.due is None and not worker.expected:
                self._engine.roster.examine(worker.lane)
        self.begin()
