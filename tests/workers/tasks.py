"""What the tests of workers of several threads run there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import snakepit
from tests.executor.tasks import Gate, Log

HERE = threading.local()
STARTS: list[int] = []


def whereabouts(started: Gate | None = None, release: Gate | None = None) -> tuple[int, int]:
    """Return the process and the thread, after `release` if that is given."""
    if started is not None:
        started.open()
    if release is not None:
        release.wait()
    return os.getpid(), threading.get_ident()


def claims_of_my_lane() -> tuple[int, bool]:
    """Return the number of this thread's lane, and whether that runs a task of ours."""
    from snakepit.worker.context import lane_here

    lane = lane_here()
    assert lane is not None
    return lane.index, lane.claimed_ns <= time.monotonic_ns()


def note_start() -> None:
    """As an initializer: remember the thread."""
    STARTS.append(threading.get_ident())


def starts() -> tuple[int, int, bool]:
    """Return the process, how often its initializer ran, and whether this is another thread."""
    return os.getpid(), len(STARTS), threading.get_ident() not in STARTS


def count_here() -> tuple[int, int, int]:
    """Count the calls of this thread in a thread-local."""
    HERE.count = getattr(HERE, "count", 0) + 1
    return os.getpid(), threading.get_ident(), HERE.count


def sleep_through(started: Gate, seconds: float = 60.0) -> None:
    """Sleep in one system call, which no exception left with the thread ends."""
    started.open()
    time.sleep(seconds)


def spin_until_interrupted(started: Gate, log: Log) -> None:
    """Run Python code until TaskInterrupt comes, and say so."""
    started.open()
    try:
        while True:
            pass
    except snakepit.TaskInterrupt:
        log.add("interrupted")
        raise


def watch_for_interrupts(started: Gate, release: Gate) -> str:
    """Run Python code until `release`; tell whether anything was raised meanwhile."""
    started.open()
    try:
        while not release.is_open():
            pass
    except BaseException as error:
        return type(error).__name__
    return "undisturbed"


def wait_together(pids: list[Gate], mine: int) -> int:
    """Open one gate, wait for all: returns only if all of these tasks run at once."""
    pids[mine].open()
    for gate in pids:
        gate.wait()
    return os.getpid()


def wait_for_nested(depth: int) -> int:
    """Wait for two tasks of the same kind, down to `depth`."""
    if depth == 0:
        return 1
    pool = snakepit.current_pool()
    future = pool.submit(wait_for_nested, depth - 1)
    return int(future.result() + sum(pool.map(wait_for_nested, [depth - 1])))


def wait_for_a_task_that_waits(started: Gate, release: Gate) -> Any:
    return snakepit.current_pool().submit(whereabouts, started, release).result()


def stop_with_child(started: Gate, log: Log) -> None:
    """Start a child and wait for its end in Python code."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    log.add(child.pid)
    started.open()
    while child.poll() is None:
        pass


def child_until(started: Gate, release: Gate, log: Log) -> bool:
    """Start a child, wait for `release`; return whether the child still runs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    log.add(child.pid)
    started.open()
    release.wait()
    alive = child.poll() is None
    child.kill()
    child.wait()
    return alive


def die(started: Gate, release: Gate) -> None:
    started.open()
    release.wait()
    os.kill(os.getpid(), signal.SIGKILL)


def cancelled_seen(started: Gate, release: Gate) -> bool:
    """Wait for `release` or the flag; return whether the flag was up."""
    started.open()
    while not release.is_open():
        if snakepit.cancelled():
            return True
        time.sleep(0.002)
    return snakepit.cancelled()


def spin_for(turns: int) -> int:
    """Pure Python work."""
    total = 0
    for number in range(turns):
        total += number & 3
    return total
