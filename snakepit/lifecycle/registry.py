"""The process registry: what this owner started, written down for those who come after it.

    owner                               writer (a thread that lives while there is something to say)
    reserve()   -- before the start --> a row without a pid
    activate()  -- after it ----------> pid, start time, process group
    release()   -- at its end --------> the row is gone; with the last one, the owner's row too

Lifelines end what an owner leaves behind. The registry is for what a lifeline could not do: it is
written behind the owner's back, may lag by some milliseconds, and never stops a pool. See
docs/decisions/0016-process-registry.md.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snakepit.errors import DataDirError
from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.identity import start_time
from snakepit.lifecycle.place import Place
from snakepit.pool.threads import PoolThread

if TYPE_CHECKING:
    from pathlib import Path

    from snakepit.lifecycle.database import Database, RunRow

__all__ = ["Instance", "Registry", "data_dir", "registry"]

logger = logging.getLogger("snakepit")

DELAY = 0.25  # seconds from the first process to the first write
RENEWAL = 86_400.0  # seconds after which a living owner renews its row, which would be forgotten

Operation = Callable[["Database"], None]


@dataclass(frozen=True)
class Note:
    """Something to be written about the process of row `number`, which lives on or does not."""

    number: int
    lives: bool
    operation: Operation


HURRY = Note(0, False, lambda file: None)  # write at once


@dataclass(frozen=True)
class Instance:
    """Which of several services on one host an owner belongs to.

    From SNAKEPIT_INSTANCE_NAME and SNAKEPIT_INSTANCE_TOKEN. An owner cleans up, at its start, only
    after dead owners of the same instance.
    """

    name: str
    token: str

    @classmethod
    def from_environment(cls) -> Instance:
        """Return this process's instance; the name is "default" and the token empty if not set."""
        return cls(
            os.environ.get("SNAKEPIT_INSTANCE_NAME") or "default",
            os.environ.get("SNAKEPIT_INSTANCE_TOKEN", ""),
        )


def data_dir() -> Path:
    """Return the directory of the registry, made if need be.

    SNAKEPIT_DATA_DIR, else snakepit under $XDG_STATE_HOME or ~/.local/state. Raises DataDirError
    if SNAKEPIT_DATA_DIR cannot be written to; for an unwritable default, a private directory under
    the temporary one takes its place, with a warning.
    """
    from pathlib import Path

    explicit = os.environ.get("SNAKEPIT_DATA_DIR")
    if explicit:
        problem = _prepare(Path(explicit))
        if problem is not None:
            raise DataDirError(
                f"SNAKEPIT_DATA_DIR={explicit!r} {problem}: name a directory that this user may "
                "write to, or unset it",
                details={"data_dir": explicit},
            )
        return Path(explicit)
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = Path(home) / "snakepit"
    problem = _prepare(folder)
    if problem is None:
        return folder
    import tempfile

    spare = Path(tempfile.gettempdir()) / f"snakepit-{os.geteuid()}"
    logger.warning("%s %s; the process registry is kept in %s instead", folder, problem, spare)
    problem = _prepare(spare)
    if problem is None and spare.lstat().st_uid != os.geteuid():
        problem = "belongs to another user"
    if problem is not None:
        raise DataDirError(f"{spare} {problem}: set SNAKEPIT_DATA_DIR to a writable directory")
    return spare


_trials = itertools.count()


