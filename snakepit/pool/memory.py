"""The arena of this process, shared by all its pools, and the arrays that callers put into it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snakepit._core.arena import Arena, create_arena
from snakepit._core.constants import MAX_CLIENTS
from snakepit.errors import ArenaFullError
from snakepit.resources import memory_limit

if TYPE_CHECKING:
    import numpy
    from numpy.typing import DTypeLike

    from snakepit._core.shared_segments import SharedSegment

__all__ = ["arena", "share", "shared_array"]

PATIENCE = 30.0  # seconds to wait for room for a shared array, outside a call with a deadline
TURN = 0.1  # seconds of that for which an interrupt of a thread's task may have to wait

# Re-entrant: a signal handler, or a finaliser, may come here on top of a thread that holds it.
_lock = threading.RLock()
_joined: Arena | None = None  # in a worker: its owner's
_own: Arena | None = None
# The numbers that no process has, of `_own`. They are taken and given back in one step each.
_free_clients = set(range(1, MAX_CLIENTS))


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
            budget = _budget()
            made = create_arena(*budget)
            # Asked for again last: a call on top of this one, which re-enters, may have made one.
            if _own is None:
                _own = made
            else:
                os.close(made.fd)  # type: ignore[unreachable]
    return _own


def set_arena(made_elsewhere: Arena) -> None:
    """Make the owner's arena the one that arrays are shared in: called once, by a worker."""
    global _joined
    _joined = made_elsewhere


def _budget() -> tuple[int, int]:
    text = os.environ.get("SNAKEPIT_ARENA_BYTES")
    if text is None:
        budget = memory_limit() // 2
    else:
        from snakepit.options import checked_bytes  # Here: a worker needs none of it.

        # The environment knows text only, so that a bare number of bytes needs no unit here.
        amount = int(text) if text.strip().isdecimal() else text
        budget = checked_bytes("SNAKEPIT_ARENA_BYTES", amount)
    return budget, budget // 4


def reserve_client() -> int:
    """Reserve a number for a process that is about to use the arena."""
    try:
        return _free_clients.pop()
    except KeyError:
        raise RuntimeError(
            f"{MAX_CLIENTS - 1} worker processes use the arena of this process, its most"
        ) from None


def release_client(number: int) -> None:
    """Give back what a dead process held in the arena, and its number."""
    own_arena().reclaim(number)
    _free_clients.add(number)


def _begin_anew() -> None:
    """In a forked child: what is in these arenas is its parent's, for this process to read only.

    A child that used one further would do so in its parent's name, and nobody would give back what
    it held when it ends.
    """
    global _own, _joined, _lock, _free_clients
    _own = _joined = None
    _free_clients = set(range(1, MAX_CLIENTS))
    _lock = threading.RLock()  # may have been held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def shared_array(
    shape: int | Sequence[int], dtype: DTypeLike = float, *, writable: bool = False
) -> numpy.ndarray[Any, Any]:
    """Return a new numpy array of zeros that is passed to workers by reference, whatever its size.

    The bytes are shared: workers see the caller's later writes. In workers the array is read-only
    unless `writable`. It lives until the caller and every worker have dropped it. In a task, it is
    shared within the pool that runs the task; a pool that the task makes gets copies. Where there
    is no room for it, it waits: until the deadline of the call that makes it, else for 30 s. Then,
    and at once for what cannot fit at all, it raises ArenaFullError.
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
    segment = _share(count * kind.itemsize, writable)
    return numpy.frombuffer(memoryview(segment), dtype=kind, count=count).reshape(sizes)


def _share(size: int, writable: bool) -> SharedSegment:
    deadline = _deadline_ns() or time.monotonic_ns() + int(PATIENCE * 1e9)
    while True:
        # In turns: only between two steps of Python is the task of a thread interrupted.
        turn = min(deadline, time.monotonic_ns() + int(TURN * 1e9))
        try:
            return arena().share(size, writable, turn)
        except ArenaFullError as error:
            if turn == deadline or "in_use" not in error.details:
                raise


def _deadline_ns() -> int:
    """The deadline of the call that runs here, 0 if it has none or none does."""
    if _joined is None:
        return 0
    from snakepit.worker.context import lane_here

    lane = lane_here()
    return 0 if lane is None else lane.deadline_ns


def share(array: Any, *, writable: bool = False) -> numpy.ndarray[Any, Any]:
    """Return a copy of `array` in shared memory, passed by reference (see `shared_array`)."""
    import numpy

    source = numpy.asarray(array)
    target = shared_array(source.shape, source.dtype, writable=writable)
    target[...] = source
    return target
