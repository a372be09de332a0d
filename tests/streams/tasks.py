"""Generators that the tests of streams run in workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.executor.tasks import Gate, Log, RaisesWhenLoaded


def count(number: int) -> Iterator[int]:
    yield from range(number)


def count_by_keyword(*, place: int, number: int) -> Iterator[int]:
    yield from range(place, number)


def values_of(*values: Any) -> Iterator[Any]:
    yield from values


def fail_after(number: int, error: Exception) -> Iterator[int]:
    yield from range(number)
    raise error


def kill_after(number: int, size: int) -> Iterator[bytes]:
    for _ in range(number):
        yield b"x" * size
    os.kill(os.getpid(), signal.SIGKILL)
    yield b"never"


def locks_after(number: int) -> Iterator[Any]:
    yield from range(number)
    yield threading.Lock()


def bad_to_load() -> Iterator[Any]:
    yield 1
    yield RaisesWhenLoaded()
    yield 3


def logging(log: Log, number: int, started: Gate | None = None) -> Iterator[int]:
    """Yield numbers, and log how the generator ended."""
    try:
        for each in range(number):
            yield each
            if started is not None:
                started.open()
        log.add("exhausted")
    except GeneratorExit:
        log.add("closed")
        raise
    finally:
        log.add("finally")


def clean_up_slowly(log: Log, release: Gate) -> Iterator[int]:
    """Yield numbers; the `finally` waits for a gate."""
    try:
        yield from range(10**9)
    finally:
        release.wait()
        log.add("finally")


def stuck(log: Log, started: Gate) -> Iterator[int]:
    """Yield once, then never again."""
    try:
        yield 1
        started.open()
        while True:
            time.sleep(0.01)
    finally:
        log.add("finally")


def arrays(number: int, size: int) -> Iterator[Any]:
    import numpy

    for each in range(number):
        yield numpy.full(size, each, dtype="i8")


def rows_of(array: Any) -> Iterator[Any]:
    """Write to a shared array, and yield views of it."""
    for each in range(len(array)):
        array[each] = each
        yield array[each]


def own_shared_arrays(number: int) -> Iterator[Any]:
    """Yield shared arrays of the worker's own, and drop them at once."""
    import snakepit

    for each in range(number):
        array = snakepit.shared_array(10, "i8", writable=True)
        array[:] = each
        yield array


def lines_of(log: Log) -> Any:
    return open(log.path)


def gated(gates: list[Gate]) -> Iterator[int]:
    """Yield a number after each gate."""
    for number, gate in enumerate(gates):
        gate.wait()
        yield number


def noting(log: Log, number: int) -> Iterator[int]:
    """Yield numbers, and log each before it is yielded."""
    for each in range(number):
        log.add(each)
        yield each


def fork_in_the_middle() -> Iterator[int]:
    yield os.getpid()
    os.fork()
    yield os.getpid()


async def asynchronous() -> AsyncIterator[int]:
    yield 1


def returns_asynchronous() -> Any:
    return asynchronous()


def returns_number() -> Any:
    return 7


def pid() -> int:
    return os.getpid()
