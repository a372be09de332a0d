"""The session store: sessions by id, each with a time to live, up to a quota.

create --> alive --(get, or use: the time to live begins anew)--> alive
             |
             +-- its time is over --> expired: nobody finds it --(sweep, or its id or place is
             |                                                    needed)--> ended
             +-- delete -------------------------------------------------------> ended

The quick ways of making, fetching and deleting are `snakepit._core.leases`; here is the rest of
them, and all that happens to sessions beside.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from snakepit._core.leases import LeaseTable
from snakepit.errors import (
    SessionExistsError,
    SessionNotFoundError,
    SessionQuotaError,
    SessionStoreClosedError,
)
from snakepit.options import checked_count, checked_seconds
from snakepit.sessions.checks import checked_backend, checked_id, checked_metadata, marks
from snakepit.sessions.kinds import shortened
from snakepit.sessions.programs import GlobalPrograms, ProgramTable
from snakepit.sessions.session import Contents, Session
from snakepit.sessions.sweeper import Sweeper
from snakepit.sessions.tombstones import Tombstones, worded
from snakepit.sessions.watches import Notifier

if TYPE_CHECKING:
    from types import TracebackType

    from snakepit.sessions.file import SessionFile
    from snakepit.sessions.journal import Journal

__all__ = ["SessionStore"]

logger = logging.getLogger("snakepit")


class SessionStore(LeaseTable, GlobalPrograms):
    """Keeps sessions, in memory or in a file.

    `max_sessions`: how many there may be, by default 10,000; the log warns at 80 % and 100 %.
    `default_ttl`: seconds, or text such as "1h", that a session lives after its last use, unless
    `create_session` says otherwise; by default 3600. `sweep_interval`: seconds, or text, after
    which expired sessions are removed, by default 60; they are not found once they have expired.
    `backend`: None, or the path of a file (SQLite) in which sessions, variables, programs and
    metadata outlive the process; host tools and watches do not. A file serves one store at a time:
    another, in whichever process, raises SessionStoreError. It holds pickles: open no file that
    you do not trust. `clock()` returns seconds that only grow; for tests.

    Thread-safe. A context manager that closes it. It belongs to the process that made it. Raises
    TypeError and ValueError for arguments that make no sense.
    """

    def __init__(
        self,
        max_sessions: int = 10_000,
        default_ttl: float | str = 3600.0,
        sweep_interval: float | str = 60.0,
        backend: str | os.PathLike[str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_sessions = checked_count("max_sessions", max_sessions)
        self._default_ttl = checked_seconds("default_ttl", default_ttl)
        self._sweep_interval = checked_seconds("sweep_interval", sweep_interval)
        self._clock = clock
        # Of the hooks, the marks, and the order in which a file hears of things. Re-entrant, for a
        # signal handler or finaliser that comes here while its thread is in here. No user's code,
        # no input or output runs under it.
        self._lock = threading.RLock()
        self._loaded = 0
        self._hooks: list[Callable[[str], object]] = []
        self._sweeper: Sweeper | None = None
        self._notifier = Notifier()
        self._tombstones = Tombstones()
        self._file = self._open_file(backend) if backend is not None else None
        self._globals = ProgramTable(None, self._journal(0))
        self._open_table(Session, self._max_sessions, self._default_ttl, clock, self._file is None)
        if self._file is not None:
            self._load(self._file)

    # -- sessions ----------------------------------------------------------------------------------

    if TYPE_CHECKING:

        def create_session(
            self,
            id: str | None = None,
            ttl: float | str | None = None,
            metadata: Mapping[str, Any] | None = None,
        ) -> Session: ...
        def get_session(self, id: str) -> Session: ...

    def ensure_session(
        self,
        id: str,
        ttl: float | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Session:
        """Return the session of this id, made with `ttl` and `metadata` if there was none.

        Where one had expired, the log says so, at level INFO. Raises SessionQuotaError if it has to
        be made and the store is full.
        """
        while True:
            session = self._find(id)
            if session is not None:
                return session
            try:
                session = self.create_session(checked_id(id, needed=True), ttl, metadata)
            except SessionExistsError:
                continue  # somebody else was faster
            if self._tombstones:
                self._note_successor(session.id)
            return session

    def update_session(
        self, id: str, function: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> Session:
        """Replace a session's metadata by `function(metadata)`, atomically; return the session.

        No lock is held while the function runs: if somebody else changes the metadata meanwhile, it
        runs again. Raises SessionNotFoundError.
        """
        session = self.get_session(id)
        self._update(session, function)
        return session

    def session_exists(self, id: str) -> bool:
        """Return whether there is such a session; its time to live goes on."""
        self._check_open()
        return self._is_alive(id)

    def list_sessions(self) -> list[str]:
        """Return the ids of all sessions, in the order in which they were made."""
        self._check_open()
        return [session.id for session in self._living()]

    def cleanup_expired_sessions(self) -> int:
        """End the sessions whose time is over, without waiting for the sweep; return how many."""
        self._check_open()
        with self._lock:
            ended = self._take_expired()
            if self._file is not None:
                for session in ended:
                    self._file.note_session_deleted(session)
        if ended:
            self._tombstones.add(ended, self._clock())
            self._finish(ended)
        return len(ended)

    def get_stats(self) -> dict[str, Any]:
        """Return counts as plain values.

        sessions (alive now), max_sessions, variables, programs, tools (of these sessions; what a
        file has is counted once the session is used), global_programs, created, deleted, expired
        (since the store was made), backend ("memory" or the path).
        """
        self._check_open()
        count, deleted, expired = self._counts()
        alive = self._living()
        held = [session._contents for session in alive if session._contents is not None]
        return {
            "sessions": len(alive),
            "max_sessions": self._max_sessions,
            "variables": sum(len(contents.variables) for contents in held),
            "programs": sum(len(contents.programs) for contents in held),
            "tools": sum(len(contents.tools) for contents in held),
            "global_programs": len(self._globals),
            "created": count + deleted + expired - self._loaded,
            "deleted": deleted,
            "expired": expired,
            "backend": "memory" if self._file is None else str(self._file.path),
        }

    # -- the ways that are not quick: terms of its own, or a file ----------------------------------

    def _create(
        self, id: str | None, ttl: float | str | None, metadata: Mapping[str, Any] | None
    ) -> Session:
        file = self._file
        id = checked_id(id)
        seconds = self._default_ttl if ttl is None else checked_seconds("ttl", ttl)
        kept: Any = None if metadata is None else checked_metadata(metadata)
        if file is not None and kept is not None:
            kept = file.encode(kept, f"metadata of session {id!r}")
        session: Session = self._new(id, seconds, kept)
        more = -1
        while more < 0:
            with self._lock:
                more = self._admit(session)
                if more >= 0 and file is not None:
                    file.note_session(session)
            if more < 0:
                self._make_room(id)
        if more:
            self._made()
        if file is not None:
            file.write()
        return session

    def _find(self, id: str) -> Session | None:
        """Use a session; None if there is none."""
        session: Session | None
        if self._file is None:
            session = self._fetch(id)
            return session
        with self._lock:  # it is not found before it is noted
            session = self._fetch(id)
        return session

    def _delete(self, id: str) -> bool:
        with self._lock:
            session, alive = self._take(id)
            if session is not None and self._file is not None:
                self._file.note_session_deleted(session)
        if session is not None:
            self._finish([session])
        elif self._closed:
            raise self._not_found(id)
        return alive

    def on_end(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Have `callback(id)` run after a session was deleted or has expired.

        It runs in the thread that deletes or sweeps, outside the locks; what it raises is logged.
        Another may have the id by then. It does not run for the sessions that are left when the
        store is closed. Returns a function that takes the callback back.
        """
        if not callable(callback):
            raise TypeError(f"callback must be callable with a session's id, not {callback!r}")
        with self._lock:
            self._hooks = [*self._hooks, callback]
            self._hear(True)

        def forget() -> None:
            with self._lock:
                hooks = list(self._hooks)
                if callback in hooks:
                    hooks.remove(callback)
                self._hooks = hooks
                self._hear(bool(hooks))

        return forget

    def on_change(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Have `callback(id)` run after each change of a session's variables, and at its end.

        For pools. It runs under the session's lock, before anybody can know of the change: it must
        be quick, raise nothing and take no lock of its own. Returns a function that takes it back.
        """
        entry = callback
        with self._lock:
            self._notifier.on_change = (*self._notifier.on_change, entry)

        def forget() -> None:
            with self._lock:
                self._notifier.on_change = tuple(
                    hook for hook in self._notifier.on_change if hook is not entry
                )

        return forget

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the store: its thread, its watches and, in memory, its sessions. May be repeated.

        What a file has stays there, for the next store.
        """
        with self._lock:
            if self._file is not None and not self._closed:
                self._note_uses(self._file)
            sessions = self._take_all()
            if sessions is None:
                return
            sweeper, self._sweeper = self._sweeper, None
        try:
            if sweeper is not None:
                sweeper.end()
            for session in sessions:
                if session._contents is not None:
                    session._contents.close()
        finally:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> SessionStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._count()} of {self._max_sessions}"
        where = "memory" if self._file is None else str(self._file.path)
        return f"<snakepit.SessionStore in {where}: {state}>"

    # -- for Session -------------------------------------------------------------------------------

    def _make_contents(self, session: Session) -> Contents:
        """Return what a session holds, which is made with its first use."""
        # Made outside the locks, since it may read the file. Whoever is first wins; nobody can have
        # written through the others' meanwhile.
        journal = self._journal(session._number) if self._file is not None else None
        made = Contents(session.id, journal, self._notifier)
        if journal is not None:
            journal.load(made)
        contents: Contents | None = session._keep_contents(made)
        if contents is None:
            raise self._not_found(session.id)
        return contents

    def _metadata_of(self, session: Session) -> dict[str, Any]:
        return self._plain_metadata(session, session._used_metadata())

    def _plain_metadata(self, session: Session, kept: Any) -> dict[str, Any]:
        if self._file is not None and isinstance(kept, bytes):
            kept = self._file.decode(kept, f"metadata of session {session.id!r}")
        return dict(kept) if kept else {}

    def _update(
        self, session: Session, function: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> None:
        done = False
        while not done:
            # Each change puts another object there: what is still the same was not changed.
            seen = session._used_metadata()
            metadata: Any = checked_metadata(function(self._plain_metadata(session, seen)))
            if self._file is None:
                done = session._replace_metadata(seen, metadata)
                continue
            # Kept as the file keeps it, so that it comes back the same after a restart.
            metadata = self._file.encode(metadata, f"metadata of session {session.id!r}")
            with self._lock:
                done = session._replace_metadata(seen, metadata)
                if done:
                    self._file.note_session(session)
        if self._file is not None:
            self._file.write()

    # -- the quota ---------------------------------------------------------------------------------

    def _make_room(self, id: str) -> None:
        """End what stands in the way of a new session, or raise what forbids it."""
        if self.cleanup_expired_sessions():
            return
        error: Exception
        if self._is_taken(id):
            error = SessionExistsError(
                f"there is a session {id!r} already: fetch it with get_session() or "
                "ensure_session()",
                details={"session": id},
            )
        elif self._is_full():
            error = SessionQuotaError(
                f"session {id!r} cannot be made: the store holds {self._max_sessions} sessions, as "
                "many as it may; delete some, let them expire sooner, or raise max_sessions",
                details={"session": id, "max_sessions": self._max_sessions},
            )
        else:
            return  # somebody else has made room
        raise error

    def _made(self) -> None:
        """What making some of the sessions has to do beyond that: the first, and by the quota."""
        sweeper = None
        warning = ""
        with self._lock:
            if self._sweeper is None and not self._closed:
                sweeper = self._sweeper = Sweeper(self, self._sweep_interval)
            count = self._count()
            if count > self._warn_at:
                warn_at, calm_below, warning = marks(count, self._max_sessions)
                self._mark(warn_at, calm_below)
        if sweeper is not None:
            try:
                sweeper.start()
            except RuntimeError:
                # The interpreter is ending, or there are no threads left. Sessions expire without
                # it as well.
                logger.debug("the thread that sweeps sessions could not be started", exc_info=True)
        if warning:
            logger.warning(warning)

    def _calm(self) -> None:
        """Warn again when there are more sessions again."""
        with self._lock:
            warn_at, calm_below, _ = marks(self._count(), self._max_sessions)
            self._mark(warn_at, calm_below)
            if self._count() <= warn_at:
                return
        self._made()  # many have come meanwhile, too soon to know of these marks

    def _finish(self, sessions: list[Session]) -> None:
        """What the end of sessions has to do outside the lock."""
        for session in sessions:
            if session._contents is not None:
                session._contents.close()
        for hook in self._hooks:
            for session in sessions:
                try:
                    hook(session.id)
                except Exception:
                    logger.exception("%r raised at the end of session %r", hook, session.id)
        if self._file is not None:
            self._file.write()

    def _sweep(self) -> None:
        try:
            self.cleanup_expired_sessions()
            if self._file is not None:
                with self._lock:
                    self._note_uses(self._file)
                self._file.write()
        except SessionStoreClosedError:
            pass  # between the sweeper's waking and this

    # -- errors ------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise SessionStoreClosedError("the session store is closed; make another")

    def _not_found(self, id: object) -> Exception:
        if self._closed:
            return SessionStoreClosedError("the session store is closed; make another")
        key = str.__str__(id) if isinstance(id, str) else ""
        tombstone = self._tombstones.find(key)
        if self._is_taken(key) and not self._is_alive(key):
            what = "it has expired: nobody has used it for its time to live"
        elif tombstone is not None:
            what = f"one has expired ({worded(tombstone, self._clock())})"
        else:
            return SessionNotFoundError(
                f"there is no session {shortened(id)}: it was never made, was deleted, or has "
                "expired; create_session() or ensure_session() makes it",
                details={"session": id},
            )
        return SessionNotFoundError(
            f"there is no session {shortened(id)}: {what}; create_session() or ensure_session() "
            "makes another",
            details={"session": id, "expired": True},
        )

    def _note_successor(self, id: str) -> None:
        """Log that a session was made whose predecessor had expired, if that is known."""
        tombstone = self._tombstones.take(id)
        if tombstone is not None:
            logger.info(
                "session %s begins anew: the one before has expired (%s)",
                shortened(id),
                worded(tombstone, self._clock()),
            )

    # -- the file ----------------------------------------------------------------------------------

    def _open_file(self, path: str | os.PathLike[str]) -> SessionFile:
        # Lazily: most stores have none, and sqlite3 takes milliseconds to import.
        from snakepit.sessions.file import SessionFile

        file = SessionFile(checked_backend(path), self._clock)
        # A store that nobody closed still closes its file, when it is collected or at the exit.
        weakref.finalize(self, file.close)
        return file

    def _load(self, file: SessionFile) -> None:
        """Take what the file has; their variables and programs, when they are first used."""
        self._globals.fill(file.load_programs(0))
        now = self._clock()
        for number, id, ttl, left, metadata in file.load_sessions():
            session = self._new(id, ttl, metadata)
            session._number = number
            self._adopt(session, now + left)
        self._loaded = self._count()
        if self._loaded:
            self._made()

    def _journal(self, number: int) -> Journal | None:
        if self._file is None:
            return None
        from snakepit.sessions.journal import Journal

        return Journal(self._file, number)

    def _note_uses(self, file: SessionFile) -> None:
        """Note for the file which sessions were used since it was last told. Under the lock."""
        for session in self._all():
            file.note_use(session)
