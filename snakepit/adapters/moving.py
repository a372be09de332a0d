"""Sessions that move, as their workers see them: taking one up, and giving its state away.

A strict call of an adapter with `snapshot` and `restore` is a `MovingHandle`'s. It finds in its
slot the number of the session's stay in this worker, its tenure. A session that is not known under
that number is asked for at the owner, and restored, before the tool runs. After the tool, what the
owner is to know of the session is enclosed with the answer: it gets both or neither.

A call that is lent to this worker, to run on top of one that waits for a host tool, has no slot. It
goes on with what is here, unless the owner knows more, and the state is saved before it ends.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit.adapters.host import INTERRUPTS, Host, ToolHandle, current_host
from snakepit.errors import AdapterError
from snakepit.worker.context import home_lane, lane_here, lent_session, running_lane
from snakepit.worker.orphan import is_orphan

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane

logger = logging.getLogger("snakepit")

GLANCE = 0.005  # seconds between two questions for a session that is in use elsewhere yet
LONGEST_HAND_IN = 30.0  # seconds that a worker which leaves has to save its sessions
MOST_BYTES = 8 << 20  # of states that are handed in together
FEW = 64  # sessions that may be over before this worker asks which are


@dataclass
class Guest:
    """A session that this worker has taken up. Used by one thread at a time, as its calls are."""

    key: int
    name: str
    tenure: int
    lane: int
    version: int  # calls in all its life, the one that runs included
    saved: int  # of these, what the owner has a snapshot of
    saved_at: float  # monotonic
    running: int = 0  # calls: more than one if they were lent on top of it


class MovingHandle(ToolHandle):
    """Stands for a tool in strict calls of sessions that move."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_moving_tool, (self.name,)


def load_moving_tool(name: str) -> Callable[..., Any]:
    """Return what a strict call of a tool runs in this worker."""
    return residence().tool(name)


def save_session(lacking: bool) -> None:
    """Save the session of the running call, unless the owner has all of it.

    What `Pool.snapshot_session` and `Pool.move_session` run. `lacking`: the owner has not, for it
    had no room for what it was given. Raises AdapterError.
    """
    residence().save(lacking)


def residence() -> Residence:
    """Return where this worker keeps the sessions that it has taken up."""
    host = current_host()
    if host.residence is None:
        with host.making:
            if host.residence is None:
                host.residence = Residence(host)
    found: Residence = host.residence
    return found


