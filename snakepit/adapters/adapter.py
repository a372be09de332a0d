"""The base of adapters, and the mark of the methods that callers may run.

A worker makes one instance of its pool's adapter, keeps it for as long as it lives, and calls its
tools: so what is expensive to have is had once. In a worker this module is all that an adapter's
class needs; how tools are found and their signatures read stands in `tools.py`, for owners.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from snakepit.errors import AdapterError
from snakepit.options import checked_seconds

__all__ = ["Adapter", "Marks", "has_call_hooks", "marks_of", "tool", "wrong_return"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__snakepit_tool__"


@dataclass(frozen=True)
class Marks:
    """What `@tool` says about a method."""

    description: str = ""
    streaming: bool = False
    timeout: float | None = None  # seconds
    thread_sensitive: bool = False
    idempotent: bool = False


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(
    function: None = None,
    /,
    *,
    description: str = "",
    streaming: bool = False,
    timeout: float | str | None = None,
    thread_sensitive: bool = False,
    idempotent: bool = False,
) -> Callable[[F], F]: ...


def tool(
    function: Any = None,
    /,
    *,
    description: str = "",
    streaming: bool = False,
    timeout: float | str | None = None,
    thread_sensitive: bool = False,
    idempotent: bool = False,
) -> Any:
    """Mark a method of an adapter as one that callers of its pool may run, by its name.

    `description`: for people; by default the first line of the docstring. `streaming`: the method
    is a generator, whose values reach the caller as they are yielded. `timeout`: seconds, or text
    such as "90s", that a call has where the caller gives none; None: the pool's. `idempotent`: to
    run it twice does no harm, so that a call is tried once more when its worker dies.

    `thread_sensitive`: where threads share an instance, calls of these tools run one at a time in
    each process, in the order in which they began to wait there. A call that waits for its turn
    holds one of the threads, and its time runs; so with as many of them as there are threads, other
    tools wait, too. Where that must not be, give these tools a pool of their own.
    While a call waits for a host tool, or in a local pool for another call, others have the turn.

    Raises AdapterError for what cannot be a tool, TypeError and ValueError for bad options.
    """
    seconds = None if timeout is None else checked_seconds("timeout", timeout)
    marks = Marks(description, streaming, seconds, thread_sensitive, idempotent)

    def mark(method: Any) -> Any:
        _check_method(method, streaming)
        setattr(method, _MARK, marks)
        return method

    return mark if function is None else mark(function)


def _check_method(method: Any, streaming: bool) -> None:
    if isinstance(method, staticmethod | classmethod | property) or not callable(method):
        raise AdapterError(
            f"@tool marks ordinary methods, not {type(method).__name__}: put it above a def that "
            "takes self",
            details={"adapter": "", "step": "declare"},
        )
    name = getattr(method, "__qualname__", repr(method))
    problem = None
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        problem = "is a coroutine; workers run plain functions and generators: make it one of these"
    elif inspect.isgeneratorfunction(method) and not streaming:
        problem = "is a generator: mark it @tool(streaming=True), or return a list"
    if problem is not None:
        raise AdapterError(
            f"the tool {name} {problem}", details={"adapter": name, "step": "declare"}
        )


def marks_of(cls: type, name: str) -> Marks | None:
    """Return what `@tool` says about a method; one that is overridden stays a tool."""
    for base in cls.__mro__:
        marks = getattr(base.__dict__.get(name), _MARK, None)
        if isinstance(marks, Marks):
            return marks
    return None


def has_health(cls: type) -> bool:
    """Whether an adapter has a `health` of its own to ask."""
    return getattr(cls, "health", None) is not Adapter.health and marks_of(cls, "health") is None


class Adapter:
    """Base of the classes whose instances live in the workers of a `snakepit.Pool`.

    Mark the methods that callers may run with `@tool`. Each worker makes one instance, with the
    pool's `adapter_args` as keyword arguments; under the profiles "thread" and "local", threads
    share one, and `__thread_safe__ = True` declares that they may.

    Every hook is optional. What a hook raises while a worker starts makes the pool fail fast, with
    PoolNotReadyError, whose cause is an AdapterError that names the step. What a hook of calls
    raises, the call raises; one that returns what is no use is an AdapterError that names it.
    """

    __thread_safe__ = False

    @classmethod
    def preload(cls) -> None:
        """Load what all workers share; runs once, in the template that workers are forked from.

        What it leaves in attributes of the class or in globals of modules, every worker finds
        there, in memory once. Without a template (another `start_method`) it runs in each worker;
        under the profile "local", in the process itself. It must leave no thread running.
        """

    def setup(self) -> None:
        """Open what this worker needs; runs in each worker before its first call."""

    def teardown(self) -> None:
        """Give back what `setup` took; runs when a worker is recycled or its pool is stopped.

        It has `stop_grace.terminate` seconds. A worker that dies or is killed does not run it.
        """

    def health(self) -> bool:
        """Return whether this worker is fit for more.

        A worker that has nothing to do is asked at each heartbeat, any by `Pool.check_health`. One
        for which it returns False or raises is replaced, after the call that it may run.
        """
        return True

    def snapshot(self, session: str) -> Any:
        """Return what another worker needs to go on with a session, a value that can be pickled.

        An adapter that has this and `restore` has strict sessions that move. It runs after calls of
        the session (see `Pool`, `snapshot_every`) and before its worker leaves.
        """
        raise NotImplementedError

    def restore(self, session: str, state: Any) -> None:
        """Take a session up in this worker with a state that `snapshot` returned in another.

        It runs before the session's next call; of a session that has no state yet, not at all.
        """
        raise NotImplementedError

    def validate_command(self, command: str, args: dict[str, Any]) -> None:
        """Raise to refuse a call, in the worker, before `prepare_args`."""

    def prepare_args(self, command: str, args: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with which a tool is called in the place of `args`."""
        return args

    def process_response(self, command: str, response: Any) -> Any:
        """Return what the caller gets in the place of a tool's value, or of each of its chunks."""
        return response

    @classmethod
    def command_timeout(cls, command: str, args: dict[str, Any]) -> float | None:
        """Return the seconds that a call has whose caller gave no timeout; None: the tool's own.

        A class method, for it runs in the process of the caller, before the call takes a worker.
        """
        return None

    @classmethod
    def supported_commands(cls) -> list[str]:
        """Return the names of the tools, sorted."""
        return sorted(name for name in dir(cls) if marks_of(cls, name) is not None)

    @property
    def session(self) -> Any:
        """The session context of the running call (`snakepit.current_session()`), or None."""
        import snakepit

        current: Any = getattr(snakepit, "current_session", None)
        return None if current is None else current()


def has_call_hooks(cls: type[Adapter]) -> bool:
    """Whether the adapter has a say in each call, so that its arguments travel by name."""
    hooks = ("validate_command", "prepare_args", "process_response")
    return any(getattr(cls, name) is not getattr(Adapter, name) for name in hooks)


def wrong_return(adapter: str, hook: str, wanted: str, value: Any, **details: Any) -> AdapterError:
    """Return the error for a hook that returned what is no use."""
    return AdapterError(
        f"adapter {adapter}: {hook}() must return {wanted}, not {value!r}",
        details={"adapter": adapter, "step": hook, **details},
    )
