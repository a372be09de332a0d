"""Pickling what the plain pickler cannot.

That is: the main module's functions and classes, lambdas, closures, read-only arrays.

Workers do not import the main module (no `if __name__ == "__main__"` guard is needed, and a
notebook has nothing to import), so what lives there travels by value, by cloudpickle, with three
differences to it:

* A function of the main module finds its globals in the worker's own main module, shared by all
  such functions there. So an initializer may set a global that tasks read, as scripts written for
  ProcessPoolExecutor do. Each global travels with a version, which grows when the owner rebinds the
  name: a value that the worker set itself is only overwritten by one that is newer.
* A class arrives once; a second arrival is the same class and leaves its attributes alone.
* In arguments, a class of the main module is named by number, like a function.
"""

from __future__ import annotations

import copyreg
import functools
import io
import itertools
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle
from cloudpickle import cloudpickle as _cloudpickle

if TYPE_CHECKING:
    from snakepit._core.arena import Arena

MISSING = object()
_GONE = object()  # in place of a value that was sent and is not bound any more

# Classes that are complete in this process: made here, or arrived with all their attributes.
_complete: weakref.WeakSet[type] = weakref.WeakSet()
# In a worker: the classes that came from the owner, by their tracker's id.
_arrived: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


class MainGlobals:
    """The owner's record of which globals of its main module were sent, and in which version.

    Versions are drawn from one sequence for all names. A signal handler or a finaliser that submits
    on top of `version` draws a later one, so that no version ever stands for two values.
    """

    def __init__(self) -> None:
        self._versions = itertools.count(1)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was sent; for a forked child, whose workers have received nothing.

        Another thread may have held the lock when the process forked.
        """
        self._sent: dict[str, tuple[Any, int]] = {}
        self._lock = threading.RLock()

    def version(self, name: str, value: Any) -> int:
        """Return the version under which `value` travels: a new one when the name was rebound.

        MISSING stands for a name that is not bound: version 0 if it was never sent.
        """
        with self._lock:
            known = self._sent.get(name)
            if value is MISSING and known is None:
                return 0
            if known is not None and known[0] is value:
                return known[1]
            version = next(self._versions)
            self._sent[name] = (value, version)
            dropped = self._let_go()
        # Not under the lock: what dies here may run finalisers.
        del known, dropped
        return version

    def _let_go(self) -> dict[str, tuple[Any, int]]:
        """Keep no value whose name stands for another by now, or for nothing; return them."""
        namespace = main_namespace()
        # A copy, made in one step: even under the lock, a call on top of this one may send more.
        before = self._sent.copy()
        for name, (value, version) in before.items():
            if value is not MISSING and namespace.get(name, MISSING) is not value:
                self._sent[name] = (_GONE, version)
        return before


main_globals = MainGlobals()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=main_globals.begin_anew)
_received_versions: dict[str, int] = {}


def main_namespace() -> dict[str, Any]:
    """Return the namespace of this process's main module."""
    return sys.modules["__main__"].__dict__


class _MainNamespace:
    """Pickles as "the main namespace of whoever reads this"."""

    def __reduce__(self) -> tuple[Any, ...]:
        return main_namespace, ()


_MAIN_NAMESPACE = _MainNamespace()


