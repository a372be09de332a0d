"""How the calls of an adapter's tools get into a pool: a plan for each tool, made when it starts.

pool.execute("echo", {...})     a look into a dict, the arguments put in order, and then the
                                call of a function that has a number, like any other
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from snakepit.adapters.adapter import Adapter
from snakepit.adapters.host import (
    AdapterSpec,
    Host,
    ToolHandle,
    join,
    preload_adapter,
    preload_class,
)
from snakepit.adapters.tools import Tool, name_of_adapter, tools_of
from snakepit.errors import EncodeError, ToolArgumentError
from snakepit.pool.functions import is_importable
from snakepit.pool.terms import Terms

if TYPE_CHECKING:
    from snakepit._core.definitions import Published
    from snakepit.pool.pool import ProcessPool

NO_NAMES: dict[str, Any] = {}

_numbers = itertools.count(1)


class Plan:
    """How calls of one tool are made; slots, for it is read at every call."""

    __slots__ = (
        "asks_timeout", "bind", "moving", "name", "number", "packed", "signature", "streaming",
        "target", "terms", "timeout_ns",
    )  # fmt: skip

    def __init__(self, tool: Tool, terms: Terms, asks_timeout: bool) -> None:
        self.name = tool.name
        self.signature = tool.signature
        self.bind = tool.signature.bind
        self.streaming = tool.streaming
        self.terms = terms
        self.timeout_ns = 0 if terms.timeout is None else int(terms.timeout * 1e9)
        self.asks_timeout = asks_timeout  # the adapter's class decides about it call by call
        # What the engine calls: the tool, and the tool for the items of `map`.
        self.target: Any = None
        self.packed: Any = None
        self.moving: Any = None  # the tool in strict calls, of whose sessions it keeps the state
        self.number: Published | None = None  # with which a call is one step; None: another way

    def named(self, args: Any) -> dict[str, Any]:
        """Return the arguments by name, where `bind` gave none. Raises ToolArgumentError."""
        return self.signature.check(args)


def usage_error(tool: str, what: str) -> ToolArgumentError:
    """Return the error of a call that takes a tool for one of another kind."""
    return ToolArgumentError(
        f"the tool {tool!r} {what}", details={"tool": tool, "argument": None, "problem": "usage"}
    )


class PackedItems:
    """The items of a `map` of a tool: arguments, checked as they are read."""

    def __init__(self, plan: Plan, items: Iterable[Mapping[str, Any]]) -> None:
        self._plan = plan
        self._items = items

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        plan = self._plan
        for args in self._items:
            values = plan.bind(args) if type(args) is dict else None
            yield ((), plan.named(args)) if values is None else (values, NO_NAMES)

    def __len__(self) -> int:
        # TypeError where the items do not tell, as `map` expects.
        return len(self._items)  # type: ignore[arg-type]


class PackedHandle(ToolHandle):
    """Stands for a tool that is called with one pair: values by position, values by name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_packed, (self.name,)


def _load_packed(name: str) -> Any:
    from snakepit.adapters.host import load_tool

    return _unpacking(load_tool(name))


