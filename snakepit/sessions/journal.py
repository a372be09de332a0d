"""What one session changes, as rows for the store's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakepit.sessions.kinds import make_kind
from snakepit.sessions.variables import Variable

if TYPE_CHECKING:
    from snakepit.sessions.file import SessionFile
    from snakepit.sessions.session import Contents

__all__ = ["Journal"]

# A row of a session that was deleted meanwhile is not written; 0 stands for the global programs.
_PUT_VARIABLE = (
    "INSERT OR REPLACE INTO variables SELECT ?1, ?2, ?3, ?4 "
    "WHERE EXISTS (SELECT 1 FROM sessions WHERE number = ?1)"
)
_PUT_PROGRAM = (
    "INSERT OR REPLACE INTO programs SELECT ?1, ?2, ?3 "
    "WHERE ?1 = 0 OR EXISTS (SELECT 1 FROM sessions WHERE number = ?1)"
)


class Journal:
    """Notes the changes of the session with this number for the file; 0: of the global programs.

    `encode` and `decode` may run foreign code and are called outside of all locks; the `note`
    methods are called under the lock of what has changed, so that the rows have the order of the
    changes; `write` after it, and returns when they are in the file.
    """

    def __init__(self, file: SessionFile, number: int) -> None:
        self._file = file
        self._number = number
        self.encode = file.encode
        self.decode = file.decode
        self.write = file.write

    def load(self, contents: Contents) -> None:
        """Fill what a session holds from the file; before anybody else knows it."""
        floor, variables = self._file.load_variables(self._number)
        records = [self._decode_variable(name, version, data) for name, version, data in variables]
        contents.variables.fill(records, floor)
        contents.programs.fill(self._file.load_programs(self._number))

    def encode_variable(self, record: Variable) -> bytes:
        """Return a variable as the file keeps it, without its version."""
        data = (record.type, record.constraints, record.value, record.metadata)
        return self.encode(data, f"variable {record.name!r}")

    def _decode_variable(self, name: str, version: int, payload: bytes) -> Variable:
        kind, constraints, value, metadata = self.decode(payload, f"variable {name!r}")
        made = make_kind(kind, constraints)
        return Variable(name, made, made.adopt(value), version, metadata)

    def note_variable(self, record: Variable, payload: bytes) -> None:
        """Note a variable's new value."""
        self._file.note(_PUT_VARIABLE, (self._number, _blob(record.name), record.version, payload))

    def note_variable_deleted(self, name: str, floor: int) -> None:
        """Note the end of a variable."""
        self._file.note(
            "DELETE FROM variables WHERE session = ? AND name = ?", (self._number, _blob(name))
        )
        self._file.note("UPDATE sessions SET floor = ? WHERE number = ?", (floor, self._number))

    def note_program(self, name: str, payload: bytes) -> None:
        """Note a program."""
        self._file.note(_PUT_PROGRAM, (self._number, _blob(name), payload))

    def note_program_deleted(self, name: str) -> None:
        """Note the end of a program."""
        self._file.note(
            "DELETE FROM programs WHERE session = ? AND name = ?", (self._number, _blob(name))
        )


def _blob(text: Any) -> bytes:
    # SQLite's own text refuses what Python's strings may hold, such as halves of surrogate pairs.
    return str(text).encode("utf-8", "surrogatepass")
