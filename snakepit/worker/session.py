"""The session of the running call, as the call sees it: what `snakepit.current_session()` returns.

In a worker process everything is asked of the owner, but what was read before and has not changed.
In a pool of threads the owner's session is at hand, and asked directly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from snakepit._core.asking import MISSING, VariableCache
from snakepit._core.locks import HoldingLock
from snakepit.errors import (
    SessionNotFoundError,
    VariableNotFoundError,
    VersionConflictError,
)
from snakepit.options import checked_seconds

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane
    from snakepit.sessions.variables import Variable

__all__ = ["HostToolHandle", "SessionContext", "ToolMap", "VariableWatch"]

logger = logging.getLogger("snakepit")

CACHE_SECONDS = 5.0
SHORTEST_LOOK, LONGEST_LOOK = 0.0005, 0.02  # seconds between two looks at a session's revision
MOST_CONTEXTS = 1024  # that a worker keeps


class SessionContext:
    """The session of the running call: its variables, its programs, and its host tools.

    It can be kept, and used from any thread of the worker, for as long as a call of the session is
    queued or runs. Every method raises SessionNotFoundError after that, or if the store cannot
    make the session.
    """

    __slots__ = ("__weakref__", "_ask", "_cached", "_id", "_line")

    def __init__(self, line: WorkerLine | LocalLine) -> None:
        self._line = line
        self._ask = line.ask
        self._cached = line.cached
        self._id: str | None = None

    @property
    def id(self) -> str:
        """The session's id, as the call was submitted with it."""
        if self._id is None:
            found = self._ask("id")
            if found is None:
                raise SessionNotFoundError(
                    "the session of this context is not in use any more: no call of it is queued "
                    "or runs; use the context in a call of the session"
                )
            self._id = found
        return self._id

    @property
    def metadata(self) -> dict[str, Any]:
        """The session's metadata, a copy."""
        found: dict[str, Any] = self._ask("metadata")
        return found

    @property
    def cache_ttl(self) -> float:
        """Seconds for which a variable that was read is known at most, by default 5.

        Changes by whomever are seen at once, whatever this is; but only what is asked of the owner
        keeps the session from expiring. 0: the owner is asked every time. Text with a unit, such as
        "1min", may be assigned.
        """
        return self._line.cache_ttl

    @cache_ttl.setter
    def cache_ttl(self, seconds: float | str) -> None:
        none = not isinstance(seconds, str | bool) and seconds == 0
        self._line.cache_ttl = 0.0 if none else checked_seconds("cache_ttl", seconds)

    # -- variables ---------------------------------------------------------------------------------

    def register_variable(
        self, name: str, type: object, value: Any,
        constraints: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """Add a variable and return its version (see `Session.register_variable`)."""
        version: int = self._ask("register_variable", name, type, value, constraints, metadata)
        return version

    def get_variable(self, name: str) -> Any:
        """Return a variable's value, a copy of one's own. Raises VariableNotFoundError.

        Read before and not changed since by anybody, it costs a look at shared memory.
        """
        value = self._cached(name)
        return self._line.fetch(name) if value is MISSING else value

    def read_variable(self, name: str) -> tuple[Any, int]:
        """Return a variable's value and version, as they are now. Raises VariableNotFoundError."""
        value, version = self._ask("read", name)
        return value, version

    def set_variable(self, name: str, value: Any) -> int:
        """Set a variable and return its new version (see `Session.set_variable`)."""
        version: int = self._ask("set", name, value)
        return version

    def compare_and_set_variable(self, name: str, expected_version: int, value: Any) -> int:
        """Set a variable that is at the expected version; return its new one.

        Raises VersionConflictError if it is at another.
        """
        version: int = self._ask("compare_and_set_variable", name, expected_version, value)
        return version

    def update_variable(self, name: str, function: Callable[[Any], Any]) -> Any:
        """Set a variable to `function(value)`, atomically, and return its new value.

        That is the value that was checked and is kept: 3.0 where the function returned 3 for a
        float. The function runs here; if the variable is set meanwhile, it runs again, on the value
        that there is then.
        """
        while True:
            value, version = self._ask("read", name)
            value = function(value)
            try:
                kept = self._ask("swap", name, version, value)
            except VersionConflictError:
                continue
            # Empty where it is what was sent, which need not travel back.
            return kept[0] if kept else value

    def delete_variable(self, name: str) -> None:
        """Remove a variable; its watches end. Raises VariableNotFoundError."""
        self._ask("delete_variable", name)

    def list_variables(self, pattern: str = "*") -> list[Variable]:
        """Return the variables whose names match a pattern with `*`, `?` and `[...]`, by name."""
        found: list[Variable] = self._ask("list_variables", pattern)
        return found

    def get_variables(self, names: Iterable[str] | str) -> dict[str, Any]:
        """Return the values of several variables at one moment, by name (or of a pattern)."""
        wanted = names if isinstance(names, str) else list(names)
        found: dict[str, Any] = self._ask("get_variables", wanted)
        return found

    def set_variables(self, values: Mapping[str, Any], atomic: bool = True) -> dict[str, int]:
        """Set several variables and return their versions (see `Session.set_variables`)."""
        found: dict[str, int] = self._ask("set_variables", dict(values), atomic)
        return found

    def watch_variable(
        self, name: str, callback: Callable[[Any, int], object] | None = None
    ) -> VariableWatch:
        """Watch a variable from now on, until it is deleted or the session ends.

        Without a callback: return an iterator of (value, version), which waits for changes. With
        one: have `callback(value, version)` run after changes, in a thread of the worker; one that
        raises is logged and detached. `stop()` of what is returned ends either. Of changes that
        follow each other closely only the last may be seen. Raises VariableNotFoundError.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable with (value, version), not {callback!r}")
        watch = VariableWatch(self, name)
        if callback is not None:
            self._line.start_watch(watch, callback)
        return watch

    # -- programs ----------------------------------------------------------------------------------

    def store_program(self, name: str, program: Any) -> None:
        """Keep a program, which may be any value, in place of one of the same name."""
        self._ask("store_program", name, program)

    def get_program(self, name: str) -> Any:
        """Return a program. Raises ProgramNotFoundError."""
        return self._ask("get_program", name)

    def update_program(self, name: str, program: Any) -> None:
        """Keep a program in place of one that must be there. Raises ProgramNotFoundError."""
        self._ask("update_program", name, program)

    def delete_program(self, name: str) -> None:
        """Forget a program. Raises ProgramNotFoundError."""
        self._ask("delete_program", name)

    def list_programs(self) -> list[str]:
        """Return the names of the programs, sorted."""
        found: list[str] = self._ask("list_programs")
        return found

    # -- host tools --------------------------------------------------------------------------------

    @property
    def tools(self) -> ToolMap:
        """The host tools that workers may call, by name: `tools["name"](...)`."""
        return ToolMap(self, self._ask("tools"))

    def call_tool(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the owner's that it registered for this session; wait for its result.

        It runs in the owner's process, in a thread of the pool's, and may call the pool in turn.
        What it raises is raised here, its traceback on the cause. Raises HostToolNotFoundError.
        """
        return self._line.call_tool(name, args, kwargs)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a SessionContext, or a tool of it, belongs to the calls of its session and cannot be "
            "sent elsewhere; send the session's id"
        )

    def __repr__(self) -> str:
        return f"<snakepit.SessionContext {self._id or 'of the running call'!r}>"


