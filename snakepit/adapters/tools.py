"""What an owner knows of an adapter: where its class is, and what its tools take."""

from __future__ import annotations

import importlib
import inspect
import threading
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from snakepit.adapters.adapter import Adapter, marks_of, wrong_return
from snakepit.adapters.signature import Parameter, Signature
from snakepit.errors import AdapterError, TaskInterrupt, ToolNotFoundError
from snakepit.options import did_you_mean

__all__ = ["Tool", "find_adapter", "name_of_adapter", "tools_of", "unknown_tool"]

_known: weakref.WeakKeyDictionary[type, dict[str, Tool]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a finaliser may make a pool while another looks here


@dataclass(frozen=True)
class Tool:
    """A method that callers may run."""

    name: str
    description: str
    streaming: bool
    timeout: float | None  # seconds
    thread_sensitive: bool
    idempotent: bool
    signature: Signature

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What it takes."""
        return self.signature.parameters


def find_adapter(adapter: type[Adapter] | str) -> type[Adapter]:
    """Return the class that a user named: itself, "package.module:Class" or "package.module.Class".

    Raises AdapterError, also for one that has no tools or declares them wrongly.
    """
    found: Any = _import(adapter) if isinstance(adapter, str) else adapter
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        what = found.__name__ if isinstance(found, type) else repr(found)
        raise AdapterError(
            f"an adapter is a subclass of snakepit.Adapter, or its name as 'package.module:Class'; "
            f"{what} is neither",
            details={"adapter": what, "step": "import"},
        )
    for name in ("preload", "command_timeout", "supported_commands"):
        if not isinstance(inspect.getattr_static(found, name), classmethod):
            raise AdapterError(
                f"{found.__qualname__}.{name} must be a class method: it runs where there is no "
                "instance; put @classmethod above it",
                details={"adapter": name_of_adapter(found), "step": "declare"},
            )
    tools_of(found)  # whose declarations are to be found wrong before anything is made
    return found


def _import(text: str) -> Any:
    module_name, colon, path = text.partition(":")
    if not colon:
        module_name, _, path = text.rpartition(".")
    details = {"adapter": text, "step": "import"}
    if not module_name or not path:
        raise AdapterError(
            f"the adapter {text!r} must be named as 'package.module:Class'", details=details
        )
    try:
        found: Any = importlib.import_module(module_name)
    except (KeyboardInterrupt, TaskInterrupt):
        raise
    except BaseException as error:  # `sys.exit` of a module is no end of this program
        raise AdapterError(
            f"the adapter {text!r} cannot be imported: {type(error).__name__}: {error}"
            f"{_remedy(error, module_name)}",
            details=details,
        ) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            hint = did_you_mean(name, dir(found))
            raise AdapterError(
                f"the adapter {text!r} cannot be imported: "
                f"{getattr(found, '__name__', found)!r} has no {name!r}{hint}",
                details=details,
            ) from None
    return found


def _remedy(error: BaseException, module: str) -> str:
    """Return what is to be done about a module that is not there; other errors say it."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    if f"{module}.".startswith(f"{error.name}."):
        return "; correct the name, or put the folder of the module into PYTHONPATH"
    return f"; install it where {module} is to run"


def name_of_adapter(cls: type) -> str:
    """Return the name by which people know an adapter."""
    return f"{cls.__module__}:{cls.__qualname__}"


def tools_of(cls: type[Adapter]) -> dict[str, Tool]:
    """Return the tools of an adapter by name; they are looked for once. Raises AdapterError."""
    with _lock:
        tools = _known.get(cls)
    if tools is None:
        tools = {name: _read(cls, name) for name in _names(cls)}
        if not tools:
            _check_empty(cls)
        with _lock:
            tools = _known.setdefault(cls, tools)
    return tools


def _names(cls: type[Adapter]) -> list[str]:
    found: Any = cls.supported_commands()
    if isinstance(found, Iterable) and not isinstance(found, str):
        names = list(found)
        if all(isinstance(name, str) for name in names):
            return names
    wanted = "a list of the names of tools"
    raise wrong_return(name_of_adapter(cls), "supported_commands", wanted, found)


def _check_empty(cls: type[Adapter]) -> None:
    """Refuse an adapter without tools, which a forgotten @tool makes; warn of one that means it."""
    problem = (
        f"{cls.__qualname__} has no tools, so that no call could be made of its pool: mark the "
        "methods that callers may run with @snakepit.tool"
    )
    own = inspect.getattr_static(cls, "supported_commands").__func__
    if own is inspect.getattr_static(Adapter, "supported_commands").__func__:
        details = {"adapter": name_of_adapter(cls), "step": "declare"}
        raise AdapterError(problem, details=details)
    # It says so itself, by a `supported_commands` of its own.
    warnings.warn(problem, RuntimeWarning, stacklevel=5)


def _read(cls: type[Adapter], name: str) -> Tool:
    marks = marks_of(cls, name)
    method = getattr(cls, name, None)
    if marks is None or method is None:
        raise AdapterError(
            f"{cls.__qualname__}.supported_commands() names {name!r}, which is no tool: mark a "
            "method of this name with @tool",
            details={"adapter": name_of_adapter(cls), "step": "declare"},
        )
    text = marks.description or (inspect.getdoc(method) or "").partition("\n")[0]
    signature = Signature(name, cls.__qualname__, method)
    return Tool(
        name, text, marks.streaming, marks.timeout, marks.thread_sensitive, marks.idempotent,
        signature,
    )  # fmt: skip


def unknown_tool(cls: type[Adapter], name: Any) -> ToolNotFoundError:
    """Return the error for a name that no tool has; it names the nearest."""
    names = list(tools_of(cls))
    hint = did_you_mean(name, names) or f"; it has {', '.join(names) or 'none'}"
    return ToolNotFoundError(
        f"{cls.__qualname__} has no tool {name!r}{hint}",
        details={"tool": name, "adapter": name_of_adapter(cls), "tools": names},
    )


def can_move_sessions(cls: type[Adapter]) -> bool:
    """Whether the adapter has both `snapshot` and `restore`. Raises AdapterError for only one.

    A tool of such a name is a tool, and none of them.
    """
    has = {
        name: getattr(cls, name) is not getattr(Adapter, name) and marks_of(cls, name) is None
        for name in ("snapshot", "restore")
    }
    if has["snapshot"] != has["restore"]:
        there, missing = ("snapshot", "restore") if has["snapshot"] else ("restore", "snapshot")
        raise AdapterError(
            f"{cls.__qualname__} has {there}() and no {missing}(): for sessions to move, an "
            "adapter needs both",
            details={"adapter": name_of_adapter(cls), "step": "declare"},
        )
    return has["snapshot"]
