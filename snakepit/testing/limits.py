"""Faults of the machine: no memory, no disk, no steady clock."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["fill_arena", "full_disk", "jump_clock", "limit_memory"]


@contextlib.contextmanager
def fill_arena(leave: int = 0) -> Iterator[int]:
    """Hold the shared memory of this process's pools, all but about `leave` bytes, in the block.

    Gives how many bytes are held. What comes meanwhile waits, and fails with ArenaFullError if it
    cannot wait longer. Takes real memory: set SNAKEPIT_ARENA_BYTES low in tests.
    """
    from snakepit.errors import ArenaFullError
    from snakepit.pool.memory import own_arena

    held: list[Any] = []
    size = 0
    piece = 1 << 26
    usage = own_arena().usage()
    room = usage["bytes_budget"] - usage["bytes_in_use"] - leave
    try:
        while piece >= 4096 and room - size >= 4096:
            if piece > room - size:
                piece //= 2
                continue
            try:
                held.append(own_arena().share(piece, False))
                size += piece
            except ArenaFullError:
                piece //= 2
        yield size
    finally:
        held.clear()


@contextlib.contextmanager
def full_disk(largest: int = 0) -> Iterator[None]:
    """Let this process write no file beyond `largest` bytes in the block: OSError (EFBIG) instead.

    Through RLIMIT_FSIZE, so it also holds for processes that are started in the block, and for
    shared memory: make pools before. Files that are large already can be read, not extended.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


def limit_memory(more: int) -> None:
    """Let the process that calls this, a worker, have at most `more` further bytes of memory.

    For good, through RLIMIT_DATA: Python raises MemoryError then, C code mostly crashes. Raises
    ValueError for a negative number.
    """
    if more < 0:
        raise ValueError(f"more must be a number of bytes, 0 or above, not {more}")
    with open("/proc/self/status") as status:
        used = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, hard))


@contextlib.contextmanager
def jump_clock(seconds: float) -> Iterator[None]:
    """Have the wall clock of this process jump by `seconds` (negative: back) in the block.

    `time.time` and `time.time_ns` show it, also where they were called before; the monotonic
    clock goes on as it does on a machine whose clock is set.
    """
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds  # the standard library's own way to the clock
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
    try:
        yield
    finally:
        time.time, time.time_ns = real, real_ns
