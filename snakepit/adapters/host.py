"""Where an adapter lives: its one instance in a worker, and the tools that calls find there.

    template          preload_adapter: the class is loaded once, and its preload() runs
      fork
    worker            join: construct, setup()
      each call       load_tool(name) -> the bound method, once; from then on it is called itself
      at its end      leave: teardown()

The class that `preload()` saw is the one that workers construct: what it left in attributes is
there. So the template keeps it here, under the pool's key, and no worker unpickles a second copy.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from snakepit._core.constants import MAIL_UNFIT
from snakepit.adapters.adapter import (
    Adapter,
    has_call_hooks,
    has_health,
    marks_of,
    wrong_return,
)
from snakepit.errors import AdapterError, TaskInterrupt
from snakepit.worker.imports import import_for_pool

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane
    from snakepit.adapters.turns import Turns

logger = logging.getLogger("snakepit")

_loaded: dict[str, type[Adapter]] = {}  # by the pool's key; also in what is forked from here
_host: Host | None = None

# What is meant for the thread that runs an adapter's hook, not raised by the hook. SystemExit is
# not among it: `sys.exit` of an adapter must not end the program that made its pool.
INTERRUPTS = (KeyboardInterrupt, TaskInterrupt)


@dataclass(frozen=True)
class AdapterSpec:
    """What a worker has to know of its adapter."""

    key: str  # of the pool
    name: str  # for people
    reference: tuple[str, str] | bytes  # module and qualified name, or the pickled class
    args: dict[str, Any] = field(default_factory=dict)
    teardown_grace: float = 1.0  # seconds
    # Several threads call its tools: also in turn, for one may be left behind with its call.
    shared: bool = False
    snapshot_every: int | float | None = 1  # calls, or seconds; None: never by itself


class ToolHandle:
    """Stands for a tool among the functions of a pool; in the worker it is that tool."""

    def __init__(self, adapter: type, name: str) -> None:
        self.name = name
        # By these the pool names what it runs.
        self.__module__ = adapter.__module__
        self.__qualname__ = f"{adapter.__qualname__}.{name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return load_tool, (self.name,)

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: only workers have an instance of the adapter."""
        raise TypeError(f"{self.__qualname__} runs in workers; call it by the pool's execute()")


class Host:
    """One instance of an adapter, and its tools as calls run them."""

    def __init__(self, cls: type[Adapter], spec: AdapterSpec) -> None:
        self.spec = spec
        # Made with the first session that may move (see `snakepit.adapters.moving`).
        self.residence: Any = None
        self.making = threading.RLock()
        with _step(spec, "construct"):
            self.adapter = cls(**spec.args)
        with _step(spec, "setup"):
            self.adapter.setup()
        self._shared_turns: Turns | None = None

    def tool(self, name: str) -> Callable[..., Any]:
        """Return what a call of a tool runs: the method itself, unless there is more to do."""
        marks = marks_of(type(self.adapter), name)
        method: Callable[..., Any] = getattr(self.adapter, name)
        if marks is None:
            return method
        hooked = has_call_hooks(type(self.adapter))
        only_positional = _has_only_positional(method)
        if hooked or only_positional:
            # Lazily: most workers have no use for it, and each would hold a copy.
            from snakepit.adapters.tools import tools_of

            signature = tools_of(type(self.adapter))[name].signature
            if only_positional:
                method = signature.placing(method)
            if hooked:
                method = _with_hooks(self, name, method, signature, marks.streaming)
        if marks.thread_sensitive and self.spec.shared:
            method = self._turns().taking(method, marks.streaming)
        return method

    def _turns(self) -> Turns:
        """Return the turns of the tools that are not to run beside each other."""
        # Lazily: most adapters have none.
        from snakepit.adapters.turns import Turns

        with self.making:
            if self._shared_turns is None:
                self._shared_turns = Turns()
            return self._shared_turns

    def check_health(self) -> tuple[int, bool, str]:
        """Return this process's pid, whether the adapter is fit for more, and if not, why."""
        try:
            fit = self.adapter.health()
        except INTERRUPTS:
            raise
        except BaseException as error:
            return os.getpid(), False, f"{type(error).__name__}: {error}"
        return os.getpid(), bool(fit), "" if fit else f"health() returned {fit!r}"

    def examine(self) -> None:
        """Tell the owner if this worker is not fit for more: what an idle lane does when asked."""
        try:
            _, fit, reason = self.check_health()
        except BaseException as error:
            # A worker's loop is no place for it to end.
            fit, reason = False, f"{type(error).__name__}: {error}"
        if not fit:
            from snakepit.worker.context import home_lane

            home_lane().post(MAIL_UNFIT, os.getpid(), reason)

    def teardown(self) -> None:
        """Run the adapter's `teardown`; what it raises is logged, for nobody is left to care."""
        try:
            self.adapter.teardown()
        except INTERRUPTS:
            raise
        except BaseException:
            logger.exception("snakepit: teardown() of adapter %s raised", self.spec.name)