def _set_function_state(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    attributes, slots, versions = state
    values = slots["__globals__"]
    namespace = function.__globals__
    slots["__globals__"] = {}
    for name, version in versions.items():
        if version > _received_versions.get(name, 0):
            _received_versions[name] = version
            if name in values:
                namespace[name] = values[name]
            else:
                namespace.pop(name, None)
    _cloudpickle._function_setstate(function, (attributes, slots))


def _set_class_state(cls: type, state: Any) -> type:
    if cls in _complete:
        return cls
    _cloudpickle._class_setstate(cls, state)
    _complete.add(cls)
    tracker = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(cls)
    if tracker is not None:
        _arrived[cls] = tracker
    if cls.__module__ == "__main__" and "." not in cls.__qualname__:
        main_namespace().setdefault(cls.__name__, cls)
    return cls


def tracked_class(tracker: str) -> type:
    """Return the class that this process once sent by value."""
    cls: type = _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[tracker]
    return cls


def _writable_array(buffer: Any, dtype: Any, shape: Any, order: str) -> Any:
    import numpy

    flat: Any = numpy.frombuffer(buffer, dtype=dtype)
    return flat.reshape(shape, order=order)


def _cached_function(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _strided_array(buffer: Any, dtype: Any, shape: Any, strides: Any, offset: int) -> Any:
    import numpy

    return numpy.ndarray(shape, dtype, buffer, offset, strides)


class CarefulPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles one value for another process.

    `name_class`: called with a class of the main module, returns what the class is reduced to, or
    None to send it by value. `dependencies`: filled with (namespace, name, value) of each global
    that functions of the main module use. `arena`: the one whose shared arrays go by reference;
    None: the process's.
    """

    def __init__(
        self,
        file: io.BytesIO,
        buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
        name_class: Callable[[type], tuple[Any, ...] | None] | None = None,
        dependencies: list[tuple[dict[str, Any], str, Any]] | None = None,
        arena: Arena | None = None,
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._arena = arena
        self._name_class = name_class
        self._dependencies = dependencies
        # Not there, or not yet, while another thread loads it: then nothing of its kind exists.
        reduction = sys.modules.get("multiprocessing.reduction")
        forking_pickler = getattr(reduction, "ForkingPickler", None)
        if forking_pickler is not None:
            # How multiprocessing's own objects pass on what they hold; sockets too.
            self.dispatch_table = {
                **cloudpickle.Pickler.dispatch_table,
                **copyreg.dispatch_table,
                **forking_pickler._extra_reducers,
            }
        namespace = main_namespace()
        self.globals_ref[id(namespace)] = _MAIN_NAMESPACE

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            if not (obj.flags.c_contiguous or obj.flags.f_contiguous):
                return self._reduce_strided(obj)
            if not obj.flags.writeable:
                return self._reduce_read_only(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        if kind is types.CodeType:
            return _reduce_code(obj)
        if kind is functools._lru_cache_wrapper and obj.__module__ == "__main__":
            # It would pickle as a name that workers do not have. The cache stays behind.
            return _cached_function, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)

    def _reduce_read_only(self, array: Any) -> Any:
        # The copy on the other side belongs to the task, so the sender's flag must not travel with
        # it.
        if array.dtype.hasobject or not array.size:
            return NotImplemented
        order = "C" if array.flags.c_contiguous else "F"
        from snakepit._core.shared_segments import WritableWindow

        window = pickle.PickleBuffer(WritableWindow(array.reshape(-1, order="A").view("u1")))
        return _writable_array, (window, array.dtype, array.shape, order)

    def _reduce_strided(self, array: Any) -> Any:
        # numpy copies such an array. In shared memory, what lies between its elements can be passed
        # along.
        if array.dtype.hasobject or not array.size:
            return NotImplemented
        first = array.__array_interface__["data"][0]
        steps = [(count - 1) * step for count, step in zip(array.shape, array.strides, strict=True)]
        low = first + sum(step for step in steps if step < 0)
        high = first + sum(step for step in steps if step > 0) + array.itemsize
        from snakepit.pool.memory import arena

        window = (self._arena or arena()).shared_window(low, high - low)
        if window is None:
            return NotImplemented
        details = (array.dtype, array.shape, array.strides, first - low)
        return _strided_array, (pickle.PickleBuffer(window), *details)

    def _reduce_class(self, cls: type) -> Any:
        arrived = _arrived.get(cls)
        if arrived is not None:
            return tracked_class, (arrived,)
        reduced = super().reducer_override(cls)
        if (
            type(reduced) is not tuple
            or len(reduced) < 6
            or reduced[5] is not _cloudpickle._class_setstate
        ):
            return reduced
        _complete.add(cls)
        if self._name_class is not None and cls.__module__ == "__main__":
            named = self._name_class(cls)
            if named is not None:
                return named
        return (*reduced[:5], _set_class_state)

    def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        namespace = main_namespace()
        if func.__globals__ is not namespace:
            return reduced
        attributes, slots = reduced[2]
        versions = {}
        for name in _cloudpickle._extract_code_globals(func.__code__):
            value = namespace.get(name, MISSING)
            versions[name] = main_globals.version(name, value)
            if self._dependencies is not None:
                self._dependencies.append((namespace, name, value))
        return (*reduced[:2], (attributes, slots, versions), *reduced[3:5], _set_function_state)


def _reduce_code(code: types.CodeType) -> Any:
    # From 3.1.3 on cloudpickle replaces the file's name, for pickles that do not depend on it; then
    # a traceback shows no lines.
    kind, args = _cloudpickle._code_reduce(code)
    return kind, tuple(code.co_filename if arg == "<dynamic-code>" else arg for arg in args)


def careful_dumps(
    value: Any,
    buffer_callback: Callable[[pickle.PickleBuffer], Any] | None = None,
    *,
    name_class: Callable[[type], tuple[Any, ...] | None] | None = None,
    dependencies: list[tuple[dict[str, Any], str, Any]] | None = None,
    arena: Arena | None = None,
) -> bytes:
    """Pickle `value` by `CarefulPickler`; buffers go to `buffer_callback` if there is one."""
    with io.BytesIO() as file:
        CarefulPickler(file, buffer_callback, name_class, dependencies, arena).dump(value)
        return file.getvalue()
