"""Lending queued tasks to workers that wait for host tools.

A host tool may submit tasks to the pool and wait for them. While every worker waits for a host
tool, nobody claims tasks, and host tools that wait for tasks would wait for ever. Then, and only
then, queued tasks are taken back and sent to waiting workers by their links; each runs there on top
of the task that waits. So a host tool may call the pool at any depth. A strict call is lent to the
worker of its session alone, and to that one whenever it waits.
"""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any

from snakepit.errors import DecodeError, RemoteTraceback, TaskStoppedError
from snakepit.worker.link import LEND

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

SOON = 0.002  # seconds that a host tool has to end before anything is lent
LOOK = 0.05  # seconds between two looks while anybody waits
KEPT = 8


class Lender:
    """Knows who waits for a host tool, and what was lent to whom."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        # Re-entrant: a finaliser may drop the last reference to a task's future anywhere.
        self._lock = threading.RLock()
        # By worker (its first lane) and number: the waits there, each with what was lent on top.
        self._waits: dict[int, dict[int, int | None]] = {}
        self._loans: dict[int, tuple[int, int, Any]] = {}  # by number: worker, wait, task
        self._numbers = itertools.count(1)
        self._looking = False

    def _worker_of(self, lane: int) -> int:
        return lane - lane % self._pool.threads

    def waits(self, lane: int, number: int) -> None:
        """A worker waits for a host tool, in one of its threads."""
        with self._lock:
            self._waits.setdefault(self._worker_of(lane), {})[number] = None
            begin, self._looking = not self._looking, True
            starved = self._all_wait()
        if begin:
            self._pool.supervisor.after(LOOK, self._keep_looking)
        if starved:
            self._pool.supervisor.after(SOON, self._look)

    def waits_no_more(self, lane: int, number: int) -> None:
        """The host tool has ended. Nothing is lent under this number after this."""
        worker = self._worker_of(lane)
        with self._lock:
            waits = self._waits.get(worker, {})
            waits.pop(number, None)
            if not waits:
                self._waits.pop(worker, None)

    def forget(self, lane: int) -> list[Any]:
        """The lane's worker is dead; returns the tasks that were lent to it, to be failed."""
        worker = self._worker_of(lane)
        with self._lock:
            self._waits.pop(worker, None)
            numbers = [number for number, loan in self._loans.items() if loan[0] == worker]
            return [self._loans.pop(number)[2] for number in numbers]

    def has(self, task: Any) -> bool:
        """Whether the task is lent to a worker."""
        with self._lock:
            return any(lent is task for _, _, lent in self._loans.values())

    def has_call_of(self, key: int) -> bool:
        """Whether a strict call of a session is lent. Without the lock: workers wait for this."""
        loans = list(self._loans.values())
        return any(task.session_key == key and task.session_name for _, _, task in loans)

    def _idle_waits(self, worker: int) -> list[int]:
        """Return the numbers under which the worker's threads wait and run nothing for others."""
        waits = self._waits.get(worker, {})
        return [number for number, loan in waits.items() if loan is None]

    def _all_wait(self) -> bool:
        workers = range(0, self._pool.lanes, self._pool.threads)
        return bool(self._waits) and all(map(self._only_waits, workers))

    def _only_waits(self, worker: int) -> bool:
        """Whether none of the worker's lanes would claim a task; a lane that is held would not."""
        return len(self._idle_waits(worker)) >= self._pool.roster.taking(worker)

    def _keep_looking(self) -> None:
        """Look now and then while anybody waits: the last other worker may just have ended."""
        self._look()
        with self._lock:
            goes_on = self._looking = bool(self._waits)
        if goes_on:
            self._pool.supervisor.after(LOOK, self._keep_looking)

    def _look(self) -> None:
        """Lend what is queued, if every worker waits; in the supervisor's thread.

        To a worker that waits while others do not, its own strict calls, which no other may run.
        """
        with self._lock:
            bound = not self._all_wait()
            if bound and self._pool.scheduler.bindings is None:
                return
            for worker in [worker for worker in self._waits if self._only_waits(worker)]:
                for waiter in reversed(self._idle_waits(worker)):
                    loan = self._lend_to(worker, waiter, bound)
                    if loan is None:
                        break
                    # Under the lock, so that it is under way before the host tool's answer is.
                    self._pool.nested.send(*loan)

    def _lend_to(self, worker: int, waiter: int, bound: bool) -> Any:
        """Take a task out of the queues for a worker; returns what to send, None without one.

        `bound`: a strict call of this worker's. Those of others are never taken.
        """
        scheduler = self._pool.scheduler
        for task in sorted(scheduler.in_slots(), key=lambda task: task.number):
            parts = scheduler.loan_of(task)
            kind, definition, epoch, session, encoding, flags, payload, segment, length = parts
            if flags & KEPT and segment is not None:
                continue  # Other attempts need the segment.
            strict = task.session_name is not None
            if bound and not strict:
                continue
            number = next(self._numbers)
            # Before, so that its session, if it moves, is not taken up elsewhere meanwhile.
            self._loans[number] = (worker, waiter, task)
            if not scheduler.lend(task, worker, bound):
                del self._loans[number]
                continue
            self._waits[worker][waiter] = number
            message = encoding, flags, payload, segment, length
            return worker, LEND, waiter, message, (number, kind, definition, epoch, session)
        return None

    def ran(self, number: int, message: tuple[int, Any, Any, int]) -> None:
        """Settle a task that was lent, by what its worker says; callbacks run in this thread."""
        with self._lock:
            worker, waiter, task = self._loans.pop(number, (0, 0, None))
            if self._waits.get(worker, {}).get(waiter) == number:
                self._waits[worker][waiter] = None
            starved = self._all_wait()
        if starved:
            self._pool.supervisor.after(0.0, self._look)
        if task is None:
            return
        error: BaseException | None = None
        try:
            failed, outcome = self._pool.scheduler.channel.decode_bytes(*message)
            if failed:
                error, text, outcome = outcome
                error.__cause__ = RemoteTraceback(text)
        except BaseException as problem:
            outcome = None
            error = DecodeError(
                f"the result of the task cannot be rebuilt: {type(problem).__name__}: {problem}",
                details={"task": task.number},
            )
            error.__cause__ = problem
        self._pool.scheduler.conclude(task, outcome, error)

    def stop(self, task: Any) -> bool:
        """Give a lent task up: its future fails at once, though it runs on where it runs."""
        if not self.has(task):
            return False
        self._pool.scheduler.fail(
            task,
            TaskStoppedError(
                "the task was stopped on request; it ran on a worker that waits for a host tool, "
                "which is not ended for it",
                details={"task": task.number},
            ),
        )
        return True
