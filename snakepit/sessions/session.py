"""One session, as its owner sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from snakepit._core.leases import Lease
from snakepit.errors import HostToolNotFoundError
from snakepit.sessions.kinds import shortened
from snakepit.sessions.programs import ProgramTable
from snakepit.sessions.tools import HostTool
from snakepit.sessions.variables import Variable, VariableTable
from snakepit.sessions.watches import CallbackWatch, IteratorWatch, Watch

if TYPE_CHECKING:
    from snakepit.sessions.journal import Journal
    from snakepit.sessions.watches import Notifier

__all__ = ["Contents", "Session"]


class Contents:
    """What a session holds: made when something is first put into it or looked for in it."""

    __slots__ = ("lock", "programs", "tools", "variables")

    def __init__(self, session: str, journal: Journal | None, notifier: Notifier) -> None:
        self.variables = VariableTable(session, journal, notifier)
        self.programs = ProgramTable(session, journal)
        self.tools: dict[str, HostTool] = {}
        self.lock = threading.RLock()  # of the tools; re-entrant as those of the tables are

    def close(self) -> None:
        """End the watches, and forget the rest."""
        self.variables.close()
        self.programs.close()
        with self.lock:
            tools, self.tools = self.tools, {}
        del tools


class Session(Lease):
    """Variables, programs and host tools that are kept under one id; made by a `SessionStore`.

    Every use of a session but `id`, `ttl`, `alive` and `revision` begins its time to live anew, and
    raises SessionNotFoundError once it was deleted or has expired. Thread-safe.
    """

    __slots__ = ("__weakref__",)

    if TYPE_CHECKING:
        id: str
        ttl: float  # seconds

        def _used(self) -> Contents: ...

    @property
    def revision(self) -> int:
        """A number that grows with every change of a variable; 0 before there were any."""
        contents = self._contents
        return 0 if contents is None else contents.variables.revision

    @property
    def metadata(self) -> dict[str, Any]:
        """The session's metadata, a copy; `update_metadata` changes them."""
        return self._store._metadata_of(self)  # type: ignore[no-any-return]

    def update_metadata(self, function: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replace the metadata by `function(metadata)`, as `SessionStore.update_session` does."""
        self._store._update(self, function)

    def _rested(self) -> float:
        """Return for how many seconds nobody has used it; math.inf once it has ended."""
        rested: float = self.ttl + self._store._clock() - self._expires
        return rested

    # -- variables ---------------------------------------------------------------------------------

    def register_variable(
        self,
        name: str,
        type: object,
        value: Any,
        constraints: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a variable and return its version.

        `type`: "string", "integer", "float", "boolean", "choice", "module", "tensor" or
        "embedding"; or str, int, float or bool. `constraints` of them:

        - string: min_length, max_length, pattern (a regular expression for all of it), choices
        - integer, float: min, max, choices
        - choice: choices (needed); module: choices
        - tensor: shape (None: any length), dimensions, dtype
        - embedding: dimensions, normalised (must be of length 1), normalise (is made so), dtype

        Raises VariableError: the variable exists, there is no such type, a constraint makes no
        sense for it, or the value does not keep to it.
        """
        return self._used().variables.register(name, type, value, constraints, metadata)

    def get_variable(self, name: str) -> Any:
        """Return a variable's value; arrays are read-only. Raises VariableNotFoundError."""
        return self._used().variables.read(name).value

    def read_variable(self, name: str) -> tuple[Any, int]:
        """Return a variable's value and version. Raises VariableNotFoundError."""
        record = self._used().variables.read(name)
        return record.value, record.version

    def set_variable(self, name: str, value: Any) -> int:
        """Set a variable and return its new version.

        An integer for a float becomes one; of an array or nested lists a copy is kept. Raises
        VariableNotFoundError, and VariableError for a value that is not of its type or breaks a
        constraint.
        """
        return self._used().variables.set(name, value)

    def compare_and_set_variable(self, name: str, expected_version: int, value: Any) -> int:
        """Set a variable that is at the expected version; return its new one.

        Raises VersionConflictError if it is at another, beside what `set_variable` raises.
        """
        return self._used().variables.compare_and_set(name, expected_version, value)[1]

    def _swap_variable(self, name: str, expected_version: int, value: Any) -> list[Any]:
        """Do as `compare_and_set_variable`; return [the kept value], [] if that is `value`.

        For workers, which have the value that they sent.
        """
        kept, _ = self._used().variables.compare_and_set(name, expected_version, value)
        return [] if kept is value else [kept]

    def update_variable(self, name: str, function: Callable[[Any], Any]) -> Any:
        """Set a variable to `function(value)`, atomically, and return its new value.

        No lock is held while the function runs: if the variable is set meanwhile, it runs again, on
        the value that there is then.
        """
        return self._used().variables.update(name, function)

    def delete_variable(self, name: str) -> None:
        """Remove a variable; its watches end. Raises VariableNotFoundError."""
        self._used().variables.delete(name)

    def list_variables(self, pattern: str = "*") -> list[Variable]:
        """Return the variables whose names match a pattern with `*`, `?` and `[...]`, by name."""
        return self._used().variables.matching(pattern)

    def get_variables(self, names: Iterable[str] | str) -> dict[str, Any]:
        """Return the values of several variables at one moment, by name.

        `names`: those, or a pattern as `list_variables` takes. Raises VariableNotFoundError, which
        names all that are missing.
        """
        table = self._used().variables
        records = table.matching(names) if isinstance(names, str) else table.read_many(names)
        return {record.name: record.value for record in records}

    def set_variables(self, values: Mapping[str, Any], atomic: bool = True) -> dict[str, int]:
        """Set several variables and return their new versions, by name.

        `atomic`: all or none, and nobody sees some of them set; otherwise those that can be. Raises
        VariableError if any cannot, whose `details["errors"]` has a message for each.
        """
        return self._used().variables.set_many(values, atomic)

    @overload
    def watch_variable(self, name: str) -> IteratorWatch: ...

    @overload
    def watch_variable(
        self, name: str, callback: Callable[[Any, int], object]
    ) -> CallbackWatch: ...

    @overload
    def watch_variable(self, name: str, callback: Callable[[Any, int], object] | None) -> Watch: ...

    def watch_variable(
        self, name: str, callback: Callable[[Any, int], object] | None = None
    ) -> Watch:
        """Watch a variable from now on, until it is deleted or the session ends.

        With a callback: have `callback(value, version)` run after each change, in their order, in a
        thread of the store's; one that raises is logged and detached. `stop()` of what is returned
        ends it. Without one: return an iterator of (value, version), which waits for changes.
        Up to 1,000 changes wait for one that is slow; of more, the oldest are dropped.
        """
        return self._used().variables.watch(name, callback)

    # -- programs ----------------------------------------------------------------------------------

    def store_program(self, name: str, program: Any) -> None:
        """Keep a program, which may be any value, in place of one of the same name."""
        self._used().programs.store(name, program)

    def get_program(self, name: str) -> Any:
        """Return a program. Raises ProgramNotFoundError."""
        return self._used().programs.get(name)

    def update_program(self, name: str, program: Any) -> None:
        """Keep a program in place of one that must be there. Raises ProgramNotFoundError."""
        self._used().programs.update(name, program)

    def delete_program(self, name: str) -> None:
        """Forget a program. Raises ProgramNotFoundError."""
        self._used().programs.delete(name)

    def list_programs(self) -> list[str]:
        """Return the names of the programs, sorted."""
        return self._used().programs.names()

    # -- host tools --------------------------------------------------------------------------------

    @property
    def tools(self) -> dict[str, HostTool]:
        """The host tools by name, exposed or not; a copy."""
        contents = self._used()
        with contents.lock:
            return dict(contents.tools)

    def register_tool(
        self,
        name: str,
        function: Callable[..., Any],
        description: str = "",
        parameters: Any = None,
        exposed: bool = True,
    ) -> HostTool:
        """Add a host tool, in place of one of the same name, and return it.

        Only this session has it, and only until it ends; a file does not keep it.
        """
        tool = HostTool(name, function, description, parameters, exposed)
        contents = self._used()
        with contents.lock:
            replaced = contents.tools.get(name)
            contents.tools[name] = tool
        del replaced
        return tool

    def unregister_tool(self, name: str) -> None:
        """Remove a host tool. Raises HostToolNotFoundError."""
        contents = self._used()
        with contents.lock:
            tool = contents.tools.pop(name, None)
        if tool is None:
            raise self._no_tool(name, contents)

    def call_tool(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a host tool here, in the owner. Raises HostToolNotFoundError."""
        contents = self._used()
        with contents.lock:
            tool = contents.tools.get(name)
        if tool is None:
            raise self._no_tool(name, contents)
        return tool.function(*args, **kwargs)

    def _no_tool(self, name: str, contents: Contents) -> HostToolNotFoundError:
        with contents.lock:
            known = sorted(contents.tools)
        return HostToolNotFoundError(
            f"session {self.id!r} has no host tool {shortened(name)}; it has "
            f"{', '.join(known) or 'none'}",
            details={"session": self.id, "tool": name, "tools": known},
        )

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"session {self.id!r} stays with the process that made it: pass on its id instead"
        )

    def __repr__(self) -> str:
        return f"<snakepit.Session {self.id!r}: {'alive' if self.alive else 'ended'}>"
