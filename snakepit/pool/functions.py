"""Which functions have a number, and whether the number still stands for what the caller means.

A function of an importable module is named once and for all. One that travels by value (of the main
module, a lambda, a closure) is a snapshot: of its globals in the main module, its closure, its
defaults. It keeps its number as long as all these are still the same objects and, but for globals,
immutable; else the next call sends a new snapshot. What cannot be judged so (bound methods,
partials, callable objects, closures over lists) travels with every call.
"""

from __future__ import annotations

import builtins
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit.errors import EncodeError

if TYPE_CHECKING:
    from snakepit._core.definitions import Definitions, Published

_ABSENT = object()  # in place of the value of a global that is not bound

_ATOMS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    range,
)


class _Snapshot:
    """A function that travels by value: its number, and the bindings that it was pickled with."""

    __slots__ = ("bindings", "cells", "function", "parts", "published")

    def __init__(
        self,
        function: weakref.ref[Any],
        published: Published | None,
        bindings: list[tuple[dict[str, Any], str, Any]],
        cells: list[tuple[types.CellType, Any]],
    ) -> None:
        self.function = function
        self.published = published  # None: seen once
        self.bindings = bindings
        self.cells = cells
        target = function()
        self.parts = parts_of(target) if isinstance(target, types.FunctionType) else None

    def is_current(self, function: Any) -> bool:
        if self.parts is not None:
            code, defaults, kwdefaults = self.parts
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__ is not kwdefaults
            ):
                return False
        for namespace, name, value in self.bindings:
            if namespace.get(name, _ABSENT) is not value:
                return False
        return all(cell.cell_contents is value for cell, value in self.cells)


def parts_of(function: types.FunctionType) -> tuple[Any, Any, Any]:
    """Return what is rebound when a function is changed in place."""
    return function.__code__, function.__defaults__, function.__kwdefaults__


class FunctionRegistry:
    """Numbers functions and main-module classes for one pool."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self.importable: dict[Any, Published] = {}
        # By identity: a weak dictionary's look-up costs as much as the rest of a call.
        self._snapshots: dict[int, _Snapshot] = {}
        self._classes: dict[type, Published] = {}
        # By the number of a function: its epoch, and the number of the call that streams it.
        self._streams: dict[int, tuple[int, Published]] = {}
        self.streamed: dict[Any, tuple[Published, Published]] = {}  # of importable functions
        self._lock = threading.RLock()

    def lookup(self, function: Callable[..., Any], *, lasting: bool = False) -> Published | None:
        """Return the function's number, or None when it has to travel with the call.

        `lasting`: the caller will use the number for many calls, so a first sight is worth one.
        Raises EncodeError when the function cannot be pickled at all.
        """
        snapshot = self._snapshots.get(id(function))
        if (
            snapshot is not None
            and snapshot.published is not None
            and snapshot.function() is function
            and snapshot.is_current(function)
        ):
            return snapshot.published
        kind = type(function)
        if (
            kind is types.FunctionType
            or kind is types.BuiltinFunctionType
            or isinstance(function, type)
        ):
            known = self.importable.get(function)
            if known is not None:
                return known
            if is_importable(function):
                return self._publish_importable(function)
            if kind is types.FunctionType:
                return self._snapshot(function, lasting)
        return None

    def _writing(self) -> threading.RLock:
        """The lock that publishing needs; a forked child must not wait for it, nor publish."""
        self._definitions.refuse_in_child()
        return self._lock

    def adopt(self, function: Any) -> Published | None:
        """Number something callable that pickles as the same thing for ever; None: no number left.

        Whoever asks keeps it: with it goes its number.
        """
        key = id(function)
        pickled = pickle.dumps(function, 5)
        with self._writing():
            published = self._definitions.publish(pickled, None, name_of(function))
            if published is not None:
                reference = weakref.ref(function, lambda _: self._snapshots.pop(key, None))
                self._snapshots[key] = _Snapshot(reference, published, [], [])
            return published

    def _publish_importable(self, function: Any) -> Published | None:
        pickled = pickle.dumps(function, 5)
        with self._writing():
            published = self.importable.get(function)
            if published is None:
                published = self._definitions.publish(pickled, function, name_of(function))
                if published is not None:
                    self.importable[function] = published
            return published

    def _snapshot(self, function: Any, lasting: bool) -> Published | None:
        key = id(function)
        known = self._snapshots.get(key)
        if known is None or known.function() is not function:
            reference = weakref.ref(function, lambda _: self._snapshots.pop(key, None))
            known = self._snapshots[key] = _Snapshot(reference, None, [], [])
            if not lasting and function.__module__ != "__main__":
                # A lambda made for one call would only wear the table out.
                return None
        cells: list[tuple[types.CellType, Any]] = []
        if not _is_frozen_function(function, cells, set()):
            return None
        # Imported only where something travels by value: cloudpickle takes long.
        from snakepit.pickling import MISSING, careful_dumps

        bindings: list[tuple[dict[str, Any], str, Any]] = []
        try:
            pickled = careful_dumps(function, dependencies=bindings)
        except Exception as error:
            raise EncodeError(
                f"cannot pickle the function {function.__qualname__!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        bindings = [
            (namespace, name, _ABSENT if value is MISSING else value)
            for namespace, name, value in bindings
        ]
        with self._writing():
            published = self._definitions.publish(pickled, None, name_of(function))
            if published is not None:
                self._snapshots[key] = _Snapshot(known.function, published, bindings, cells)
            return published

    def snapshot_for_map(self, function: Callable[..., Any]) -> Published | None:
        """Number `function` as it is now, for one map's calls, even where `lookup` would not."""
        published = self.lookup(function, lasting=True)
        if published is not None:
            return published
        from snakepit.pickling import careful_dumps

        try:
            pickled = careful_dumps(function)
        except Exception as error:
            raise EncodeError(
                f"cannot pickle the function {function!r}: {type(error).__name__}: {error}"
            ) from error
        with self._writing():
            return self._definitions.publish(pickled, None, name_of(function))

    def lookup_stream(self, function: Callable[..., Any]) -> tuple[Published, Published] | None:
        """Return the number of the call that streams a function's chunks, and the function's own.

        None when the function has to travel with the call. Raises EncodeError as `lookup` does.
        """
        published = self.lookup(function)
        if published is None:
            return None
        known = self._streams.get(published.number)
        if known is None or known[0] != published.epoch:
            from snakepit.worker.streaming import StreamedFunction

            pickled = pickle.dumps(StreamedFunction(published.number, published.epoch), 5)
            with self._lock:
                stream = self._definitions.publish(pickled, None, name_of(function))
                if stream is None:
                    return None
                known = self._streams[published.number] = (published.epoch, stream)
        if self.importable.get(function) is published:
            self.streamed[function] = known[1], published
        return known[1], published

    def find(self, published: Published) -> Any:
        """Return the function that has this number, also for streaming it; None when it is gone."""
        for number, (_, stream) in list(self._streams.items()):
            if stream is published:
                known = [snapshot.published for snapshot in list(self._snapshots.values())]
                known += self.importable.values()
                for each in known:
                    if each is not None and each.number == number:
                        return self.find(each)
        if published.target is not None:
            return published.target
        for snapshot in list(self._snapshots.values()):
            if snapshot.published is published:
                return snapshot.function()
        return None

    def name_class(self, cls: type) -> tuple[Any, ...] | None:
        """Return what arguments reduce a class of the main module to, or None for "by value"."""
        published = self._classes.get(cls)
        if published is None:
            from snakepit.pickling import careful_dumps

            self._definitions.refuse_in_child()
            # Not under the lock: reducers of the user's run. Two threads may do it at once; the
            # number is that of whoever is first.
            pickled, name = careful_dumps(cls), name_of(cls)
            with self._writing():
                published = self._classes.get(cls)
                if published is None:
                    published = self._definitions.publish(pickled, cls, name)
                    if published is None:
                        return None
                    self._classes[cls] = published
        from snakepit.worker.context import load_definition

        return load_definition, (published.number, published.epoch)


