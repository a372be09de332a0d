"""The file of a session store: SQLite in WAL mode, used by one store at a time.

Memory decides, the file follows: a change is noted under the lock that made it, in the order in
which things happened, and written after it. Whoever writes takes along what others have noted, as
one transaction, so that many threads share the cost of reaching the disk.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakepit.errors import (
    DecodeError,
    EncodeError,
    SessionStoreClosedError,
    SessionStoreError,
)
from snakepit.lifecycle.database import is_corrupt, set_aside
from snakepit.sessions.session import Session

__all__ = ["SessionFile"]

VERSION = 1
APPLICATION = 0x534E5053
BUSY_SECONDS = 0.5
MOST_BYTES = 900_000_000  # SQLite's own limit is 10^9 for a row

_SCHEMA = f"""
BEGIN;
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL, ttl REAL NOT NULL, metadata BLOB,
    expires REAL NOT NULL, boot TEXT NOT NULL, boot_expires REAL NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE variables (
    session INTEGER NOT NULL, name BLOB NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (session, name)
);
CREATE TABLE programs (
    session INTEGER NOT NULL, name BLOB NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (session, name)
);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
_PUT_SESSION = (
    "INSERT INTO sessions (number, id, ttl, metadata, expires, boot, boot_expires) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET "
    "metadata = excluded.metadata, expires = excluded.expires, boot = excluded.boot, "
    "boot_expires = excluded.boot_expires"
)


