"""Health: telling a worker that is stuck from one that is busy, and replacing it.

Nothing is asked of a worker that works, or of one that has nothing to do: the owner reads shared
memory. Only a lane is rung that stands idle beside work that it should have taken, that holds a
task and has not said so, or that stays though it was told to go; a healthy one comes round and says
so. A lane that runs one task for long is busy, whatever that task does, unless its process is
stopped.
"""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snakepit.lifecycle.identity import process_state
from snakepit.lifecycle.recycling import resident_memory

if TYPE_CHECKING:
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

MOST_STATES = 64  # processes of busy workers whose state is read in one look


@dataclass(frozen=True)
class HealthPolicy:
    """How patient the supervisor is. Seconds."""

    interval: float | None = 1.0  # between two looks; None: it never looks
    timeout: float = 10.0  # without a sign of life before a worker is replaced
    max_missed: int = 3  # looks without an answer before that


@dataclass
class Suspicion:
    """A worker that gave no sign of life since `since`."""

    worker: Worker
    lane: int
    heartbeat: int
    since: float
    missed: int = 0
    stopped: bool = False  # its process is stopped, in the middle of a task
    lingers: bool = False  # it was told to go, and has not


class Health:
    """Looks after the workers of `pool`, in its supervisor's thread."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor, policy: HealthPolicy) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._roster = pool.roster
        self.policy = policy
        self._suspects: dict[int, Suspicion] = {}
        self._last = time.monotonic()
        self._turn = 0
        self.replaced = 0

    def next_look(self) -> float | None:
        """Return the monotonic time of the next look, None for never."""
        if self.policy.interval is None or not self._supervisor.workers:
            return None
        return self._last + self.policy.interval

    def look(self, now: float) -> None:
        """Ring who should have come round, and replace who does not answer."""
        assert self.policy.interval is not None
        late = now - self._last - self.policy.interval
        self._last = now
        if late > self.policy.interval + 1.0:
            # We did not run either: the machine slept, or all of us were stopped. Whatever the
            # workers missed meanwhile proves nothing.
            self._suspects.clear()
        for lane, suspicion in list(self._suspects.items()):
            if self._is_cleared(suspicion):
                del self._suspects[lane]
            else:
                suspicion.missed += 1
                self._judge(suspicion, now)
        idle, long = self._roster.overdue(int(self.policy.interval * 1e9))
        for lane in {*idle, *self._pool.scheduler.stranded()}:
            worker = self._supervisor.worker_on(lane)
            if worker is not None and worker.ready and not worker.draining:
                self._suspect(worker, lane, now)
                # Rung, it either takes the work or shows that it cannot. Whichever lane was woken
                # for that work and did not come, the others come now.
                self._roster.ring(lane)
        for lane in self._roster.lingering():
            worker = self._supervisor.worker_on(lane)
            if worker is not None and worker.ready:
                self._suspect(worker, lane, now).lingers = True
                self._roster.ring(lane)
        # In turns, if they are many: each look costs a system call or three.
        step = len(long) // MOST_STATES + 1
        self._turn += 1
        for lane in long[self._turn % step :: step]:
            worker = self._supervisor.worker_on(lane)
            if worker is None:
                continue
            # For its autopsy: once it is dead, the kernel knows no more than the most it ever had.
            worker.last_memory = resident_memory(worker.pid) or worker.last_memory
            if process_state(worker.pid) == "T":
                self._suspect(worker, lane, now).stopped = True

    def _suspect(self, worker: Worker, lane: int, now: float) -> Suspicion:
        known = self._suspects.get(lane)
        if known is None or known.worker is not worker:
            known = Suspicion(worker, lane, self._roster.heartbeat(lane), now)
            self._suspects[lane] = known
        return known

    def _is_cleared(self, suspicion: Suspicion) -> bool:
        worker = suspicion.worker
        if self._supervisor.worker_on(worker.lane) is not worker:
            return True
        # Who asked for its end sees to that, but nobody does where it was only told to go.
        if worker.expected and not suspicion.lingers:
            return True
        if self._roster.heartbeat(suspicion.lane) != suspicion.heartbeat:
            return True
        if self._roster.lane_info(suspicion.lane)["state"] != "ready":
            return True  # It has left, and its teardown may take time.
        # "t" is a debugger's: whoever looks into a worker does not want to see it killed.
        state = process_state(worker.pid)
        return state == "t" or (suspicion.stopped and state != "T")

    def _judge(self, suspicion: Suspicion, now: float) -> None:
        silent = now - suspicion.since
        if suspicion.missed < self.policy.max_missed or silent < self.policy.timeout:
            return
        worker = suspicion.worker
        del self._suspects[suspicion.lane]
        self.replaced += 1
        worker.stuck = worker.expected = True
        # From now on it claims nothing. If it has come to life and claimed a task just before, it
        # ends after that.
        self._roster.retire(worker.lane)
        what = "does not go" if suspicion.lingers else "takes no work"
        if process_state(worker.pid) == "T":
            what = "is stopped"
        timeout = f"heartbeat_timeout={self.policy.timeout:g} s"
        reason = f"found stuck: it {what} and gave no sign of life for {timeout}"
        if self._roster.running_since(worker.lane) and not suspicion.stopped:
            if len(worker.lanes) > 1:
                # The tasks of its other threads have time to end; the one that is stuck will not.
                worker.reason = reason
                self._supervisor.ladder.drain(worker)
            return
        logger.warning(
            "snakepit pool %s: worker %d (pid %d) %s and gave no sign of life for %.3g s; "
            "it is ended",
            self._pool.name, worker.lane, worker.pid, what, silent,
        )  # fmt: skip
        # Not SIGTERM: a stopped process would not see it.
        worker.send(signal.SIGKILL, reason)
