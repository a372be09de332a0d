"""The registry's file: SQLite in WAL mode, one a host and data directory.

Nothing in it is worth more than the pool that it serves: a file that cannot be read is set aside
under another name, never deleted, and a new one begun. One of a newer version is in use by others,
most likely: it is left where it is, and we go without.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Database", "ProcessRow", "RunRow", "file_in", "is_corrupt", "remedy_for", "set_aside"]

logger = logging.getLogger("snakepit")

VERSION = 1
BUSY_SECONDS = 2.0
FORGET_AFTER = 7 * 86_400.0  # seconds without a renewal; for rows of other boots and containers

_SCHEMA = f"""
BEGIN;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, pid INTEGER NOT NULL, start INTEGER NOT NULL, place TEXT NOT NULL,
    instance_name TEXT NOT NULL, instance_token TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE processes (
    number INTEGER NOT NULL, run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE,
    kind TEXT NOT NULL, state TEXT NOT NULL, pid INTEGER, start INTEGER, pgid INTEGER,
    PRIMARY KEY (run_id, number)
);
PRAGMA user_version = {VERSION};
COMMIT;
"""


@dataclass(frozen=True)
class RunRow:
    """An owner: a process that made pools. Its pid and start time name it."""

    run_id: str
    pid: int
    start: int
    place: str
    instance_name: str
    instance_token: str


@dataclass(frozen=True)
class ProcessRow:
    """A process that an owner started; without a pid, it was reserved and never activated."""

    number: int
    run_id: str
    kind: str
    state: str
    pid: int | None
    start: int | None
    pgid: int | None


class Database:
    """An open registry file, used by one thread. Raises sqlite3.Error for what goes wrong.

    `replace`: whether a file that cannot be read is set aside and a new one begun; if not, or if it
    is of a newer version, that is an error.
    """

    def __init__(self, folder: Path, *, replace: bool = True) -> None:
        self.path = file_in(folder)
        self._connection = self._open_or_replace() if replace else self._open()

    def _open_or_replace(self) -> sqlite3.Connection:
        try:
            with _claimed(self.path.parent, exclusive=False):
                return self._open()
        except _CorruptError:
            with _claimed(self.path.parent, exclusive=True):
                # Whoever else has met it may have replaced it by now.
                try:
                    return self._open()
                except _CorruptError as problem:
                    set_aside(self.path, str(problem))
                    return self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            # After a power failure no process is left either: what is lost then is not missed.
            connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA foreign_keys = ON;"
            )
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise _NewerError(
                    f"{self.path} is of version {version}, newer than {VERSION}, ours: use the "
                    "snakepit that made it, or another SNAKEPIT_DATA_DIR"
                )
            if version == 0:
                self._create(connection)
            connection.execute("SELECT count(*) FROM runs, processes").fetchone()
        except BaseException as error:
            connection.close()
            if isinstance(error, _NewerError):
                raise
            if isinstance(error, sqlite3.DatabaseError) and is_corrupt(error):
                raise _CorruptError(f"{self.path} cannot be read: {error}") from error
            raise
        return connection

    @staticmethod
    def _create(connection: sqlite3.Connection) -> None:
        try:
            connection.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            if "already exists" not in str(error):
                raise  # else another owner was faster

    def close(self) -> None:
        """Close the file; the last owner's close merges the log into it."""
        self._connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What is written in this block is there as a whole or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # -- rows --------------------------------------------------------------------------------------

    def add_run(self, run: RunRow) -> None:
        """Enter an owner; does nothing if it is entered."""
        self._connection.execute(
            "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run.run_id, run.pid, run.start, run.place, run.instance_name, run.instance_token,
             time.time()),
        )  # fmt: skip

    def renew(self, run_id: str) -> None:
        """Note that an owner lives, for those who cannot see it."""
        self._connection.execute(
            "UPDATE runs SET created = ? WHERE run_id = ?", (time.time(), run_id)
        )

    def remove_run(self, run_id: str) -> None:
        """Strike out an owner and its processes."""
        self._connection.execute("DELETE FROM runs WHERE run_id = ?", (run_id,))

    def reserve(self, run_id: str, number: int, kind: str) -> None:
        """Enter a process that is about to be started."""
        self._connection.execute(
            "INSERT OR REPLACE INTO processes VALUES (?, ?, ?, 'reserved', NULL, NULL, NULL)",
            (number, run_id, kind),
        )

    def activate(self, run_id: str, number: int, pid: int, start: int | None, pgid: int) -> None:
        """Say which process a reserved row is."""
        self._connection.execute(
            "UPDATE processes SET state = 'active', pid = ?, start = ?, pgid = ? "
            "WHERE run_id = ? AND number = ?",
            (pid, start, pgid, run_id, number),
        )

    def release(self, run_id: str, number: int) -> None:
        """Strike out a process that ended, or that was never started."""
        self._connection.execute(
            "DELETE FROM processes WHERE run_id = ? AND number = ?", (run_id, number)
        )

    def runs(self) -> list[RunRow]:
        """All owners."""
        rows = self._connection.execute(
            "SELECT run_id, pid, start, place, instance_name, instance_token FROM runs"
        )
        return [RunRow(*row) for row in rows]

    def processes(self, run_id: str) -> list[ProcessRow]:
        """The processes of an owner."""
        rows = self._connection.execute(
            "SELECT number, run_id, kind, state, pid, start, pgid FROM processes WHERE run_id = ?",
            (run_id,),
        )
        return [ProcessRow(*row) for row in rows]

    def forget_elsewhere(self, here: str) -> None:
        """Strike out what other boots, hosts and containers entered and did not renew for long."""
        self._connection.execute(
            "DELETE FROM runs WHERE place != ? AND created < ?",
            (here, time.time() - FORGET_AFTER),
        )


