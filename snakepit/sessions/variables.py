"""The variables of one session: typed values with versions, and who watches them.

Every write has two halves. Outside the lock the value is checked, copied and, for a store with a
file, pickled; that runs foreign code. Under the lock the version is compared, the record replaced
and noted for watches and file. Records never change, so what was read stays as it was.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from snakepit.errors import (
    SessionNotFoundError,
    VariableError,
    VariableNotFoundError,
    VersionConflictError,
)
from snakepit.options import did_you_mean
from snakepit.sessions.checks import checked_name
from snakepit.sessions.kinds import Kind, UnfitError, make_kind, shortened
from snakepit.sessions.watches import CallbackWatch, IteratorWatch, Notifier, Watch

if TYPE_CHECKING:
    from snakepit.sessions.journal import Journal

__all__ = ["Variable", "VariableTable"]


class Variable:
    """A variable as it was at one version: name, type, value, version, constraints, metadata."""

    __slots__ = ("_constraints", "_kind", "_metadata", "name", "value", "version")

    def __init__(
        self, name: str, kind: Kind, value: Any, version: int, metadata: Mapping[str, Any] | None
    ) -> None:
        self.name = name
        self.value = value
        self.version = version
        self._kind = kind
        self._metadata = dict(metadata) if metadata else {}

    @property
    def type(self) -> str:
        """The name of its type."""
        return self._kind.name

    @property
    def constraints(self) -> dict[str, Any]:
        """The constraints on its value, by name; a copy."""
        return dict(self._kind.constraints)

    @property
    def metadata(self) -> dict[str, Any]:
        """What was said of it when it was registered; a copy."""
        return dict(self._metadata)

    def at(self, value: Any, version: int) -> Variable:
        """Return the record that follows this one."""
        return Variable(self.name, self._kind, value, version, self._metadata)

    def accept(self, value: Any) -> Any:
        """Return what is to be kept for `value`. Raises UnfitError."""
        return self._kind.accept(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            self.name,
            self.type,
            self._kind.constraints,
            self.value,
            self.version,
            self._metadata,
        )

    def __repr__(self) -> str:
        return f"<Variable {self.name!r}: {self.type} {shortened(self.value)}, v{self.version}>"


def _rebuild(
    name: str,
    kind: str,
    constraints: Mapping[str, Any],
    value: Any,
    version: int,
    metadata: Mapping[str, Any],
) -> Variable:
    made = make_kind(kind, constraints)
    return Variable(name, made, made.adopt(value), version, metadata)


class VariableTable:
    """The variables of one session. Thread-safe. Its errors name the session.

    With a `journal`, every change is noted there and written before the method returns.
    """

    def __init__(self, session: str, journal: Journal | None, notifier: Notifier) -> None:
        self._session = session
        self._journal = journal
        self._notifier = notifier
        # Re-entrant, for a signal handler or finaliser that comes here while its thread is in here.
        # Nothing below runs foreign code under it.
        self._lock = threading.RLock()
        self._records: dict[str, Variable] = {}
        self._watches: dict[str, list[Callable[[], Watch | None]]] = {}
        # The highest version of any variable that was deleted: another one of its name goes on
        # from there, so that a version that somebody has read never comes again.
        self._floor = 0
        self._closed = False
        # How many changes are being made, under the lock. While there are none, `read` takes none.
        self._changing = 0
        # Begins elsewhere in every session, so that one that is made again under the same id is
        # not taken for the old one.
        self.revision = time.monotonic_ns()

    def fill(self, records: Iterable[Variable], floor: int) -> None:
        """Take what the file has; before anybody else knows the table."""
        self._records = {record.name: record for record in records}
        self._floor = floor

    # -- reading -----------------------------------------------------------------------------------

    def read(self, name: str) -> Variable:
        """Return the variable's record. Raises VariableNotFoundError."""
        # A change raises `_changing` before it puts its record there, and lowers it when all are
        # told who remember the variable, and those of its batch are there too. So who sees the
        # record sees that, and waits, or comes after it; a dict gives each of its values whole.
        record = self._records.get(name)
        if record is None or self._changing:
            with self._lock:
                record = self._records.get(name)
        if record is None:
            # Closed, it has none.
            self._check_open()
            raise self._not_found(name)
        return record

    def read_many(self, names: Iterable[str]) -> list[Variable]:
        """Return the records at one moment. Raises VariableNotFoundError, naming all missing."""
        wanted = list(names)
        with self._lock:
            self._check_open()
            found = [self._records.get(name) for name in wanted]
        missing = [name for name, record in zip(wanted, found, strict=True) if record is None]
        if missing:
            raise self._not_found(*missing)
        return [record for record in found if record is not None]

    def matching(self, pattern: str) -> list[Variable]:
        """Return the records whose names match a pattern with `*`, `?` and `[...]`, by name."""
        if not isinstance(pattern, str):
            raise TypeError(f'pattern must be a string such as "model.*", not {pattern!r}')
        with self._lock:
            self._check_open()
            records = list(self._records.values())
        if pattern != "*":
            # Lazily: most sessions never ask.
            from fnmatch import fnmatchcase

            records = [record for record in records if fnmatchcase(record.name, pattern)]
        return sorted(records, key=lambda record: record.name)

    def __len__(self) -> int:
        return len(self._records)

    # -- writing -----------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        kind: object,
        value: Any,
        constraints: Mapping[str, Any] | None,
        metadata: Mapping[str, Any] | None,
    ) -> int:
        """Add a variable and return its version. Raises VariableError."""
        try:
            checked_name("a variable", name)
        except ValueError as error:
            details = self._details(str(name), kind, value, None)
            raise VariableError(str(error), details=details) from None
        if metadata is not None and not isinstance(metadata, Mapping):
            raise TypeError(f"metadata must be a dict, not {shortened(metadata)}")
        try:
            made = make_kind(kind, constraints)
        except UnfitError as problem:
            raise VariableError(
                f"variable {name!r} of session {self._session!r} cannot be registered: {problem}",
                details=self._details(name, kind, value, problem.constraint),
            ) from None
        record = Variable(name, made, None, 0, metadata)
        record.value = self._accept(record, value)
        payload = self._encode(record)
        with self._lock:
            self._check_open()
            if name in self._records:
                taken = self._records[name]
            else:
                taken = None
                record.version = self._floor + 1
                self._put(record, payload)
        if taken is not None:
            raise VariableError(
                f"session {self._session!r} has a variable {name!r} already, of type {taken.type}: "
                "set it, or delete it first",
                details=self._details(name, kind, value, None),
            )
        self._write()
        return record.version

    def set(self, name: str, value: Any) -> int:
        """Set a variable and return its new version."""
        while True:
            record = self.read(name)
            version = self._replace(record, self._accept(record, value), any_version=True)
            if version is not None:
                return version

    def compare_and_set(self, name: str, expected: int, value: Any) -> tuple[Any, int]:
        """Set a variable if its version is the expected one; return the kept value and its version.

        Raises VersionConflictError.
        """
        if isinstance(expected, bool) or not isinstance(expected, int):
            raise TypeError(f"expected_version must be a whole number, not {expected!r}")
        record = self.read(name)
        version = kept = None
        if record.version == expected:
            kept = self._accept(record, value)
            version = self._replace(record, kept)
            if version is None:
                record = self.read(name)
        if version is None:
            raise VersionConflictError(
                f"variable {name!r} of session {self._session!r} has version {record.version}, "
                f"not {expected}: somebody else has set it; read it again and decide anew",
                details={
                    "session": self._session,
                    "variable": name,
                    "expected": expected,
                    "actual": record.version,
                },
            )
        return kept, version

    def update(self, name: str, function: Callable[[Any], Any]) -> Any:
        """Set a variable to `function(value)` and return what it is then.

        The function runs outside the locks, and again if somebody else was faster.
        """
        while True:
            record = self.read(name)
            value = self._accept(record, function(record.value))
            if self._replace(record, value) is not None:
                return value

    def set_many(self, values: Mapping[str, Any], atomic: bool) -> dict[str, int]:
        """Set several variables and return their versions; if `atomic`, all or none."""
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a dict of values by name, not {shortened(values)}")
        while True:
            changes, errors = self._prepare(values)
            versions = None
            if not (errors and atomic):
                versions = self._replace_many(changes, atomic)
                if versions is None:
                    continue
            if errors:
                self._refuse(errors, versions or {})
            return versions or {}

    def delete(self, name: str) -> None:
        """Remove a variable; its watches end. Raises VariableNotFoundError."""
        with self._lock:
            self._check_open()
            record = self._records.pop(name, None)
            if record is not None:
                self._floor = max(self._floor, record.version)
                self._note_change()
                for watch in self._watching(name):
                    watch.finish()
                self._watches.pop(name, None)
                if self._journal is not None:
                    self._journal.note_variable_deleted(name, self._floor)
        if record is None:
            raise self._not_found(name)
        self._write()

    # -- watching ----------------------------------------------------------------------------------

    def watch(self, name: str, callback: Callable[[Any, int], object] | None) -> Watch:
        """Begin to watch a variable. Raises VariableNotFoundError."""
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable with (value, version), not {callback!r}")
        reference: Callable[[], Watch | None]
        if callback is None:
            watch: Watch = IteratorWatch(name)
            # Who forgets an iterator cannot read from it any more: it needs no end.
            reference = weakref.ref(watch)
        else:
            watch = strong = CallbackWatch(name, callback, self._notifier)

            def reference() -> Watch | None:
                return strong

        with self._lock:
            self._check_open()
            known = name in self._records
            if known:
                self._watches.setdefault(name, []).append(reference)
        if not known:
            raise self._not_found(name)
        return watch

    def _watching(self, name: str) -> list[Watch]:
        """Return those that still watch a variable, and forget the others. Under the lock."""
        references = self._watches.get(name)
        if not references:
            return []
        alive = []
        watches = []
        for reference in references:
            watch = reference()
            if watch is not None and not watch.stopped:
                alive.append(reference)
                watches.append(watch)
        self._watches[name] = alive
        return watches

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the watches; nothing can be read or written any more."""
        with self._lock:
            self._closed = True
            watches = [watch for name in list(self._watches) for watch in self._watching(name)]
            self._watches.clear()
            self._records = {}
            self._note_change()
        for watch in watches:
            watch.finish()

    def _note_change(self) -> None:
        """Tell who knows variables from before that they have changed. Under the lock."""
        self.revision += 1
        for hook in self._notifier.on_change:
            hook(self._session)

    # -- the halves of a write ---------------------------------------------------------------------

    def _accept(self, record: Variable, value: Any) -> Any:
        try:
            return record.accept(value)
        except UnfitError as problem:
            raise self._unfit(record, value, problem) from None

    def _encode(self, record: Variable) -> bytes:
        return self._journal.encode_variable(record) if self._journal is not None else b""

    def _put(self, record: Variable, payload: bytes) -> None:
        """Make a record the current one of its name. Under the lock."""
        self._changing += 1
        try:
            self._records[record.name] = record
            self._note_change()
        finally:
            self._changing -= 1
        if self._journal is not None:
            self._journal.note_variable(record, payload)
        if self._watches:
            for watch in self._watching(record.name):
                watch.note(record.value, record.version)

    def _write(self) -> None:
        if self._journal is not None:
            self._journal.write()

    def _replace(self, seen: Variable, value: Any, any_version: bool = False) -> int | None:
        """Put a value in place of the record that was seen; return the version.

        None, if somebody else was faster: the variable has another version, or, for `any_version`,
        has been deleted and registered again.
        """
        record = seen.at(value, seen.version + 1)
        payload = self._encode(record)
        with self._lock:
            self._check_open()
            current = self._records.get(seen.name)
            if current is not seen and not (
                any_version and current is not None and current._kind is seen._kind
            ):
                return None
            if current is not None:
                record.version = current.version + 1
            self._put(record, payload)
        self._write()
        return record.version

    def _prepare(
        self, values: Mapping[str, Any]
    ) -> tuple[list[tuple[Variable, Variable, bytes]], dict[str, str]]:
        """Check the values of a batch; return what is to be changed, and the errors by name."""
        changes = []
        errors = {}
        for name, value in values.items():
            try:
                seen = self.read(name)
                record = seen.at(self._accept(seen, value), seen.version + 1)
                changes.append((seen, record, self._encode(record)))
            except VariableError as error:
                errors[name] = str(error)
        return changes, errors

    def _replace_many(
        self, changes: list[tuple[Variable, Variable, bytes]], atomic: bool
    ) -> dict[str, int] | None:
        """Put a batch in place; None, if a variable was deleted or registered anew meanwhile."""
        with self._lock:
            self._check_open()
            currents = [self._records.get(seen.name) for seen, _, _ in changes]
            for (seen, _, _), current in zip(changes, currents, strict=True):
                if current is None or current._kind is not seen._kind:
                    return None
            self._changing += 1
            try:
                for (_, record, payload), current in zip(changes, currents, strict=True):
                    if current is not None:
                        record.version = current.version + 1
                    self._put(record, payload)
            finally:
                self._changing -= 1
        self._write()
        return {record.name: record.version for _, record, _ in changes}

    def _refuse(self, errors: dict[str, str], versions: dict[str, int]) -> None:
        done = f"; {len(versions)} others were set" if versions else "; nothing was changed"
        raise VariableError(
            f"{len(errors)} of the variables of the batch cannot be set{done}: "
            + "; ".join(errors.values()),
            details={"session": self._session, "errors": errors, "versions": versions},
        )

    # -- errors ------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise SessionNotFoundError(
                f"session {self._session!r} has ended: it was deleted, or expired",
                details={"session": self._session},
            )

    def _not_found(self, *names: str) -> VariableNotFoundError:
        with self._lock:
            known = list(self._records)
        hint = did_you_mean(names[0], known) or "; register it first"
        named = ", ".join(shortened(name) for name in names)
        return VariableNotFoundError(
            f"session {self._session!r} has no variable {named}{hint}",
            details={"session": self._session, "variable": names[0], "missing": list(names)},
        )

    def _unfit(self, record: Variable, value: Any, problem: UnfitError) -> VariableError:
        broken = f" (constraint {problem.constraint!r})" if problem.constraint else ""
        return VariableError(
            f"variable {record.name!r} of session {self._session!r}, of type {record.type}, cannot "
            f"be {shortened(value)}: {problem}{broken}",
            details=self._details(record.name, record.type, value, problem.constraint),
        )

    def _details(
        self, name: str, kind: object, value: Any, constraint: str | None
    ) -> dict[str, Any]:
        return {
            "session": self._session,
            "variable": name,
            "type": kind if isinstance(kind, str) else str(kind),
            "value": shortened(value),
            "constraint": constraint,
        }
