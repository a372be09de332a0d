"""The arena of this process, shared by all its pools, and the arrays that callers put into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snakepit._core.arena import Arena, create_arena
from snakepit._core.constants import MAX_CLIENTS
from snakepit.resources import memory_limit

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike

__all__ = ["arena", "share", "shared_array"]

_lock = threading.Lock()
_joined: Arena | None = None  # in a worker: its owner's
_own: Arena | None = None
_clients: set[int] = set()  # of `_own`


def arena() -> Arena:
    """Return the arena for shared arrays: in a worker its owner's, elsewhere `own_arena`."""
    return _joined or own_arena()


def own_arena() -> Arena:
    """Return the arena of the pools that this process owns, made on first use.

    In a worker too it is another than its owner's, whose clients only the owner numbers and buries.
    Its budget is SNAKEPIT_ARENA_BYTES, by default half of the memory that the process may use.
    """
    global _own
    if _own is None:
        with _lock:
            if _own is None:
                _own = create_arena(*_budget())
    return _own


def set_arena(made_elsewhere: Arena) -> None:
    """Make the owner's arena the one that arrays are shared in: called once, by a worker."""
    global _joined
    _joined = made_elsewhere


def _budget() -> tuple[int, int]:
    text = os.environ.get("SNAKEPIT_ARENA_BYTES")
    if text is None:
        budget = memory_limit() // 2
    elif text.isdigit() and int(text) > 0:
        budget = int(text)
    else:
        raise ValueError(f"SNAKEPIT_ARENA_BYTES={text!r}: expected a whole number of bytes above 0")
    return budget, budget // 4


def reserve_client() -> int:
    """Reserve a number for a process that is about to use the arena."""
    with _lock:
        for number in range(1, MAX_CLIENTS):
            if number not in _clients:
                _clients.add(number)
                return number
    raise RuntimeError(
        f"{MAX_CLIENTS - 1} worker processes use the arena of this process, its most"
    )


def release_client(number: int) -> None:
    """Give back what a dead process held in the arena, and its number."""
    own_arena().reclaim(number)
    with _lock:
        _clients.discard(number)


def _begin_anew() -> None:
    """In a forked child: what is in these arenas is its parent's, for this process to read only.

    A child that used one further would do so in its parent's name, and nobody would give back what
    it held when it ends.
    """
    global _own, _joined, _lock
    _own = _joined = None
    _clients.clear()
    _lock = threading.Lock()  # may have been held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def shared_array(
    shape: int | Sequence[int], dtype: DTypeLike = float, *, writable: bool = False
) -> numpy.ndarray[Any, Any]:
    """Return a new numpy array of zeros that is passed to workers by reference, whatever its size.

    The bytes are shared: workers see the caller's later writes. In workers the array is read-only
    unless `writable`. It lives until the caller and every worker have dropped it. In a task, it is
    shared within the pool that runs the task; a pool that the task makes gets copies. Raises
    ArenaFullError.
    """
    import numpy

    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(
            f"cannot share an array of dtype {kind}: it holds references to objects of this process"
        )
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for size in sizes:
        count *= int(size)
    if count < 0 or any(size < 0 for size in sizes):
        raise ValueError(f"negative dimensions in shape {shape!r}")
    segment = arena().share(count * kind.itemsize, writable)
    return numpy.frombuffer(memoryview(segment), dtype=kind, count=count).reshape(sizes)


def share(array: Any, *, writable: bool = False) -> numpy.ndarray[Any, Any]:
    """Return a copy of `array` in shared memory, passed by reference (see `shared_array`)."""
    import numpy

    source = numpy.asarray(array)
    target = shared_array(source.shape, source.dtype, writable=writable)
    target[...] = source
    return target