class _CorruptError(sqlite3.DatabaseError):
    """The file is no registry; why is its text."""


class _NewerError(sqlite3.DatabaseError):
    """The file is a registry of which we do not know how to read it."""


@contextlib.contextmanager
def _claimed(folder: Path, *, exclusive: bool) -> Iterator[None]:
    """Let nobody set the file aside while another opens it, nor two at once.

    Else the second would rename the new file, which by then is in use; and who opens the old one
    could take the new one's log for its own. The claim is on the directory, and so leaves nothing
    there. Raises sqlite3.OperationalError when it cannot be had in `BUSY_SECONDS`.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise sqlite3.OperationalError(f"unable to open {folder}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise sqlite3.OperationalError(f"{folder} is locked") from None
                time.sleep(0.005)
            except OSError:
                break  # a file system without locks, where SQLite's would not hold either
        try:
            yield
        finally:
            # Said in so many words: closing alone would leave it to a child that was forked
            # meanwhile.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is no database, or a damaged one, and not merely out of reach."""
    if not isinstance(error, sqlite3.OperationalError):
        return True  # "file is not a database", "database disk image is malformed"
    return str(error).startswith(("no such table", "no such column", "malformed"))


def remedy_for(error: BaseException) -> str:
    """Return the end of a message about an error of the file: what becomes of a damaged one."""
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, _NewerError):
        return ""
    if not is_corrupt(error):
        return ""
    return (
        "; the file is left as it is: the next program that starts a pool sets it aside under "
        "another name and begins a new one"
    )


def file_in(folder: Path) -> Path:
    """The registry's file in a data directory.

    One a host: the directory may be shared over a network, which SQLite's log cannot be.
    """
    host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname()) or "localhost"
    return folder / f"registry-{host}.sqlite3"


def set_aside(path: Path, why: str, what: str = "process registry") -> Path:
    """Rename a file that is not to be used, and its log with it; return its new name.

    `what` it is and `why` are for the log.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}.{stamp}-{os.getpid()}.aside")
    logger.warning(
        "the %s %s is set aside as %s and a new one begun: %s", what, path, target.name, why
    )
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{target}{suffix}")
    return target
