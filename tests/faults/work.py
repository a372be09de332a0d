"""The tasks of the fault harness: each counts its executions where the harness can read them."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import snakepit

VARIABLE = "SNAKEPIT_FAULTS_COUNTS"
SIZE = 1 << 22
LONG = 60.0  # seconds, after which what should have come will not come
_counts: mmap.mmap | None = None


def counts() -> mmap.mmap:
    """Return the shared counters, one byte a task; mapped when first asked for."""
    global _counts
    if _counts is None:
        descriptor = os.open(os.environ[VARIABLE], os.O_RDWR)
        _counts = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)
    return _counts


def make_counts() -> str:
    """Make the counters of this process and of the workers that it starts; returns their file."""
    descriptor, path = tempfile.mkstemp(prefix="snakepit-counts-")
    os.ftruncate(descriptor, SIZE)
    os.close(descriptor)
    os.environ[VARIABLE] = path
    return path


def note(index: int) -> None:
    """Count one execution of a task. No two processes run one task, unless something is wrong."""
    seen = counts()
    seen[index % SIZE] = min(seen[index % SIZE] + 1, 255)


class TaskError(Exception):
    """What tasks raise on purpose."""


def square(index: int, number: int) -> int:
    note(index)
    return number * number


def pause(index: int, seconds: float) -> float:
    note(index)
    time.sleep(seconds)
    return seconds


def work_for(index: int, seconds: float) -> float:
    """Keep a CPU busy, asking now and then whether to stop."""
    note(index)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not snakepit.cancelled():
        sum(range(200))
    return seconds


def echo(index: int, value: Any) -> Any:
    note(index)
    return value


def double(index: int, array: Any) -> Any:
    note(index)
    return array * 2


def length(index: int, array: Any) -> int:
    note(index)
    return len(array)


def make(index: int, size: int, value: int) -> Any:
    """Return a new array of `size` bytes."""
    note(index)
    return np.full(size, value, np.uint8)


def raise_error(index: int, text: str) -> None:
    note(index)
    raise TaskError(text)


def tree(index: int, depth: int, step: int = 0) -> int:
    """Run two tasks of its own, each with as many levels as are left; returns how many ran.

    `step`: from one counter to the next; 0: only the first of them is counted.
    """
    if index:
        note(index)
    if depth == 0:
        return 1
    pool = snakepit.current_pool()
    indexes = [index + step, index + (step << depth)] if step else [0, 0]
    children = [pool.submit(tree, each, depth - 1, step) for each in indexes]
    return 1 + sum(int(child.result(60)) for child in children)


def tree_of_arrays(index: int, size: int) -> int:
    """Send an array to a task of its own and get it back; returns its sum."""
    note(index)
    pool = snakepit.current_pool()
    futures = [pool.submit(double, 0, np.full(size, 1, np.uint8)) for _ in range(2)]
    try:
        return sum(int(future.result(60).sum(dtype=np.int64)) for future in futures)
    finally:
        # An error of one refers to this frame, which would keep the other's array.
        del futures


def meet(path: str, name: int, others: int) -> int:
    """Wait until as many workers as `others` stand here at once; returns this one's pid."""
    with open(os.path.join(path, str(name)), "w") as file:
        file.write("")
    gc.collect()
    end = time.monotonic() + 30
    while len(os.listdir(path)) < others:
        if time.monotonic() > end:
            raise TimeoutError(f"{len(os.listdir(path))} of {others} came")
        time.sleep(0.0005)
    return os.getpid()


def ask(index: int, number: int) -> int:
    """Have a number doubled by the owner, and look at two variables on the way."""
    note(index)
    session = _session()
    session.set_variable("number", number)
    session.get_variable("number")
    array = session.get_variable("array")
    assert array.shape == (20_000,)
    return int(session.call_tool("double", number))


def ask_once(index: int) -> int:
    """Have the owner count the question, and return what it answers."""
    note(index)
    session = snakepit.current_session()
    assert session is not None
    return int(session.call_tool("hear", index))


def leave_child(index: int, alone: bool) -> bool:
    """Start a process and leave it behind, `alone`: in a session of its own."""
    note(index)
    child = subprocess.Popen(["sleep", "600"], start_new_session=alone)
    # Whoever ends this process ends it.
    child.returncode = 0
    return True


def ask_in_threads(index: int, count: int) -> int:
    """Ask from several threads at once; returns how many had an answer."""
    note(index)
    session = _session()
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda: answers.append(session.get_variable("array")))
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(answers)


def ask_with_array(index: int, array: Any) -> bool:
    """Send the owner an array, and get one back."""
    note(index)
    session = _session()
    session.set_variable("array", array)
    return bool(session.call_tool("double", array).sum() == array.sum() * 2)


def chunk_of(kind: str, number: int) -> Any:
    """Return the chunk with a number, of a stream of that kind."""
    if kind == "numbers":
        return number
    if kind == "texts":
        return bytes([number % 256]) * 9_000
    return np.full(20_000, number % 256, np.uint8)


def chunks(index: int, kind: str, count: int, every: int, seconds: float) -> Iterator[Any]:
    """Yield so many chunks, with a rest before each `every`-th one."""
    note(index)
    for number in range(count):
        if every and number % every == 0:
            time.sleep(seconds)
        yield chunk_of(kind, number)


def chunks_and_death(index: int, count: int, spared: int) -> Iterator[Any]:
    """Yield so many arrays and be killed; the process `spared` ends as it should."""
    yield from chunks(index, "arrays", count, 0, 0.0)
    if os.getpid() != spared:
        os.kill(os.getpid(), signal.SIGKILL)


def _session() -> Any:
    session = snakepit.current_session()
    assert session is not None
    session.cache_ttl = 0
    return session