def name_of(function: Any) -> str:
    """Return the name by which people know a function or class: module and qualified name."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):  # a partial, a callable object: its class says what it is
        return name_of(type(function))
    module = getattr(function, "__module__", None)
    return name if module in (None, "builtins") else f"{module}.{name}"


def is_importable(function: Any) -> bool:
    """Whether another process gets this very object by its module and qualified name."""
    module_name = getattr(function, "__module__", None)
    if module_name in (None, "__main__", "__mp_main__"):
        return False
    module = builtins if module_name == "builtins" else sys.modules.get(module_name)
    target: Any = module
    for name in function.__qualname__.split("."):
        target = getattr(target, name, None)
        if target is None:
            return False
    return target is function and not _is_by_value(module)


def _is_by_value(module: Any) -> bool:
    # Where cloudpickle is not loaded, or another thread is still loading it, nothing is registered.
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    is_registered = getattr(cloudpickle, "_is_registered_pickle_by_value", None)
    return is_registered is not None and bool(is_registered(module))


def _is_frozen(value: Any, cells: list[tuple[types.CellType, Any]], seen: set[int]) -> bool:
    """Whether nothing that a snapshot of `value` holds can change unseen."""
    if isinstance(value, types.FunctionType):
        return is_importable(value) or _is_frozen_function(value, cells, seen)
    if type(value) is tuple or type(value) is frozenset:
        return all(_is_frozen(item, cells, seen) for item in value)
    return type(value) in _ATOMS or (isinstance(value, type) and value.__module__ != "__main__")


def _is_frozen_function(
    function: types.FunctionType, cells: list[tuple[types.CellType, Any]], seen: set[int]
) -> bool:
    if id(function) in seen:
        return True
    seen.add(id(function))
    if function.__dict__ or not _is_frozen(function.__defaults__ or (), cells, seen):
        return False
    if not all(
        _is_frozen(value, cells, seen) for value in (function.__kwdefaults__ or {}).values()
    ):
        return False
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:
            return False
        if not _is_frozen(content, cells, seen):
            return False
        cells.append((cell, content))
    return True
