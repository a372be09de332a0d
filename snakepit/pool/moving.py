"""Sessions that move, as their owner sees them: what it has of each, and who gets it.

worker: answer, with the session's state enclosed --> kept here, before the call counts as settled
worker that the session is new to: "resume_session" <-- the state, and from then on only this worker
                                                        is believed about the session
worker that a call of it is lent to: "borrow_session" <-- the state, if it has not the last one
worker with many: "compare_sessions" <-- which are over there, and what is saved of the others
worker that leaves: "keep_sessions", what is unsaved --> kept here

When a session may begin elsewhere is decided in `snakepit._core.moving`; here it is only said
whether its state is saved.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit._core import moving
from snakepit.errors import (
    AdapterError,
    SessionError,
    SessionNotFoundError,
    SessionWorkerUnavailableError,
    WorkerBusyError,
    WorkerCrashedError,
)
from snakepit.pool.affinity import MODES, PARTING
from snakepit.pool.terms import Terms, session_key

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

PAUSE = 0.002  # seconds between two attempts to move a session
LOOK = 0.25  # seconds between two looks at sessions that are unsaved
NOT_KNOWN, NOT_BEGUN, HELD = -1, -2, -3  # verdicts of `hold_session`


@dataclass
class Kept:
    """What the owner has of a session."""

    name: str
    tenure: int = 0  # in whose worker it is
    reached: int = 0  # calls that are known to have ended in it
    version: int = 0  # of these, those that `state` knows of
    state: bytes | None = None
    problem: str | None = None  # why there is none of what it has reached

    @property
    def unsaved(self) -> bool:
        return self.version < self.reached


class Mover:
    """Keeps the states of a pool's strict sessions, and moves sessions on request."""

    def __init__(self, engine: ProcessPool, adapter: str, most_bytes: int) -> None:
        self._engine = engine
        self._adapter = adapter
        self._most_bytes = most_bytes
        # Re-entrant: a signal handler may look on top of what it interrupts. What the scheduler is
        # told is told under it, in the order in which it was found out; nothing is called that
        # waits, and the scheduler calls nothing of ours under its mutex.
        self._lock = threading.RLock()
        self._kept: dict[int, Kept] = {}
        self._unsaved: set[int] = set()
        self._looking = False
        self.bytes = 0
        self.moved = 0
        moving.let_sessions_move(engine.scheduler, self.note)
        engine.affinity.mover = self
        engine.asks.handlers["resume_session"] = self._resume
        engine.asks.handlers["borrow_session"] = self._lend
        engine.asks.handlers["keep_sessions"] = self._keep_all
        engine.asks.handlers["compare_sessions"] = self._compare

    # -- what workers say --------------------------------------------------------------------------

    def note(self, enclosed: list[Any]) -> None:
        """Take what an answer encloses: key, tenure, calls so far, state or None, problem or None.

        It runs where answers are collected, and so does nothing that takes time.
        """
        key, tenure, version, state, problem = enclosed
        with self._lock:
            kept = self._kept.get(key)
            # Forgotten meanwhile, or gone on from an earlier snapshot in another worker.
            if kept is None or kept.tenure != tenure or version < kept.reached:
                return
            was_unsaved = kept.unsaved
            kept.reached = version
            if state is not None:
                problem = self._store(kept, version, state)
            warn = problem is not None and kept.problem is None
            if problem is not None or state is not None:
                kept.problem = problem
            if kept.unsaved:
                self._unsaved.add(key)
            else:
                self._unsaved.discard(key)
            look = kept.unsaved and not self._looking
            self._looking = self._looking or look
            if kept.unsaved != was_unsaved:
                moving.note_unsaved(self._engine.scheduler, key, tenure, kept.unsaved)
        if look:
            self._engine.supervisor.after(LOOK, self._look)
        if warn:
            self._engine.supervisor.tell(
                lambda: logger.warning(
                    "snakepit pool %s: session %r would be lost with its worker: %s",
                    self._engine.name, kept.name, problem,
                )
            )  # fmt: skip

    def _store(self, kept: Kept, version: int, state: bytes) -> str | None:
        """Keep a state if there is room for it; else return what is to be said of that."""
        size = self.bytes - len(kept.state or b"") + len(state)
        if size > self._most_bytes:
            return (
                f"its snapshot of {len(state)} bytes would have made those of the pool more than "
                f"the {self._most_bytes} bytes of snapshot_memory_mb"
            )
        self.bytes = size
        kept.state, kept.version = state, version
        return None

    def _look(self) -> None:
        """Let unsaved sessions go on whose workers were to leave and do not; now and then."""
        with self._lock:
            keys = list(self._unsaved)
            self._looking = bool(keys)
        if keys:
            moving.look_again(self._engine.scheduler, keys)
            self._engine.supervisor.after(LOOK, self._look)

    def _lend(self, name: str | None, key: int, tenure: int, version: int) -> list[Any] | None:
        """Answer a worker that runs a lent call, by what it has: None if that will do.

        It goes on under the tenure that is known here, of those that there were the last. To the
        call that follows under another, its worker takes up what this one gives back.
        """
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept.tenure == tenure and kept.reached <= version:
                return None
            tenure = 0 if kept is None else kept.tenure
        return self._hand_out(name, key, tenure)

    def _resume(self, name: str | None, key: int, tenure: int) -> list[Any] | None:
        """Answer a worker that a session is new to; None: a call of it that was lent runs yet."""
        if self._engine.asks.has_lent_of(key):
            return None
        return self._hand_out(name, key, tenure)

    def _hand_out(self, name: str | None, key: int, tenure: int) -> list[Any]:
        """Return a session for the worker that it goes to: name, tenure, calls so far, state."""
        if name is None:
            raise SessionNotFoundError("the call that asks belongs to no session that is in use")
        with self._lock:
            known = key in self._kept
            kept = self._kept.setdefault(key, Kept(str(name)))
            if tenure < kept.tenure:
                raise SessionNotFoundError(f"session {kept.name!r} has gone on elsewhere")
            if kept.problem is not None:
                raise self._lost(kept)
            lost = kept.reached - kept.version
            again = kept.tenure and kept.tenure != tenure and kept.state is not None
            kept.tenure = tenure
            kept.reached = kept.version
            self._unsaved.discard(key)
            self.moved += bool(again)
            answer = [kept.name, tenure, kept.version, kept.state]
        if not known:
            # It may have been deleted since the call was made: its end is to drop what is kept.
            with contextlib.suppress(SessionError):
                self._engine.desk.keep_strict(key, str(name))
        if lost:
            logger.warning(
                "snakepit pool %s: session %r goes on from its snapshot after call %d; what %d "
                "later calls did is lost with their worker",
                self._engine.name, str(name), kept.version, lost,
            )  # fmt: skip
        return answer

    def _lost(self, kept: Kept) -> AdapterError:
        return self._error(
            kept,
            f"session {kept.name!r} of pool {self._engine.name!r} is lost with its worker: after "
            f"its call {kept.reached}, snapshot() of adapter {self._adapter} failed: "
            f"{kept.problem}; call forget_session({kept.name!r}) to begin it anew",
        )

    def _error(self, kept: Kept, message: str) -> AdapterError:
        details = {"adapter": self._adapter, "step": "snapshot", "session": kept.name}
        return AdapterError(message, details=details)

    def _keep_all(self, _name: str | None, batch: list[list[Any]]) -> None:
        for enclosed in batch:
            self.note(enclosed)

    def _compare(self, _name: str | None, guests: list[tuple[int, int]]) -> list[int | None]:
        """Return which calls of sessions are in their states here; None: it is over in the worker.

        By their keys and tenures.
        """
        with self._lock:
            found = [(self._kept.get(key), tenure) for key, tenure in guests]
            return [
                kept.version if kept is not None and kept.tenure == tenure else None
                for kept, tenure in found
            ]

    def forget(self, key: int) -> bool:
        """Drop what is kept of a session; False if nothing is."""
        with self._lock:
            kept = self._kept.pop(key, None)
            self._unsaved.discard(key)
            if kept is not None:
                self.bytes -= len(kept.state or b"")
        return kept is not None

    # -- on request --------------------------------------------------------------------------------

    def snapshot(self, session: str, key: int, timeout: float) -> int:
        """Have a session saved now; return the size of its state in bytes."""
        kept = self._known(session, key)
        self._call(kept, MODES["strict_queue"], timeout)
        return len(kept.state or b"")

    def move(self, session: str, key: int, worker: int | None, timeout: float) -> int:
        """Move a session to another worker, after its calls that are queued there; return its id.

        What is submitted meanwhile waits, and runs there.
        """
        kept = self._known(session, key)
        until = time.monotonic() + timeout
        scheduler = self._engine.scheduler
        lane = moving.hold_session(scheduler, key)
        if lane < 0:
            raise self._not_movable(session, lane)
        done = False
        try:
            target = self._target(session, worker, lane)
            while not done:
                self._part(kept, until, timeout)
                done = moving.release_session(scheduler, key, target)
                if not done:
                    time.sleep(PAUSE)  # a call of it waits for a host tool, or is being buried
        finally:
            if not done:
                moving.keep_session(scheduler, key)
        return target - target % self._engine.threads

    def _part(self, kept: Kept, until: float, timeout: float) -> None:
        """Have the worker save a session, which it may do before the last call that it owes."""
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"session {kept.name!r} was not moved within {timeout:g} s: its calls have not "
                "ended"
            )
        try:
            self._call(kept, PARTING, left)
        except (SessionWorkerUnavailableError, WorkerCrashedError, CancelledError):
            pass  # What is kept here has to do.

    def _call(self, kept: Kept, affinity: int, timeout: float) -> None:
        """Have the session's worker save it. Raises AdapterError if it has not."""
        from snakepit.adapters.moving import save_session

        terms = Terms(timeout=timeout, session=session_key(kept.name), affinity=affinity)
        self._engine.submit(save_session, (kept.unsaved,), {}, terms).result()
        if kept.unsaved and kept.problem is not None:
            raise self._error(
                kept,
                f"session {kept.name!r} of pool {self._engine.name!r} is not saved, and stays in "
                f"its worker: {kept.problem}",
            )

    def _known(self, session: str, key: int) -> Kept:
        kept = self._kept.get(key)
        if kept is None:
            raise SessionNotFoundError(
                f"pool {self._engine.name!r} knows no strict session {session!r}: no call of it "
                "has run here with affinity='strict_queue' or 'strict_fail_fast'",
                details={"session": session},
            )
        return kept

    def _target(self, session: str, worker: int | None, lane: int) -> int:
        """Return the lane to which a session moves: of those that will do, the least busy."""
        engine = self._engine
        serving = {each.lane: each for each in engine.serving() if each.due is None}
        here = lane - lane % engine.threads
        if worker is None:
            lanes = [
                lane for first, each in serving.items() if first != here for lane in each.lanes
            ]
        elif worker in serving and worker != here:
            lanes = list(serving[worker].lanes)
        else:
            known = ", ".join(str(id) for id in sorted(serving) if id != here) or "none"
            raise ValueError(
                f"session {session!r} is in worker {here} of pool {engine.name!r}, and cannot be "
                f"moved to worker {worker!r}; it can to: {known}"
            )
        if not lanes:
            raise SessionWorkerUnavailableError(
                f"session {session!r} cannot be moved: pool {engine.name!r} has no other worker "
                "that is ready and stays",
                details={"session": session, "pool": engine.name, "worker": here, "task": None},
            )
        return moving.least_owed(engine.scheduler, lanes)

    def _not_movable(self, session: str, verdict: int) -> Exception:
        name = self._engine.name
        if verdict == NOT_KNOWN:
            return SessionNotFoundError(
                f"session {session!r} of pool {name!r} has ended", details={"session": session}
            )
        what = "its first call has not begun" if verdict == NOT_BEGUN else "it is being moved"
        return WorkerBusyError(
            f"session {session!r} of pool {name!r} cannot be moved now: {what}; try again later",
            details={"session": session, "pool": name, "worker": None, "task": None},
        )