class Residence:
    """The sessions that one worker has taken up."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._spec = host.spec
        # By key. Several threads may serve sessions; what the dict itself holds is changed under
        # the lock, which is re-entrant for an interrupt may come anywhere.
        self._guests: dict[int, Guest] = {}
        self._many = FEW  # of them: so many that some will be over
        self._lock = threading.RLock()

    def tool(self, name: str) -> Callable[..., Any]:
        """Return a tool that takes its session up before, and encloses its state after."""
        from snakepit.adapters.adapter import marks_of

        method = self._host.tool(name)
        marks = marks_of(type(self._host.adapter), name)

        def call(*values: Any, **named: Any) -> Any:
            guest = self._enter()
            try:
                return method(*values, **named)
            finally:
                self._leave(guest)

        def stream(*values: Any, **named: Any) -> Iterator[Any]:
            guest = self._enter()
            try:
                yield from method(*values, **named)
            finally:
                self._leave(guest)

        return stream if marks is not None and marks.streaming else call

    def save(self, lacking: bool) -> None:
        """Give the owner the state of the running call's session, if it lacks that."""
        key = lent_session()
        if key is not None:
            self._give_back(self._borrow(key))
            return
        lane = running_lane()
        guest = self._take_up(lane)
        if lacking or guest.saved < guest.version:
            enclosed, error = self._snapshot(guest)
            if error is not None:
                raise self._error("snapshot", guest.name, enclosed[-1]) from error
            lane.enclosed = enclosed
            self._note_saved(guest)

    # -- before and after a call -------------------------------------------------------------------

    def _enter(self) -> Guest:
        key = lent_session()
        if key is not None:
            guest = self._borrow(key)
            self._count(guest, 1)
        else:
            lane = running_lane()
            guest = self._take_up(lane)
            self._count(guest, 1)
            # From here on the owner has too little, and is told so whatever becomes of the call.
            lane.enclosed = [guest.key, guest.tenure, guest.version, None, None]
        return guest

    def _count(self, guest: Guest, running: int) -> None:
        """A call of a session begins, or one that was lent ends, and another below it goes on."""
        with self._lock:
            guest.version += 1
            guest.running += running

    def _leave(self, guest: Guest) -> None:
        with self._lock:
            guest.running -= 1
        if lent_session() is not None:
            self._give_back(guest)
            return
        lane = running_lane()
        if not self._is_time(guest):
            # More than it was told of, if calls were lent on top of this one.
            lane.enclosed = [guest.key, guest.tenure, guest.version, None, None]
            return
        lane.enclosed, error = self._snapshot(guest)
        if error is None:
            self._note_saved(guest)

    def _take_up(self, lane: WorkerLane) -> Guest:
        key, tenure = lane.session, lane.tenure
        guest = self._guests.get(key)
        if guest is not None and guest.tenure == tenure:
            return guest
        while (found := lane.ask("resume_session", key, tenure)) is None:
            time.sleep(GLANCE)
        return self._welcome(lane, key, *found)

    def _borrow(self, key: int) -> Guest:
        """Return the session of a call that is lent to this worker."""
        lane = lane_here() or home_lane()
        guest = self._guests.get(key)
        here = (0, -1) if guest is None else (guest.tenure, guest.version)
        found = lane.asker.ask_for(key, "borrow_session", key, *here)
        if guest is not None and found is None:
            return guest
        return self._welcome(lane, key, *found)

    def _give_back(self, guest: Guest) -> None:
        """Have the owner keep what a lent call has done, before it hears how that has ended."""
        lane = lane_here() or home_lane()
        enclosed, error = self._snapshot(guest)
        lane.asker.ask_for(guest.key, "keep_sessions", [enclosed])
        if error is None:
            self._note_saved(guest)
        if guest.running:
            self._count(guest, 0)  # What that will do is not in what the owner has.

    def _welcome(
        self, lane: WorkerLane, key: int, name: str, tenure: int, version: int, state: bytes | None
    ) -> Guest:
        """Take up a session as the owner has it."""
        if state is not None:
            try:
                self._host.adapter.restore(name, pickle.loads(state))
            except INTERRUPTS:
                raise
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
                raise self._error("restore", name, problem) from error
        guest = Guest(key, name, tenure, lane.index, version, version, time.monotonic())
        with self._lock:
            self._guests[key] = guest
            many = len(self._guests) > self._many
        if many:
            self._drop_those_that_are_over(lane)
        return guest

    def _drop_those_that_are_over(self, lane: WorkerLane) -> None:
        with self._lock:
            guests = list(self._guests.values())
        self._compare(lane, guests)
        with self._lock:
            self._many = FEW + 2 * len(self._guests)

    def _compare(self, lane: WorkerLane, guests: list[Guest]) -> list[tuple[Guest, int]]:
        """Drop those of the sessions that are over here: ended, or gone on in another worker.

        Returns the others, with the calls of each that are in what the owner has of it.
        """
        found = lane.ask("compare_sessions", [[guest.key, guest.tenure] for guest in guests])
        left = []
        with self._lock:
            for guest, version in zip(guests, found, strict=True):
                if version is not None:
                    left.append((guest, version))
                elif self._guests.get(guest.key) is guest:
                    del self._guests[guest.key]
        return left

    def _is_time(self, guest: Guest) -> bool:
        every = self._spec.snapshot_every
        if every is None:
            return False
        if isinstance(every, int):
            return guest.version - guest.saved >= every
        return time.monotonic() - guest.saved_at >= every

    def _snapshot(self, guest: Guest) -> tuple[list[Any], BaseException | None]:
        """Return what the owner is told of the session, its state or a problem, and the error."""
        known = [guest.key, guest.tenure, guest.version]
        try:
            return [*known, dumps_state(self._host.adapter.snapshot(guest.name)), None], None
        except INTERRUPTS:
            raise
        except BaseException as error:
            return [*known, None, f"{type(error).__name__}: {error}"], error

    def _note_saved(self, guest: Guest) -> None:
        guest.saved = guest.version
        guest.saved_at = time.monotonic()

    def _error(self, step: str, session: str, problem: str) -> AdapterError:
        return AdapterError(
            f"adapter {self._spec.name}: {step}() of session {session!r} raised {problem}",
            details={"adapter": self._spec.name, "step": step, "session": session},
        )

    # -- at the end of the worker, and of each of its threads --------------------------------------

    def hand_in(self, lane: WorkerLane) -> None:
        """Give the owner what it lacks, of a worker that runs no more calls.

        Nobody waits for a pool's sessions when that ends. A snapshot that hangs is given up with
        the worker, and those sessions go on from their last one.
        """
        guests = self._guests_for(lane)
        if not guests:
            return
        late = threading.Timer(LONGEST_HAND_IN, os._exit, (0,))
        late.daemon = True
        late.start()
        try:
            self._hand_in(lane, guests)
        finally:
            late.cancel()

    def hand_in_of(self, lane: WorkerLane) -> None:
        """Give the owner what it lacks of the sessions of one lane, which runs no more calls.

        Others of the worker may for long yet. A snapshot that hangs is given up with the worker.
        """
        try:
            guests = [guest for guest in self._guests_for(lane) if guest.lane == lane.index]
            if guests:
                self._hand_in(lane, guests)
        except BaseException:
            # Whatever it is: the tasks of other threads have nothing to do with it.
            logger.exception("snakepit: sessions of a thread that leaves could not be saved")

    def _guests_for(self, lane: WorkerLane) -> list[Guest]:
        """Return the sessions that are here; none if nobody wants to know of them any more."""
        if lane.dismissed or is_orphan():
            return []
        with self._lock:
            return list(self._guests.values())

    def _hand_in(self, lane: WorkerLane, guests: list[Guest]) -> None:
        try:
            # Also what the owner had no room for, when it was given that before.
            unsaved = [guest for guest, kept in self._compare(lane, guests) if kept < guest.version]
            batch: list[Guest] = []
            enclosed: list[list[Any]] = []
            size = 0
            for guest in unsaved:
                batch.append(guest)
                enclosed.append(self._snapshot(guest)[0])
                size += len(enclosed[-1][3] or b"")
                if size >= MOST_BYTES or guest is unsaved[-1]:
                    lane.ask("keep_sessions", enclosed)
                    for each, told in zip(batch, enclosed, strict=True):
                        if told[3] is not None:
                            self._note_saved(each)
                    batch, enclosed, size = [], [], 0
        except Exception:
            logger.exception("snakepit: sessions of a worker that leaves could not be saved")


def dumps_state(state: Any) -> bytes:
    """Pickle what a snapshot returned, for another worker of the pool to load."""
    try:
        data = pickle.dumps(state, 5)
    except Exception:
        data = b"__main__"
    if b"__main__" not in data:
        return data
    # Classes of the main module travel by value: workers have no such module to import.
    from snakepit.pickling import careful_dumps

    return careful_dumps(state)