class SessionFile:
    """An open file. Thread-safe. Raises SessionStoreError, which names it, for what goes wrong."""

    def __init__(self, path: str | os.PathLike[str], clock: Callable[[], float]) -> None:
        self.path = Path(os.path.abspath(os.fspath(path)))
        self._clock = clock
        self._boot = boot_id()
        self._pid = os.getpid()
        # Re-entrant, for a finaliser that changes a session while its thread is writing.
        self._lock = threading.RLock()
        self._writing = False
        # Appended to by anybody, under whichever lock is theirs; a deque's append is atomic by the
        # lock of its own that it has where there is no GIL. Emptied under the lock above.
        self._pending: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._last_number = 0
        self._connection: sqlite3.Connection | None = self._open_or_replace()
        _open_files.add(self)

    # -- opening and closing -----------------------------------------------------------------------

    def _open_or_replace(self) -> sqlite3.Connection:
        try:
            try:
                return self._open()
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                set_aside(self.path, f"it cannot be read: {error}", "session store")
                return self._open()
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, SessionStoreError):
                raise
            if "locked" in str(error):
                raise self._error(
                    "is in use by another store, of this or another process: a file serves one at "
                    "a time"
                ) from error
            raise self._error(f"cannot be opened ({error}): name one that can be") from error

    def _open(self) -> sqlite3.Connection:
        # Made here, since SQLite would let everybody read it. One that exists must not be opened,
        # as its closing would take the locks away that another store of this process has on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            # Exclusive, so that a second store is refused instead of never seeing what this one
            # changes; before anything is read, so that the log needs no shared memory.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and application != APPLICATION:
                raise self._error("is a database of another program: name another file")
            if version > VERSION:
                raise self._error(
                    f"has the version {version}, and this Snakepit knows {VERSION}: it was written "
                    "by a newer one"
                )
            # A power failure may cost the last changes, a crash of the process none.
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            if not tables:
                connection.executescript(_SCHEMA)
            connection.execute("BEGIN IMMEDIATE")
            (number,) = connection.execute("SELECT max(number) FROM sessions").fetchone()
            connection.execute("SELECT version FROM variables LIMIT 1").fetchone()
            connection.execute("SELECT name FROM programs LIMIT 1").fetchone()
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        self._last_number = number or 0
        return connection

    def close(self) -> None:
        """Write what is noted and close the file. May be repeated."""
        if os.getpid() != self._pid:
            return  # the parent's
        with self._lock:
            if self._connection is None:
                return
            try:
                self.write()
            finally:
                connection, self._connection = self._connection, None
                _open_files.discard(self)
                connection.close()

    def _error(self, what: str) -> SessionStoreError:
        return SessionStoreError(
            f"the session store's file {self.path} {what}", details={"path": str(self.path)}
        )

    # -- encoding ----------------------------------------------------------------------------------

    def encode(self, value: Any, what: str) -> bytes:
        """Return a value's pickle. Raises EncodeError, which names `what` it is."""
        try:
            payload = pickle.dumps(value, 5)
        except Exception as error:
            raise EncodeError(
                f"{what} cannot be pickled, and a session store with a file keeps only what can: "
                f"{error}",
                details={"what": what},
            ) from error
        if len(payload) > MOST_BYTES:
            raise EncodeError(
                f"{what} takes {len(payload):,} bytes; a session store's file takes up to "
                f"{MOST_BYTES:,}",
                details={"what": what},
            )
        return payload

    def decode(self, payload: bytes, what: str) -> Any:
        """Return the value of a pickle. Raises DecodeError, which names `what` it is."""
        try:
            return pickle.loads(payload)
        except Exception as error:
            raise DecodeError(
                f"{what}, in the session store's file {self.path}, cannot be rebuilt: {error}",
                details={"what": what, "path": str(self.path)},
            ) from error

    # -- sessions ----------------------------------------------------------------------------------

    def note_session(self, session: Session) -> None:
        """Note a new session, or new metadata of one. Under the store's lock."""
        if not session._number:
            self._last_number += 1
            session._number = self._last_number
        self.note(
            _PUT_SESSION,
            (
                session._number,
                session.id.encode("utf-8", "surrogatepass"),
                session.ttl,
                session._metadata,
                *self._when(session),
            ),
        )

    def note_use(self, session: Session) -> None:
        """Note when a session expires, if that has changed. Under the store's lock."""
        if session._expires != session._saved:
            self.note(
                "UPDATE sessions SET expires = ?, boot = ?, boot_expires = ? WHERE number = ?",
                (*self._when(session), session._number),
            )

    def note_session_deleted(self, session: Session) -> None:
        """Note the end of a session. Under the store's lock."""
        self._note_deleted(session._number)

    def _note_deleted(self, number: int) -> None:
        self.note("DELETE FROM sessions WHERE number = ?", (number,))
        self.note("DELETE FROM variables WHERE session = ?", (number,))
        self.note("DELETE FROM programs WHERE session = ?", (number,))

    def _when(self, session: Session) -> tuple[float, str, float]:
        """When a session expires, on the clocks that go on when this process does not."""
        session._saved = session._expires
        left = session._expires - self._clock()
        return wall_clock() + left, self._boot, boot_clock() + left

    def load_sessions(self) -> list[tuple[int, str, float, float, Any]]:
        """Return number, id, ttl, seconds left and metadata, as `note_session` takes them.

        While the machine has not been started again, the time that passed is its boot clock's,
        which nobody sets. Otherwise it is the wall clock's; if that was set back, the sessions
        live no longer than if they had been used just now. Forgets those whose time is over.
        """
        wall, boot = wall_clock(), boot_clock()
        loaded = []
        for number, id, ttl, metadata, expires, booted, boot_expires in self._read(
            "SELECT number, id, ttl, metadata, expires, boot, boot_expires FROM sessions "
            "ORDER BY number"
        ):
            left = min(ttl, boot_expires - boot if booted == self._boot else expires - wall)
            if left > 0:
                loaded.append((number, _text(id), ttl, left, metadata))
            else:
                self._note_deleted(number)
        self.write()
        return loaded

    # -- rows --------------------------------------------------------------------------------------

    def load_variables(self, number: int) -> tuple[int, list[tuple[str, int, bytes]]]:
        """Return a session's floor of versions, and its variables' names, versions and data."""
        floors = self._read("SELECT floor FROM sessions WHERE number = ?", number)
        rows = self._read("SELECT name, version, data FROM variables WHERE session = ?", number)
        return floors[0][0] if floors else 0, [(_text(name), *row) for name, *row in rows]

    def load_programs(self, number: int) -> list[tuple[str, bytes]]:
        """Return a session's programs' names and data; of 0, the global ones."""
        rows = self._read("SELECT name, data FROM programs WHERE session = ?", number)
        return [(_text(name), data) for name, data in rows]

    def _read(self, query: str, *values: Any) -> list[Any]:
        self._check_process()
        with self._lock:
            if self._connection is None:
                raise SessionStoreClosedError("the session store is closed; make another")
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._error(f"cannot be read: {error}") from error

    def note(self, statement: str, values: tuple[Any, ...]) -> None:
        """Note a change, to be written by the next `write` of any thread."""
        self._pending.append((statement, values))

    def write(self) -> None:
        """Return when all that was noted before is in the file.

        What cannot be written stays noted, for the next attempt.
        """
        self._check_process()
        with self._lock:
            if self._writing:
                return  # a finaliser's, in the middle of the loop below, which takes it along
            self._writing = True
            try:
                while self._pending:
                    self._write_pending()
            finally:
                self._writing = False

    def _write_pending(self) -> None:
        if self._connection is None:
            raise SessionStoreClosedError("the session store is closed; make another")
        taken = [self._pending.popleft() for _ in range(len(self._pending))]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, values in taken:
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._pending.extendleft(reversed(taken))
            try:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # the error that led here says more
            if isinstance(error, sqlite3.Error):
                raise self._error(
                    f"cannot be written to ({error}); what was changed holds in memory, and is "
                    "written with the next change that can be"
                ) from error
            raise

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise self._error("was opened before this process forked: open a store of its own here")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")


# -- clocks, as functions that tests replace -------------------------------------------------------


def wall_clock() -> float:
    """Seconds since the epoch, as far as somebody has set the clock to them."""
    return time.time()


def boot_clock() -> float:
    """Seconds since the machine was started, those asleep included."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def boot_id() -> str:
    """A name for the time since the machine was started; "" if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# -- forks -----------------------------------------------------------------------------------------

_open_files: weakref.WeakSet[SessionFile] = weakref.WeakSet()


def _abandon() -> None:
    """Keep the connections of the parent from being closed in a child, for ever.

    SQLite takes the parent's locks for its own there: closing would merge and remove the log that
    the parent goes on writing. A reference in a variable would not do, as the interpreter clears
    those when it ends.
    """
    for file in list(_open_files):
        connection = file._connection
        if connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
