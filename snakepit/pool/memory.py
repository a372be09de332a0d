"""The arena of this process, shared by all its pools, and the arrays that callers put into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snakepit._core.arena import Arena, create_arena
from snakepit.resources import memory_limit

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike

__all__ = ["arena", "share", "shared_array"]

_lock = threading.Lock()
_arena: Arena | None = None
_clients: set[int] = set()
MOST_CLIENTS = 1024


def arena() -> Arena:
    """Return this process's arena: in a worker the owner's, elsewhere its own, made on first use.

    Its budget is SNAKEPIT_ARENA_BYTES, by default half of the memory that the process may use.
    """
    global _arena
    if _arena is None:
        with _lock:
            if _arena is None:
                _arena = create_arena(*_budget())
    return _arena


def set_arena(made_elsewhere: Arena) -> None:
    """Make the owner's arena this process's: called once, when a worker starts."""
    global _arena
    _arena = made_elsewhere


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
        for number in range(1, MOST_CLIENTS):
            if number not in _clients:
                _clients.add(number)
                return number
    raise RuntimeError(
        f"{MOST_CLIENTS - 1} worker processes use the arena of this process, its most"
    )


def release_client(number: int) -> None:
    """Give back what a dead process held in the arena, and its number."""
    arena().reclaim(number)
    with _lock:
        _clients.discard(number)


def shared_array(
    shape: int | Sequence[int], dtype: DTypeLike = float, *, writable: bool = False
) -> numpy.ndarray[Any, Any]:
    """Return a new numpy array of zeros that is passed to workers by reference, whatever its size.

    The bytes are shared: workers see the caller's later writes. In workers the array is read-only
    unless `writable`. It lives until the caller and every worker have dropped it. Raises
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