def _unpacking(method: Any) -> Any:
    def call(item: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        values, named = item
        return method(*values, **named)

    return call


class ProcessCalls:
    """The tools of an adapter that lives in worker processes."""

    def __init__(self, cls: type[Adapter], spec: AdapterSpec, moves: bool = False) -> None:
        self._cls = cls
        self._spec = spec
        self._moves = moves
        self.initializer = join
        self.initargs = (spec,)
        self._handles: list[Any] = []

    def template_hook(self) -> bytes:
        """Return what the template calls before workers are forked from it.

        Raises EncodeError, which names the argument of the adapter that cannot be pickled.
        """
        return _pickled((preload_adapter, (self._spec,)), self._spec.name, self._spec.args)

    def start(self, engine: ProcessPool, plans: Iterable[Plan]) -> None:
        """Give the tools their numbers; an engine that starts them later knows them already."""
        for plan in plans:
            plan.target = plan.moving = ToolHandle(self._cls, plan.name)
            plan.packed = PackedHandle(self._cls, plan.name)
            # Numbered or not (the table may be full), the handles stand for the tools.
            published = [engine.number(plan.target), engine.number(plan.packed)]
            if self._moves:
                from snakepit.adapters.moving import MovingHandle

                plan.moving = MovingHandle(self._cls, plan.name)
                published.append(engine.number(plan.moving))
            self._handles.append(published)
            if not plan.terms.guarded and not plan.asks_timeout:
                plan.number = published[0]

    def end(self) -> None:
        """Nothing to do: each worker tears down its own instance."""


class LocalCalls:
    """The tools of an adapter that lives in this process, one instance for all threads."""

    def __init__(self, cls: type[Adapter], spec: AdapterSpec) -> None:
        self._cls = cls
        self._spec = spec
        self.initializer = None
        self.initargs = ()
        self.host: Host | None = None
        self._ending = threading.RLock()

    def start(self, engine: Any, plans: Iterable[Plan]) -> None:
        """Make the instance, unless a start that failed later has made it. Raises AdapterError."""
        if self.host is not None:
            return
        preload_class(self._cls, self._spec)
        self.host = Host(self._cls, self._spec)
        # The program may end without a stop; the threads have ended by then.
        atexit.register(self.end)
        names: dict[int, str] = {}
        for plan in plans:
            plan.target = plan.moving = self.host.tool(plan.name)
            plan.packed = _unpacking(plan.target)
            names |= {id(plan.target): plan.name, id(plan.packed): plan.name}
        engine.tool_names = names

    def end(self) -> None:
        """Tear the instance down, once; the threads have ended."""
        with self._ending:
            host, self.host = self.host, None
        if host is not None:
            atexit.unregister(self.end)
            host.teardown()


def adapter_spec(
    cls: type[Adapter], args: Mapping[str, Any] | None, *, local: bool, shared: bool, grace: float
) -> AdapterSpec:
    """Return what workers have to know of an adapter. Raises TypeError, EncodeError."""
    if args is not None and not isinstance(args, Mapping):
        raise TypeError(f"adapter_args is a dict of the constructor's arguments, not {args!r}")
    name = name_of_adapter(cls)
    reference: tuple[str, str] | bytes = (cls.__module__, cls.__qualname__)
    key = f"{os.getpid()}-{next(_numbers)}"
    if not local and not is_importable(cls):
        reference = _pickled(cls, name)
    return AdapterSpec(key, name, reference, dict(args or {}), grace, shared)


def _pickled(value: Any, adapter: str, args: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    from snakepit.pickling import careful_dumps

    try:
        return careful_dumps(value)
    except Exception as error:
        problem = error
    argument = None
    for name, each in args.items():
        try:
            careful_dumps(each)
        except Exception as error:
            argument, problem = name, error
            break
    if argument is None:
        what = "it or its adapter_args" if args else "its class"
        remedy = ""
    else:
        what = f"adapter_args[{argument!r}]"
        remedy = "; give what it is made from, and make it in setup()"
    raise EncodeError(
        f"adapter {adapter}: {what} cannot be pickled for the workers: "
        f"{type(problem).__name__}: {problem}{remedy}",
        details={"adapter": adapter, "step": "encode", "argument": argument},
    ) from problem


def plans_of(cls: type[Adapter], terms: Terms, stream_timeout: float | None) -> dict[str, Plan]:
    """Return a plan for each tool of an adapter. Raises AdapterError."""
    from dataclasses import replace

    own_hook, no_hook = (
        inspect.getattr_static(each, "command_timeout").__func__ for each in (cls, Adapter)
    )
    plans = {}
    for name, tool in tools_of(cls).items():
        own = replace(terms, idempotent=tool.idempotent)
        if tool.streaming:
            # What has reached the caller cannot be taken back: a stream is not begun a second time.
            own = replace(terms, timeout=stream_timeout, idempotent=False, retry=None, breaker=None)
        if tool.timeout is not None:
            own = replace(own, timeout=tool.timeout)
        plans[name] = Plan(tool, own, own_hook is not no_hook)
    return plans
