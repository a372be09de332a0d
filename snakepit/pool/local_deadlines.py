"""The limits in time of a local pool's calls, and what their futures are told when one is kept."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from snakepit.errors import TaskInterrupt, TaskStoppedError, TaskTimeoutError
from snakepit.lifecycle.deadlines import (
    Deadlines,
    Timekeeper,
    queue_timeout_error,
    subject_of,
    unstarted_error,
)

if TYPE_CHECKING:
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool

logger = logging.getLogger("snakepit")


class Ledger:
    """What a local pool's counters are to be corrected by, for calls that were late.

    The queue counts a call when its thread is done with it, and one that never ran as cancelled;
    but a late call has failed, and at its deadline.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._corrections = {"completed": 0, "failed": 0, "cancelled": 0}
        # By number: calls that have failed and still run, with what they failed with.
        self._running: dict[int, tuple[Any, TaskTimeoutError]] = {}

    def late(self, task: Any, error: TaskTimeoutError) -> None:
        """A call fails that goes on running."""
        with self._lock:
            self._running[task.number] = (task, error)
            self._corrections["failed"] += 1

    def never_ran(self) -> None:
        """A call has failed that was taken out of the queue."""
        with self._lock:
            self._corrections["failed"] += 1
            self._corrections["cancelled"] -= 1

    def ended(self, task: Any, counted: str | None) -> TaskTimeoutError | None:
        """Return what a late call failed with, once it has ended; None for one that is not late.

        `counted`: what the queue has counted it as; None: not yet, or it will count.
        """
        if task.number not in self._running:
            return None
        with self._lock:
            entry = self._running.pop(task.number, None)
            if entry is None:
                return None
            self._corrections["failed" if counted is None else counted] -= 1
            return entry[1]

    def running(self) -> list[Any]:
        """Return the calls that have failed and still run."""
        with self._lock:
            return [task for task, _ in self._running.values()]

    def corrections(self) -> dict[str, int]:
        """Return what is to be added to the queue's counters."""
        with self._lock:
            return dict(self._corrections)


class LocalDeadlines:
    """Watches the calls of a local pool, in the timekeeper's thread."""

    def __init__(self, pool: LocalPool, timekeeper: Timekeeper) -> None:
        self._pool = pool
        self._deadlines = Deadlines(timekeeper.at, self._expire)
        self._patience = Deadlines(timekeeper.at, self._lose_patience)
        self.ledger = Ledger()

    def watch(self, future: Future[Any], timeout: float | None, patience: float | None) -> None:
        """Watch a call that has just been queued: seconds until it must have ended, and started."""
        # Mostly a call starts long before its patience is at an end, and only then is its deadline
        # the next thing to look at: one entry will do.
        if patience is not None and (timeout is None or patience < timeout):
            self._patience.add(future, patience)
        elif timeout is not None:
            self._deadlines.add(future, timeout)

    def _lose_patience(self, future: Future[Any], patience: float, started: float) -> None:
        queue = self._pool.queue
        subject = subject_of(self._pool, future)
        if queue.cancel_queued(future):
            self.ledger.never_ran()
            unread = self._pool.unread_streams()
            queue.fail(future, queue_timeout_error(subject, patience, unread=unread))
        elif future.deadline_ns:
            timeout = future.timeout_ns / 1e9
            self._deadlines.look_again(future, timeout, started, timeout - patience)

    def _expire(self, future: Future[Any], timeout: float, started: float) -> None:
        queue = self._pool.queue
        subject = subject_of(self._pool, future)
        spent = time.monotonic() - started
        if queue.cancel_queued(future):
            self.ledger.never_ran()
            why = "all threads of the pool were busy"
            remedy = "; give the pool more of them, or the call more time"
            unread = self._pool.unread_streams()
            error = unstarted_error(subject, timeout, spent, why, remedy, unread=unread)
            queue.fail(future, error)
            return
        ran = min(queue.seconds_since_start(future), spent)
        error = TaskTimeoutError(
            f"{subject} did not end within its timeout of {timeout:g} s: "
            f"it waited {spent - ran:.3g} s and ran {ran:.3g} s; it is being stopped",
            details={
                **subject.details,
                "timeout": timeout,
                "waited": spent - ran,
                "ran": ran,
                "phase": "running",
            },
        )
        # Before the ladder, on which it may end at once: a late call stays late.
        self.ledger.late(future, error)
        if self._pool.stop_task(future):
            queue.fail(future, error)
        else:
            # Its outcome is there and about to be settled: that counts.
            self.ledger.ended(future, None)

    def left_behind(self, task: Any, fate: str) -> bool:
        """Note that a task is given up; returns whether it had failed before, as it was late."""
        if self.ledger.ended(task, "failed") is None:
            return False
        logger.warning(
            "snakepit: %s, whose time was up, could not be stopped: %s",
            subject_of(self._pool, task),
            fate,
        )
        return True

    def verdict(self, task: Any, error: BaseException | None) -> BaseException | None:
        """Return what a task fails with that was asked to stop, and ended with `error` or None."""
        late = self.ledger.ended(task, "completed" if error is None else "failed")
        if late is not None:
            return late
        if not isinstance(error, TaskInterrupt):
            return error
        stopped = TaskStoppedError(
            f"the task was stopped on request: {error}", details={"task": task.number}
        )
        stopped.__cause__ = error
        return stopped
