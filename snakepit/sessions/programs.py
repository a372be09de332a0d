"""Programs: what callers keep under a name, in one session or for all of them.

A program is any value, such as what a tool has built and will be given again. It is kept as it is;
a store with a file keeps a pickle of it beside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from snakepit.errors import ProgramNotFoundError, SessionNotFoundError
from snakepit.options import did_you_mean
from snakepit.sessions.checks import checked_name
from snakepit.sessions.kinds import shortened

if TYPE_CHECKING:
    from snakepit.sessions.journal import Journal

__all__ = ["GlobalPrograms", "Pickled", "ProgramTable"]


class Pickled:
    """A value of the file that nobody has asked for yet."""

    __slots__ = ("payload",)

    def __init__(self, payload: bytes) -> None:
        self.payload = payload


class ProgramTable:
    """Programs by name, of a session or, without one, the global ones. Thread-safe."""

    def __init__(self, session: str | None, journal: Journal | None) -> None:
        self._session = session
        self._journal = journal
        # Re-entrant, for a signal handler or finaliser that comes here while its thread is in here.
        self._lock = threading.RLock()
        self._programs: dict[str, Any] = {}
        self._closed = False

    def fill(self, payloads: Iterable[tuple[str, bytes]]) -> None:
        """Take what the file has; before anybody else knows the table."""
        self._programs = {name: Pickled(payload) for name, payload in payloads}

    def store(self, name: str, program: Any) -> None:
        """Keep a program, in place of one of the same name."""
        self._put(name, program, new=True)

    def update(self, name: str, program: Any) -> None:
        """Keep a program in place of one that must be there. Raises ProgramNotFoundError."""
        self._put(name, program, new=False)

    def _put(self, name: str, program: Any, new: bool) -> None:
        checked_name("a program", name)
        payload = b""
        if self._journal is not None:
            payload = self._journal.encode(program, f"program {name!r}")
        with self._lock:
            self._check_open()
            known = new or name in self._programs
            if known:
                self._programs[name] = program
                if self._journal is not None:
                    self._journal.note_program(name, payload)
        if not known:
            raise self._not_found(name)
        self._write()

    def get(self, name: str) -> Any:
        """Return a program. Raises ProgramNotFoundError."""
        while True:
            with self._lock:
                self._check_open()
                if name not in self._programs:
                    break
                program = self._programs[name]
            if not isinstance(program, Pickled) or self._journal is None:
                return program
            # Foreign code, so not under the lock; only one of several readers keeps what it got.
            value = self._journal.decode(program.payload, f"program {name!r}")
            with self._lock:
                if self._programs.get(name) is program:
                    self._programs[name] = value
        raise self._not_found(name)

    def delete(self, name: str) -> None:
        """Forget a program. Raises ProgramNotFoundError."""
        with self._lock:
            self._check_open()
            known = name in self._programs
            # What it is may have a finaliser, which must not run under the lock.
            program = self._programs.pop(name, None)
            if known and self._journal is not None:
                self._journal.note_program_deleted(name)
        del program
        if not known:
            raise self._not_found(name)
        self._write()

    def names(self) -> list[str]:
        """Return the names, sorted."""
        with self._lock:
            self._check_open()
            return sorted(self._programs)

    def __len__(self) -> int:
        return len(self._programs)

    def close(self) -> None:
        """Forget all; nothing can be read or written any more."""
        with self._lock:
            self._closed = True
            programs, self._programs = self._programs, {}
        del programs

    def _write(self) -> None:
        if self._journal is not None:
            self._journal.write()

    def _check_open(self) -> None:
        if self._closed:
            raise SessionNotFoundError(
                f"session {self._session!r} has ended: it was deleted, or expired",
                details={"session": self._session},
            )

    def _not_found(self, name: str) -> ProgramNotFoundError:
        with self._lock:
            known = list(self._programs)
        where = (
            "there is no global" if self._session is None else f"session {self._session!r} has no"
        )
        hint = did_you_mean(name, known) or "; store it first"
        return ProgramNotFoundError(
            f"{where} program {shortened(name)}{hint}",
            details={"session": self._session, "program": name},
        )


class GlobalPrograms:
    """What a store has of programs that belong to no session."""

    _globals: ProgramTable

    if TYPE_CHECKING:

        def _check_open(self) -> None: ...

    def store_global_program(self, name: str, program: Any) -> None:
        """Keep a program, which may be any value, for all sessions and beyond them."""
        self._globals_open().store(name, program)

    def get_global_program(self, name: str) -> Any:
        """Return a global program. Raises ProgramNotFoundError."""
        return self._globals_open().get(name)

    def update_global_program(self, name: str, program: Any) -> None:
        """Keep a global program in place of one that must be there. Raises ProgramNotFoundError."""
        self._globals_open().update(name, program)

    def delete_global_program(self, name: str) -> None:
        """Forget a global program. Raises ProgramNotFoundError."""
        self._globals_open().delete(name)

    def list_global_programs(self) -> list[str]:
        """Return the names of the global programs, sorted."""
        return self._globals_open().names()

    def _globals_open(self) -> ProgramTable:
        self._check_open()
        return self._globals
