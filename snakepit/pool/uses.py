"""The sessions that calls name: made in the pool's store, and kept there while the calls go on.

call names a session --> an entry of it? --> its lease is used: the time to live begins anew
                           | none, or over
                           +--> fetched from the store, or made there --> an entry
look, a quarter of a time to live later: of each entry that has rested for as long,
    calls under way --> its lease is used
    none            --> the entry is dropped; the next call begins with the store again

So a call pays for one use of a lease, and a call that runs for longer than the time to live does
not lose its session. When the last entry is gone, the looks end. They run in the thread of the pool
that does such things, which may be busy while the pool starts: not for times to live of an instant.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from snakepit._core.view import SessionEnds
from snakepit.errors import SessionError
from snakepit.pool.terms import SessionKey, session_key

if TYPE_CHECKING:
    from snakepit.pool.sessions import SessionDesk
    from snakepit.sessions.session import Session

    # The number of a session, what begins its time to live anew, and itself.
    Entry: TypeAlias = tuple[SessionKey, Callable[[], object], Session]

__all__ = ["SessionUses"]

LOOKS = 4  # in a time to live
RENEWAL = 1.0  # seconds for which a use counts at most, for who remembers it
MADE_SOON = 0.05  # seconds after which to look again for a session that somebody may make
LONGEST_PAUSE, SHORTEST_PAUSE = 900.0, 0.005  # seconds between two looks


class SessionUses(SessionEnds):
    """Uses the sessions that the calls of a pool name.

    `under_way(key)`: whether a call of a session is queued or runs. `after(seconds, note)`: have
    `note()` run then, or not at all if the pool has ended.
    """

    def __init__(
        self,
        desk: SessionDesk,
        under_way: Callable[[int], bool],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._desk = desk
        self._under_way = under_way
        self._after = after
        # No lock: each step is one of the dict's own, and an entry that is dropped too soon costs
        # its next call a look into the store. A signal handler may come here at any time.
        self._entries: dict[str, Entry] = {}
        self._next_look = float("inf")
        desk.on_ended = self._drop
        desk.on_store = self.note_end

    def use(self, name: str) -> SessionKey:
        """Use a session, made when it is new; return its key.

        Raises SessionQuotaError, PoolShutdownError when the pool has ended, TypeError for a name
        that is no string, ValueError for one that is empty.
        """
        return (self._used(name) or self._begin(name))[0]

    def use_strictly(self, name: str) -> Entry:
        """Use a session as `use` does, for a strict call."""
        entry = self._used(name) or self._begin(name)
        self._desk.begin_strict(entry[0], entry[2])
        return entry

    def known_session(self, name: str) -> Session | None:
        """Use a session and return it, if there is one."""
        entry = self._used(name)
        if entry is None and (session := self._desk.find(name)) is not None:
            entry = self._enter(name, session_key(name), session)
        return None if entry is None else entry[2]

    def freshness(self, session: Session | None) -> float:
        """How long a use of a session may count for those that follow; None: one not made yet."""
        if session is not None:
            return min(RENEWAL, session.ttl / (2 * LOOKS))
        return MADE_SOON if self._desk.has_store else RENEWAL

    def _used(self, name: str) -> Entry | None:
        """Use the session of an entry and return that; None if there is none, or it has ended."""
        entry = self._entries.get(name)
        if entry is not None:
            try:
                entry[1]()
            except SessionError:
                self._remove(name, entry)
                return None
        return entry

    def _begin(self, name: str) -> Entry:
        key = session_key(name)
        return self._enter(name, key, self._desk.owned(name))

    def _enter(self, name: str, key: SessionKey, session: Session) -> Entry:
        entry = self._entries[name] = key, session._used_metadata, session
        pause = min(max(session.ttl / LOOKS, SHORTEST_PAUSE), LONGEST_PAUSE)
        when = time.monotonic() + pause
        if when < self._next_look:
            self._next_look = when
            self._after(pause, self._look)
        return entry

    def _drop(self, name: str) -> None:
        """Forget a session that has ended."""
        self.note_end()
        self._entries.pop(name, None)

    def _look(self) -> None:
        """Keep the sessions whose calls are under way, and drop the entries of those that rest."""
        if time.monotonic() < self._next_look:
            return  # another look was asked for, sooner, and has asked for the next
        self._next_look = float("inf")
        pause = LONGEST_PAUSE
        for name, entry in list(self._entries.items()):
            key, use, session = entry
            if session._rested() >= session.ttl / LOOKS:
                # Used so long ago, no call of it is between that and the queue.
                kept = self._under_way(key)
                if kept:
                    try:
                        use()
                    except SessionError:
                        kept = False
                if not kept:
                    self._remove(name, entry)
                    continue
            pause = min(pause, session.ttl / LOOKS)
        if self._entries:
            pause = max(pause, SHORTEST_PAUSE)
            self._next_look = min(self._next_look, time.monotonic() + pause)
            self._after(pause, self._look)

    def _remove(self, name: str, entry: Entry) -> None:
        # Another of the name may have come meanwhile.
        if self._entries.get(name) is entry:
            self._entries.pop(name, None)
