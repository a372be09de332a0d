"""Strict affinity in words: why a call of a session was refused, and who hears of lost sessions.

Where calls go is decided in `snakepit._core.bindings`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit.errors import SessionWorkerUnavailableError, SnakepitError, WorkerBusyError
from snakepit.options import did_you_mean

if TYPE_CHECKING:
    from snakepit._core.scheduler import Scheduler
    from snakepit.pool.moving import Mover

logger = logging.getLogger("snakepit")

MODES = {"hint": 0, "strict_queue": 1, "strict_fail_fast": 2}
PARTING = 3  # strict, of the pool itself: also when the session is about to leave its worker
WORKER_LOST, WORKER_BUSY, TABLE_FULL = 3, 4, 5  # verdicts of `_core/bindings.pxd`


def checked_affinity(affinity: str) -> str:
    """Return which worker the calls of a session go to. Raises ValueError."""
    if affinity not in MODES:
        raise ValueError(
            f"affinity must be one of {', '.join(MODES)}, not {affinity!r}"
            f"{did_you_mean(affinity, MODES)}"
        )
    return affinity


def check_session(affinity: str, session: str | None) -> None:
    """Raise ValueError for an affinity to the worker of a session that is not there."""
    if affinity != "hint" and session is None:
        raise ValueError(f"affinity={affinity!r} is to a session's worker: give session as well")


class Affinity:
    """The strict sessions of a pool of processes."""

    def __init__(self, pool: str, scheduler: Scheduler) -> None:
        self._pool = pool
        self._scheduler = scheduler
        scheduler.explain = self.explain
        self.mover: Mover | None = None  # where sessions outlive their workers
        self.on_session_lost: Callable[[int, int], object] | None = None
        """Called as `on_session_lost(session_key, lane)` for each session of a worker that ended.

        In the supervisor's thread, which it must not block, before the lane has another worker.
        """

    def forget(self, key: int) -> bool:
        """Let a session begin anew with its next call; False when no strict call of it was made."""
        # The state first: whoever begins the session anew shall not find it.
        kept = self.mover is not None and self.mover.forget(key)
        return self._scheduler.forget_session(key) or kept

    def explain(self, task: Any, verdict: int, lane: int) -> SnakepitError:
        """Return the error of a strict call that was refused, or whose worker is gone."""
        session = task.session_name
        worker = lane if lane >= 0 else None
        details = {
            "session": session, "pool": self._pool, "worker": worker, "task": task.number
        }  # fmt: skip
        if verdict == WORKER_BUSY:
            who = (
                "its first call has not ended"
                if worker is None
                else f"worker {worker} of pool {self._pool!r}, which has it, is not free"
            )
            return WorkerBusyError(
                f"session {session!r} cannot be served at once: {who}; try again later, or let "
                "calls wait with affinity='strict_queue'",
                details=details,
            )
        if verdict == TABLE_FULL:
            return SessionWorkerUnavailableError(
                f"pool {self._pool!r} cannot keep the worker of another session ({session!r}): it "
                "keeps 1048576, or memory is used up; forget_session() those that are over",
                details=details,
            )
        return SessionWorkerUnavailableError(
            f"worker {worker} of pool {self._pool!r}, which had session {session!r}, has ended or "
            "is being replaced, and what the session kept there is lost; call forget_session("
            f"{session!r}) to begin it anew on another worker",
            details=details,
        )

    def lane_buried(self, lane: int) -> None:
        """Tell of the sessions of a worker that is dead and has no successor yet."""
        if self.on_session_lost is None:
            return
        for key in self._scheduler.sessions_of_lane(lane):
            try:
                self.on_session_lost(key, lane)
            except Exception:
                logger.exception(
                    "snakepit pool %s: error of who heard of a lost session", self._pool
                )
