"""The limits in time of a local pool's calls, and what their futures are told when one is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from snakepit.errors import TaskInterrupt, TaskStoppedError, TaskTimeoutError
from snakepit.lifecycle.deadlines import Deadlines, Timekeeper, queue_timeout_error

if TYPE_CHECKING:
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool


class LocalDeadlines:
    """Watches the calls of a local pool, in the timekeeper's thread."""

    def __init__(self, pool: LocalPool, timekeeper: Timekeeper) -> None:
        self._pool = pool
        self._deadlines = Deadlines(timekeeper.at, self._expire)
        self._patience = Deadlines(timekeeper.at, self._lose_patience)
        # By number: calls whose time was up while they ran, with their timeout and when it began.
        self._late: dict[int, tuple[float, float]] = {}

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
        if queue.cancel_queued(future):
            queue.fail(future, queue_timeout_error(self._pool.name, patience))
        elif future.deadline_ns:
            timeout = future.timeout_ns / 1e9
            self._deadlines.look_again(future, timeout, started, timeout - patience)

    def _expire(self, future: Future[Any], timeout: float, started: float) -> None:
        queue = self._pool.queue
        if queue.cancel_queued(future):
            waited = time.monotonic() - started
            error = TaskTimeoutError(
                f"the task did not start within its timeout of {timeout:g} s: "
                f"all threads of pool {self._pool.name!r} were busy",
                details={"timeout": timeout, "waited": waited, "ran": 0.0, "phase": "queued"},
            )
            queue.fail(future, error)
            return
        # The future fails when the task ends or is given up, whichever is first: only then can its
        # error tell what became of the thread.
        self._late[future.number] = (timeout, started)
        if not self._pool.stop_task(future):
            self._late.pop(future.number, None)

    def late_error(self, task: Any, fate: str) -> TaskTimeoutError | None:
        """Return the error of a task whose time is up, None if it is not."""
        late = self._late.pop(task.number, None)
        if late is None:
            return None
        timeout, started = late
        spent = time.monotonic() - started
        ran = min(self._pool.queue.seconds_since_start(task), spent)
        return TaskTimeoutError(
            f"the task did not end within its timeout of {timeout:g} s: "
            f"it waited {spent - ran:.3g} s and ran {ran:.3g} s; {fate}",
            details={"timeout": timeout, "waited": spent - ran, "ran": ran, "phase": "running"},
        )

    def verdict(self, task: Any, error: BaseException | None) -> BaseException | None:
        """Return what a task fails with that was asked to stop, and ended with `error` or None."""
        interrupted = isinstance(error, TaskInterrupt)
        fate = "then it was interrupted" if interrupted else "then it ended by itself"
        verdict: Exception | None = self.late_error(task, fate)
        if verdict is None and interrupted:
            verdict = TaskStoppedError(
                f"the task was stopped on request: {error}", details={"task": task.number}
            )
        if verdict is None:
            return error
        verdict.__cause__ = error
        return verdict
