"""What the workers run: a module's functions, so that every peer can send them by name."""

import importlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_ready_arrays: dict[int, Any] = {}


def noop(*_: object) -> None:
    """Return at once, whatever the arguments are."""


def increment(number: int) -> int:
    """Return `number + 1`: the tiny call of the map question."""
    return number + 1


def peek(array: Any) -> float:
    """Return the sum of the array's first and last element, which proves that it arrived."""
    return float(array[0]) + float(array[-1])


def produce(nbytes: int) -> Any:
    """Return an array of `nbytes` bytes, made once a worker: the question is the way back."""
    array = _ready_arrays.get(nbytes)
    if array is None:
        # Imported here: a worker that is never asked for an array must not pay for numpy.
        import numpy as np

        array = _ready_arrays[nbytes] = np.ones(nbytes // 8)
    return array


def echo(array: Any) -> Any:
    """Return the argument."""
    return array


def count_up(turns: int) -> int:
    """Compute in pure Python: `turns` turns of a loop that allocates nothing."""
    total = 0
    for number in range(turns):
        total += number & 3
    return total


def multiply(side: int) -> float:
    """Add and multiply arrays in numpy, which gives the GIL away meanwhile."""
    import numpy as np

    array = _ready_arrays.get(-side)
    if array is None:
        array = _ready_arrays[-side] = np.linspace(0.0, 1.0, side * side).reshape(side, side)
    return float(np.sqrt(array * array + array).sum())


def sleep_beside(started: str, seconds: float) -> None:
    """Create the file `started`, then sleep: a worker that is taken, on a core that is free."""
    Path(started).touch()
    time.sleep(seconds)


def burn_beside(started: str, seconds: float) -> None:
    """Create the file `started`, then compute in pure Python: a worker and a core are taken."""
    Path(started).touch()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def check_in(folder: str, modules: Iterable[str]) -> int:
    """Leave a directory named by the worker's pid in `folder`, wait for its gate, return the pid.

    The gate is a FIFO whose writing end the owner opens when all have checked in. A worker that
    waits there takes no second call, so N calls are answered by N workers; and it waits in open(),
    which costs the machine nothing. A worker without `modules` imports them first, at its expense.
    """
    import_modules(modules)
    pid = os.getpid()
    # By the system's calls alone: what Python would touch for more is memory, which is measured.
    os.mkdir(f"{folder}/{pid}")
    os.close(os.open(f"{folder}/gate", os.O_RDONLY))
    return pid


def import_modules(names: Iterable[str]) -> None:
    """Import the modules: the initializer for peers that cannot preload them."""
    for name in names:
        importlib.import_module(name)


def count(number: int) -> Iterator[int]:
    """Yield the numbers below `number`: the small chunks of a stream."""
    yield from range(number)


def fill_queue(queue: Any, number: int) -> None:
    """Put the same numbers into a multiprocessing.Queue."""
    for each in range(number):
        queue.put(each)


def produce_chunks(size: int, number: int) -> Iterator[bytes]:
    """Yield `number` chunks of `size` bytes, each made anew."""
    for each in range(number):
        yield bytes([each % 256]) * size


def pace_of_chunks(size: int) -> float:
    """Return the seconds that one such chunk takes to be made and copied."""
    begun = time.perf_counter()
    for chunk in produce_chunks(size, 1_000):
        bytearray(chunk)
    return (time.perf_counter() - begun) / 1_000