class HostToolHandle:
    """A host tool as a worker sees it; calling it calls the owner's function."""

    __slots__ = ("_session", "description", "name", "parameters")

    def __init__(
        self, session: SessionContext, name: str, description: str, parameters: Any
    ) -> None:
        self._session = session
        self.name = name
        self.description = description
        self.parameters = parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._session.call_tool(self.name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<HostToolHandle {self.name!r}>"


class ToolMap(Mapping[str, HostToolHandle]):
    """The host tools of a session that workers may call, as they were when it was made."""

    def __init__(self, session: SessionContext, tools: list[tuple[str, str, Any]]) -> None:
        self._session = session
        self._tools = {name: HostToolHandle(session, name, *rest) for name, *rest in tools}

    def __getitem__(self, name: str) -> HostToolHandle:
        tool = self._tools.get(name)
        if tool is None:
            from snakepit.pool.sessions import unknown_tool

            raise unknown_tool(self._session.id, name, sorted(self._tools))
        return tool

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        # As of any mapping; the error for one that is missing is a LookupError, no KeyError.
        return name in self._tools

    def get(self, name: str, default: Any = None) -> Any:
        return self._tools.get(name, default)


class VariableWatch(Iterator[tuple[Any, int]]):
    """Changes of one variable, as they are noticed: an iterator of (value, version).

    It looks at a word in shared memory that every change moves, every half millisecond at first and
    every 20 ms when nothing happens; the owner is asked only when that word has moved.
    """

    def __init__(self, session: SessionContext, name: str) -> None:
        self.name = name
        self._session = session
        self._stopped = threading.Event()
        self._revision = session._line.revision
        _, self._version = session.read_variable(name)

    def __next__(self) -> tuple[Any, int]:
        line = self._session._line
        pause = SHORTEST_LOOK
        while not self._stopped.is_set():
            revision = line.revision
            if revision != self._revision:
                self._revision = revision
                try:
                    value, version = self._session.read_variable(self.name)
                except (VariableNotFoundError, SessionNotFoundError):
                    self.stop()
                    break
                if version != self._version:
                    self._version = version
                    return value, version
                pause = SHORTEST_LOOK
            self._stopped.wait(pause)
            pause = min(pause * 1.5, LONGEST_LOOK)
        raise StopIteration

    @property
    def stopped(self) -> bool:
        """Whether it has ended."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End it: the iteration, or the calls of the callback after the one that runs."""
        self._stopped.set()

    close = stop

    def run(self, callback: Callable[[Any, int], object]) -> None:
        """Call `callback` with each change until the watch ends; the body of a thread."""
        try:
            for value, version in self:
                callback(value, version)
        except BaseException:
            logger.exception("snakepit: a watch of variable %r is detached", self.name)
        finally:
            self.stop()


# -- the way to the owner --------------------------------------------------------------------------


class WorkerLine:
    """A session's way from a worker process to its owner."""

    def __init__(self, lane: WorkerLane, key: int) -> None:
        self._lane = lane
        self._key = key
        self._ask_for = lane.asker.ask_for
        self._cache = VariableCache(lane.asker, key, CACHE_SECONDS)
        self.cached = self._cache.get
        self.fetch = self._cache.fetch

    def ask(self, topic: str, *args: Any) -> Any:
        return self._ask_for(self._key, topic, *args)

    @property
    def revision(self) -> int:
        return self._cache.revision

    @property
    def cache_ttl(self) -> float:
        return self._cache.ttl

    @cache_ttl.setter
    def cache_ttl(self, seconds: float) -> None:
        self._cache.ttl = seconds
        self._cache.forget()

    def call_tool(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from snakepit.worker import context
        from snakepit.worker.host_calls import call_host

        return call_host(context.current_pool(), (self._key, name, args, kwargs))

    def start_watch(self, watch: VariableWatch, callback: Callable[[Any, int], object]) -> None:
        # An interrupt must not meet the threading module's locks.
        self._lane.hold_interrupts()
        try:
            _start_watch(watch, callback)
        finally:
            self._lane.release_interrupts()


class LocalLine:
    """A session's way to the owner from a thread of the owner's own process."""

    cache_ttl = 0.0

    def __init__(self, desk: Any, session_id: str) -> None:
        self._desk = desk
        self._session_id = session_id
        self._handlers = desk.handlers

    def cached(self, _name: str) -> Any:
        return MISSING

    def ask(self, topic: str, *args: Any) -> Any:
        return self._handlers[topic](self._session_id, *args)

    def fetch(self, name: str) -> Any:
        return self.ask("get", name)

    @property
    def revision(self) -> int:
        revision: int = self._desk.session(self._session_id).revision
        return revision

    def call_tool(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from snakepit.worker.context import lent_turn

        function = self._desk.exposed_tool(self._session_id, name).function
        with lent_turn():
            return function(*args, **kwargs)

    def start_watch(self, watch: VariableWatch, callback: Callable[[Any, int], object]) -> None:
        from snakepit._core.interrupts import HELD

        with HELD:
            _start_watch(watch, callback)


def _start_watch(watch: VariableWatch, callback: Callable[[Any, int], object]) -> None:
    threading.Thread(target=watch.run, args=(callback,), name="snakepit-watch", daemon=True).start()


_contexts: dict[int, SessionContext] = {}
_making = HoldingLock()  # for changes


def context_of(lane: WorkerLane, key: int) -> SessionContext:
    """Return the context of a session in this worker process."""
    context = _contexts.get(key)
    if context is None:
        with _making:
            while len(_contexts) >= MOST_CONTEXTS:
                # The oldest; a call that still holds it goes on using it.
                del _contexts[next(iter(_contexts))]
            context = _contexts.setdefault(key, SessionContext(WorkerLine(lane, key)))
    return context