class _step:
    """Names the step in which an adapter raised, and the adapter."""

    def __init__(self, spec: AdapterSpec, step: str) -> None:
        self._spec = spec
        self._step = step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, (AdapterError, *INTERRUPTS)):
            what = {"construct": "its constructor", "import": "its import"}.get(
                self._step, f"{self._step}()"
            )
            raise AdapterError(
                f"adapter {self._spec.name}: {what} raised {type(error).__name__}: {error}",
                details={"adapter": self._spec.name, "step": self._step},
            ) from error


def _has_only_positional(method: Any) -> bool:
    """Whether a tool has parameters, beside `self`, that cannot be given by name."""
    function = getattr(method, "__func__", method)
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    code = getattr(function, "__code__", None)
    return code is not None and code.co_posonlyargcount > 1


# -- the hooks of calls ----------------------------------------------------------------------------


def _with_hooks(
    host: Host, name: str, method: Callable[..., Any], signature: Any, streaming: bool
) -> Callable[..., Any]:
    adapter = host.adapter

    def prepared(values: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        arguments = {**signature.by_name(values), **named}
        adapter.validate_command(name, arguments)
        arguments = adapter.prepare_args(name, arguments)
        if not _is_arguments(arguments):
            raise wrong_return(
                host.spec.name,
                "prepare_args",
                "the arguments as a dict by their names",
                arguments,
                tool=name,
            )
        return arguments

    def call(*values: Any, **named: Any) -> Any:
        return adapter.process_response(name, method(**prepared(values, named)))

    def stream(*values: Any, **named: Any) -> Iterator[Any]:
        for chunk in method(**prepared(values, named)):
            yield adapter.process_response(name, chunk)

    return stream if streaming else call


def _is_arguments(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


# -- in the template, and in a worker --------------------------------------------------------------


def preload_adapter(spec: AdapterSpec) -> type[Adapter]:
    """Load an adapter's class and let it preload, unless this process has done so. AdapterError."""
    cls = _loaded.get(spec.key)
    if cls is None:
        with _step(spec, "import"):
            cls = _load(spec.reference)
        preload_class(cls, spec)
        _loaded[spec.key] = cls
    return cls


def preload_class(cls: type[Adapter], spec: AdapterSpec) -> None:
    """Let an adapter's class preload in this process. Raises AdapterError."""
    with _step(spec, "preload"):
        cls.preload()


def _load(reference: tuple[str, str] | bytes) -> type[Adapter]:
    if isinstance(reference, bytes):
        return cast("type[Adapter]", pickle.loads(reference))
    module, path = reference
    found: Any = import_for_pool(module)
    for name in path.split("."):
        found = getattr(found, name)
    return cast("type[Adapter]", found)


def join(spec: AdapterSpec) -> None:
    """Make this worker's instance; the initializer of a pool of adapters. Raises AdapterError."""
    global _host
    from snakepit.worker import context

    host = _host = Host(preload_adapter(spec), spec)
    if has_health(type(host.adapter)):
        context.home_lane().examiner = host.examine
    context.at_end.append(lambda: _leave(host, spec.teardown_grace))
    context.at_end_of_lane.append(lambda lane: _leave_lane(host, lane))


def _leave_lane(host: Host, lane: WorkerLane) -> None:
    if host.residence is not None:
        host.residence.hand_in_of(lane)


def _leave(host: Host, grace: float) -> None:
    if host.residence is not None:
        from snakepit.worker.context import home_lane

        host.residence.hand_in(home_lane())
    # Whoever waits for this worker's end shall not wait for its teardown for ever.
    late = threading.Timer(grace, os._exit, (0,))
    late.daemon = True
    late.start()
    host.teardown()
    late.cancel()


def current_host() -> Host:
    """Return this worker's host. Raises RuntimeError outside a worker of a pool of adapters."""
    if _host is None:
        raise RuntimeError("only a worker of a pool of adapters has one")
    return _host


def load_tool(name: str) -> Callable[..., Any]:
    """Return a tool of this worker's adapter; what stands for it in calls loads as this."""
    if _host is None:
        raise RuntimeError(f"the tool {name!r} can only be loaded in a worker of its pool")
    return _host.tool(name)


def check_health() -> tuple[int, bool, str]:
    """Ask this worker's adapter whether it is fit for more (see `Host.check_health`)."""
    if _host is None:
        raise RuntimeError("only a worker of a pool of adapters has one to ask")
    return _host.check_health()