def _prepare(folder: Path) -> str | None:
    """Make a directory; return what is wrong with it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    try:
        # Tried, not asked for: root may write everywhere, says os.access(), also to /sys. And not
        # by tempfile: on top of its import, a signal handler that starts a pool finds half of it.
        trial = folder / f".trial-{os.getpid()}-{next(_trials)}"
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        trial.unlink()
    except OSError as error:
        return f"is not writable ({error.strerror})"
    return None


class Registry:
    """What this process started. Thread-safe; every call returns at once.

    No caller takes a lock that another has to wait for: a signal handler may wait for a pool's end
    on top of a call of its own thread's, and so for threads that call here.
    """

    def __init__(self) -> None:
        # Its `put` is re-entrant.
        self._notes: queue.SimpleQueue[Note] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        # Held while there is a writer; only ever tried, never waited for.
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None
        self._folder: Path | None = None
        self._explicit: str | None = None

    def check(self) -> None:
        """Raise DataDirError if the directory that was asked for cannot be written to."""
        explicit = os.environ.get("SNAKEPIT_DATA_DIR")
        if self._folder is None or explicit != self._explicit:
            self._folder = data_dir() if explicit else None
            self._explicit = explicit

    def reserve(self, kind: str) -> int:
        """Enter a process that is about to be started; return the number of its row."""
        number = next(self._numbers)
        run = run_ids.current()
        self._push(Note(number, True, lambda file: file.reserve(run, number, kind)))
        return number

    def activate(self, number: int, pid: int) -> None:
        """Say which process it is. Call this while the process is not yet reaped."""
        start = start_time(pid)
        run = run_ids.current()
        self._push(Note(number, True, lambda file: file.activate(run, number, pid, start, pid)))

    def release(self, number: int) -> None:
        """Strike out a process that ended, or that was not started after all."""
        run = run_ids.current()
        self._push(Note(number, False, lambda file: file.release(run, number)))

    def flush(self, timeout: float) -> bool:
        """Wait until everything is written; False if it is not after `timeout` seconds."""
        writer = self._writer
        if writer is None or writer is threading.current_thread():
            return True
        self._notes.put(HURRY)
        writer.join(timeout)
        return not writer.is_alive()

    def _push(self, note: Note) -> None:
        self._notes.put(note)
        # A writer that is about to end looks again after it has let go of the lock.
        if self._writing.acquire(blocking=False):
            writer = self._writer = PoolThread("snakepit-registry", self._write)
            try:
                writer.start()
            except BaseException as error:
                if writer.withdraw():
                    self._writer = None
                    self._writing.release()
                if not isinstance(error, RuntimeError):  # the interpreter is ending
                    raise

    # -- the writer --------------------------------------------------------------------------------

    def _write(self) -> None:
        while True:
            self._write_until_nothing_lives(Writer(self._explicit_folder))
            self._writer = None
            self._writing.release()
            if self._notes.empty() or not self._writing.acquire(blocking=False):
                return
            self._writer = threading.current_thread()

    def _write_until_nothing_lives(self, writer: Writer) -> None:
        live: set[int] = set()
        batch = self._collect()
        while True:
            for note in batch:
                if note.lives:
                    live.add(note.number)
                else:
                    live.discard(note.number)
            if live or writer.is_open:
                writer.write([note.operation for note in batch])
            if not live:
                writer.close()
                if self._notes.empty():
                    return
            try:
                batch = self._take(self._notes.get(timeout=RENEWAL))
            except queue.Empty:
                batch = []  # For the renewal alone.

    def _collect(self) -> list[Note]:
        """Take what comes in the first moments.

        A pool that is gone again by then needs no row, and one that starts is not disturbed.
        """
        batch: list[Note] = []
        deadline = time.monotonic() + DELAY
        with contextlib.suppress(queue.Empty):
            while True:
                note = self._notes.get(timeout=max(0.0, deadline - time.monotonic()))
                if note is HURRY:
                    break
                batch.append(note)
        return batch + self._take()

    def _take(self, first: Note | None = None) -> list[Note]:
        batch = [] if first is None else [first]
        with contextlib.suppress(queue.Empty):
            while True:
                batch.append(self._notes.get_nowait())
        return [note for note in batch if note is not HURRY]

    def _explicit_folder(self) -> Path:
        return self._folder or data_dir()


class Writer:
    """Writes batches; what goes wrong is told once and costs only the rows."""

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._file: Database | None = None
        self._path: Path | None = None  # of that file, also of one that cannot be opened
        self._told = False
        self._run: RunRow | None = None
        self._renewed: float | None = None  # monotonic time; None: nothing is written yet
        self._rivals: set[str] = set()  # runs with our instance token that we have told of

    @property
    def is_open(self) -> bool:
        """Whether there is a file that knows of this run."""
        return self._file is not None

    def write(self, batch: Sequence[Operation]) -> None:
        """Write a batch as one transaction."""
        if self._told and self._file is None:
            return
        try:
            # Imported here: psutil, and SQLite, take 10 ms, and only this thread needs them.
            from snakepit.lifecycle import orphans

            file, run = self._opened()
            now = time.monotonic()
            first = self._renewed is None
            renew = self._renewed is None or now - self._renewed >= RENEWAL
            with file.writing():
                # Others are looked for after we are entered, both in one transaction: of two owners
                # that start at the same time, one sees the other.
                file.add_run(run)
                if renew:
                    file.renew(run.run_id)
                    file.forget_elsewhere(run.place)
                others = orphans.same_instance(file, run) if first or run.instance_token else []
                for operation in batch:
                    operation(file)
            if renew:
                self._renewed = now
            self._rivals |= orphans.tell_rivals(run, others, self._rivals)
            if first:
                orphans.sweep(file, others)
        except Exception as error:
            self._tell(error)

    def _opened(self) -> tuple[Database, RunRow]:
        if self._file is None or self._run is None:
            from snakepit.lifecycle.database import Database, RunRow, file_in

            start = start_time(os.getpid())
            if start is None:
                raise OSError("/proc does not show this process: its start time is not known")
            instance = Instance.from_environment()
            folder = self._folder()
            self._path = file_in(folder)
            self._file = Database(folder)
            self._run = RunRow(
                run_ids.current(), os.getpid(), start, Place.here().text, instance.name,
                instance.token,
            )  # fmt: skip
            self._renewed = None
        return self._file, self._run

    def close(self) -> None:
        """Strike out the run, which has nothing left, and close the file."""
        if self._file is None:
            return
        try:
            if self._run is not None:
                self._file.remove_run(self._run.run_id)
        except Exception as error:
            self._tell(error)
        with contextlib.suppress(Exception):
            self._file.close()
        self._file = None

    def _tell(self, error: Exception) -> None:
        if self._told:
            return
        self._told = True
        where = remedy = ""
        if self._path is not None:
            from snakepit.lifecycle.database import remedy_for

            where, remedy = f" {self._path}", remedy_for(error)
        logger.warning(
            "the process registry%s cannot be written (%s: %s); pools go on without it%s",
            where, type(error).__name__, error, remedy,
        )  # fmt: skip


registry = Registry()


def _begin_anew() -> None:
    # The writer is not in the child, its file is not to be touched there (SQLite's locks are not
    # inherited), and the lock may have been held.
    registry.__init__()  # type: ignore[misc]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
