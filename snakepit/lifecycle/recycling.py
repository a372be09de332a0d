"""Recycling: which workers shall be replaced, and the spares that take over from them.

A worker that is *due* (by age, tasks, memory or on request) goes on until a spare is ready; then
the two exchange places between two tasks (`_core/roster.pyx`). A running task is never ended by it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snakepit.lifecycle.starts import MOST_FAILED_STARTS

if TYPE_CHECKING:
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

REASONS = ("age", "requests", "memory", "manual", "tasks", "unhealthy")
MEMORY_INTERVAL = 1.0  # seconds between two looks at a worker's memory
JITTER = 0.1  # of the age limit: workers that started together do not end together
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class RecyclingPolicy:
    """When workers are replaced; None: not for this reason."""

    ttl: float | None = None  # seconds
    max_requests: int | None = None  # tasks after which a successor is made ready
    memory: int | None = None  # bytes of a worker's own memory
    max_tasks: int | None = None  # tasks that a worker runs at the very most

    def life_of_one(self) -> float | None:
        """Return the seconds after which one worker is due: the age limit, a little less."""
        if self.ttl is None:
            return None
        # `random` is slow to import, for one number.
        share = int.from_bytes(os.urandom(4), "big") / 2**32
        return self.ttl * (1 - JITTER * share)

    def tasks_until_worn(self) -> int | None:
        """Return after how many tasks a worker says that it needs a successor; 0: at once.

        Before the hard limit, so that the successor is ready when it is reached.
        """
        limits = [] if self.max_requests is None else [self.max_requests]
        if self.max_tasks is not None:
            limits.append(self.max_tasks - max(1, self.max_tasks // 10))
        return min(limits, default=None)

    def reason_when_worn(self) -> str:
        """Return why a worker that says so is due."""
        return "requests" if self.tasks_until_worn() == self.max_requests else "tasks"


@dataclass
class Errand:
    """Workers whose replacement somebody waits for."""

    pids: set[int]
    done: threading.Event = field(default_factory=threading.Event)
    failed_starts: int = 0  # in a row, meanwhile
    problem: str = ""  # why nobody can take over from those that are left

    def strike(self, pid: int) -> None:
        """Note that a process is gone."""
        self.pids.discard(pid)
        if not self.pids:
            self.done.set()

    def note_failed_start(self, why: str) -> None:
        """Note that a worker could not be started, and after a few such give up."""
        self.failed_starts += 1
        if self.failed_starts >= MOST_FAILED_STARTS:
            self.problem = why
            self.done.set()


class Recycler:
    """Marks workers of `pool` as due and keeps spares for them; used by its supervisor's thread."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor, policy: RecyclingPolicy) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._roster = pool.roster
        self.policy = policy
        self.counts: Counter[str] = Counter()
        self._errands: list[Errand] = []
        self._told_of_memory = False
        self.health_checks_failed = 0
        # Spares at once; staggered, and a few lanes are left for workers on their way out.
        places = pool.lanes // pool.threads
        self._most_spares = max(1, min(pool.size, (places - pool.size) // 2))
        # Of several threads, so many workers may be left in part, with calls that go on: one place
        # more is for the spare that takes the rest over.
        self._places = places
        self._most_in_part = max(1, places - pool.size - 1)

    # -- what is due -------------------------------------------------------------------------------

    def started(self, worker: Worker) -> None:
        """A worker process was started."""
        life = self.policy.life_of_one()
        worker.ends_at = None if life is None else worker.born + life
        if self.policy.tasks_until_worn() == 0:
            worker.due = "tasks"

    def worn(self, lane: int) -> None:
        """A worker said that it has run as many tasks as it should."""
        worker = self._supervisor.worker_on(lane)
        if worker is not None:
            self.mark(worker, self.policy.reason_when_worn())

    def unfit(self, lane: int, pid: int, reason: str) -> None:
        """A worker's adapter said that it is not fit for more: replace it."""
        worker = self._supervisor.worker_on(lane)
        # It may be dead and buried by now, and its lane another's.
        if worker is None or worker.pid != pid or worker.unfit:
            return
        worker.unfit = True
        self.health_checks_failed += 1
        logger.warning(
            "snakepit pool %s: worker %d (pid %d) is not fit and is replaced: %s",
            self._pool.name, worker.lane, pid, reason,
        )  # fmt: skip
        self.mark(worker, "unhealthy")

    def mark(self, worker: Worker, reason: str) -> None:
        """Make a worker due, and let it exchange at once if a spare is ready."""
        if worker.due is None or (worker.due == "tasks" and reason != "tasks"):
            worker.due = reason
        if worker.due != "tasks" and not self._roster.holds(worker.lane):
            # The rest of its lanes would let one another in, and it would never end.
            self._roster.give_up_held(worker.lane)
        if self._spare_is_ready():
            self._offer(worker)

    def recycle(self, lane: int | None, errand: Errand) -> None:
        """Replace one worker on request, or all of them."""
        chosen = [
            worker
            for worker in self._supervisor.workers.values()
            if lane in (None, worker.lane) and not self._roster.holds(worker.lane)
        ]
        errand.pids = {worker.pid for worker in chosen}
        if not chosen:
            errand.done.set()
            return
        self._errands.append(errand)
        for worker in chosen:
            self.mark(worker, "manual")

    def next_look(self) -> float | None:
        """Return the monotonic time at which `look` has something to do, None for never."""
        times = []
        if self.policy.ttl is not None:
            times += [
                worker.ends_at
                for worker in self._supervisor.workers.values()
                if worker.ends_at is not None
                and worker.due is None
                # Of a spare, or one that is starting, `look` makes nothing yet.
                and self._roster.serves(worker.lane)
            ]
        if self.policy.memory is not None and self._supervisor.workers:
            times.append(self._supervisor.last_look + MEMORY_INTERVAL)
        return min(times, default=None)

    def look(self, now: float) -> None:
        """Mark the workers that are too old or too big."""
        for worker in list(self._supervisor.workers.values()):
            if worker.due not in (None, "tasks") or not self._roster.serves(worker.lane):
                continue
            if worker.ends_at is not None and now >= worker.ends_at:
                self.mark(worker, "age")
            elif self.policy.memory is not None:
                self._weigh(worker, self.policy.memory)

    def _weigh(self, worker: Worker, limit: int) -> None:
        tasks = self._roster.completed(worker.lane)
        if tasks == worker.tasks_when_weighed and self._roster.running_since(worker.lane) == 0:
            return  # It did nothing since.
        worker.tasks_when_weighed = tasks
        resident = resident_memory(worker.pid)
        worker.last_memory = resident or worker.last_memory
        own = own_memory(worker.pid, resident) if resident > limit else resident
        if own <= limit:
            return
        if tasks == 0:
            # Not what its tasks left behind: a successor would be as big.
            if not self._told_of_memory and self._roster.running_since(worker.lane) == 0:
                self._told_of_memory = True
                logger.warning(
                    "snakepit pool %s: a worker that has run nothing yet has %d MB of memory, more "
                    "than the %d MB after which workers are replaced",
                    self._pool.name, own // 10**6, limit // 10**6,
                )  # fmt: skip
            return
        self.mark(worker, "memory")

    # -- spares ------------------------------------------------------------------------------------

    def next_start(self) -> bool | None:
        """Say what worker to start: True a spare, False one that serves at once, None: none.

        This is the reconciler: whatever happened, it compares what is there with what shall be.
        """
        if self._supervisor.ending or self._pool.broken is not None:
            return None
        serving, held = self._roster.census()
        workers = self._supervisor.workers
        capacity, threads = self._pool.capacity, self._pool.threads
        for worker in workers.values():
            if worker.draining:
                serving -= self._roster.serving(worker.lane)
        if held:
            spares = [worker for worker in workers.values() if self._has_held(worker)]
            # Ready ones first, and of those the ones that serve with some of their lanes.
            spares.sort(key=lambda worker: (not worker.ready, self._roster.holds(worker.lane)))
            for spare in spares:
                if serving < capacity:
                    serving += self._let_in(spare, capacity - serving)
            # Lanes that found no spare serve again, and nobody else would tell them of the next.
            for worker in workers.values():
                if worker.due is not None and self._spare_is_ready(besides=worker):
                    self._offer(worker, again=True)
            spares = [spare for spare in spares if self._roster.holds(spare.lane)]
        else:
            spares = []
        if serving < capacity:
            # Where fewer lanes are missing than a worker has, the rest of them is held.
            return serving + threads > capacity
        wanted = self._wanted_spares(serving - capacity)
        while len(spares) > wanted:
            spare = spares.pop()
            # One that is still starting will be ready soon; then we look again.
            if spare.ready and self._send_away(spare):
                spare.expected = True
        if len(spares) >= wanted:
            return None
        if not held and len(workers) >= self._places:
            self._make_room()
        return True

    def _make_room(self) -> None:
        """Let one due worker go without a successor, where all others wait for its place.

        Nobody who runs a call, and only where no place is about to be free: a worker of one thread
        never.
        """
        workers = self._supervisor.workers.values()
        if not all(
            worker.ready and not worker.buried and self._roster.serving(worker.lane)
            for worker in workers
        ):
            return
        idle = [
            worker
            for worker in workers
            if worker.due not in (None, "tasks") and not self._roster.running(worker.lane)
        ]
        if idle:
            least = min(idle, key=lambda worker: self._roster.serving(worker.lane))
            least.draining = True
            self._roster.retire(least.lane)

    def _wanted_spares(self, leaving: int) -> int:
        """Return how many spares there shall be.

        `leaving`: lanes that serve beyond the pool's size: they have let a spare in, and are about
        to say that they serve no more.
        """
        threads = self._pool.threads
        lanes = -leaving
        for worker in self._supervisor.workers.values():
            held = self._roster.held(worker.lane)
            if held == threads or worker.draining:
                continue
            if worker.due is not None:
                lanes += self._roster.serving(worker.lane)
            # What a spare that serves already with a part of its lanes has left is for them.
            lanes -= held
        return min(-(-max(0, lanes) // threads), self._most_spares)

    def _let_in(self, spare: Worker, most: int) -> int:
        self._supervisor.hurry(spare)
        return self._roster.let_in(spare.lane, most)

    def _send_away(self, spare: Worker) -> bool:
        if self._roster.send_away(spare.lane):
            return True
        if self._roster.held(spare.lane) == 0 and self._pool.threads > 1:
            # One of its lanes was let in at that moment, and the others are gone: no whole worker.
            spare.draining = True
            self._roster.retire(spare.lane)
            return True
        return False

    def _spare_is_ready(self, besides: Worker | None = None) -> bool:
        return any(
            worker.ready and worker is not besides and self._has_held(worker)
            for worker in self._supervisor.workers.values()
        )

    def _has_held(self, worker: Worker) -> bool:
        """Whether a worker has lanes that can be let in."""
        return not worker.buried and self._roster.held(worker.lane) > 0

    def ready(self, worker: Worker) -> None:
        """A worker is ready: a spare for who is due, or one that is due by now, for a spare."""
        for errand in self._errands:
            errand.failed_starts = 0
        if self._roster.held(worker.lane):
            for other in list(self._supervisor.workers.values()):
                if other is not worker:
                    self._offer(other)
        elif self._spare_is_ready():
            self._offer(worker)

    def _offer(self, worker: Worker, *, again: bool = False) -> None:
        # One with a hard limit ends by itself when it has reached that, and not before.
        if worker.due in (None, "tasks") or not self._roster.serves(worker.lane):
            return
        if self._would_stay(worker):
            return
        worker.offered = True
        if again:
            self._roster.offer_again(worker.lane)
        else:
            self._roster.offer(worker.lane)

    def _would_stay(self, worker: Worker) -> bool:
        """Whether a worker would be left in part with its calls, and too many are already.

        They would hold all places, and none be left for the spare that takes over from them.
        """
        threads, roster = self._pool.threads, self._roster
        if threads == 1 or roster.serving(worker.lane) < threads or not roster.running(worker.lane):
            return False

        def stays(other: Worker) -> bool:
            if other is worker or other.due is None or other.draining:
                return False
            if other.offered and roster.running(other.lane):
                return True
            return 0 < roster.serving(other.lane) < threads

        return sum(map(stays, self._supervisor.workers.values())) >= self._most_in_part

    def start_failed(self, why: str) -> None:
        """A worker could not be started: who waits for a replacement in vain is told so."""
        for errand in self._errands:
            errand.note_failed_start(why)
        self._errands = [errand for errand in self._errands if not errand.problem]

    def buried(self, worker: Worker, *, at_ease: bool) -> None:
        """A worker is gone; `at_ease`: because it ended by itself."""
        if at_ease and worker.due is not None:
            self.counts[worker.due] += 1
        for errand in self._errands:
            errand.strike(worker.pid)
        self._errands = [errand for errand in self._errands if errand.pids]
        # Killed between letting a spare in and waking it, a worker leaves that to us.
        for other in self._supervisor.workers.values():
            if other.spare and not self._roster.holds(other.lane):
                other.spare = self._roster.held(other.lane) > 0
                self._roster.ring(other.lane)

    def end(self) -> None:
        """No worker is left: nobody need wait any longer."""
        for errand in self._errands:
            errand.done.set()


def resident_memory(pid: int) -> int:
    """Return the bytes of memory that a process has resident, 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def own_memory(pid: int, resident: int) -> int:
    """Return what of a process's `resident` bytes it does not share in the arena."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"RssShmem:"):
                    return resident - int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return resident
