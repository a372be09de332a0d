"""How long does a fault take capacity away: a killed worker, a task that must be stopped?"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from itertools import repeat

import snakepit

ROUNDS = 40
STOPS = 8


def stuck() -> None:
    """Hold the GIL in C, for ever."""
    sum(repeat(0))


def asleep() -> None:
    """Sleep."""
    time.sleep(600)


def ignoring() -> None:
    """Hold the GIL in C, in a worker that ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sum(repeat(0))


def measure_replacement() -> int:
    """Print the time from SIGKILL of a worker to the next result from its replacement."""
    took = []
    with snakepit.Executor(1) as executor:
        executor.wait_ready()
        for _ in range(ROUNDS):
            pid = executor.submit(os.getpid).result()
            begun = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            while True:
                try:
                    # The first calls may still meet the worker that is dying.
                    if executor.submit(os.getpid).result() != pid:
                        break
                except snakepit.errors.WorkerCrashedError:
                    continue
            took.append((time.perf_counter() - begun) * 1000)
    took.sort()
    print(
        f"SIGKILL to the replacement's first result: p50 {statistics.median(took):.1f} ms, "
        f"worst of {len(took)} {took[-1]:.1f} ms"
    )
    return int(statistics.median(took) > 30)


def measure_capacity() -> int:
    """Print the time from a stop or a deadline until the worker's place is filled again."""
    graces = snakepit.Graces()
    asked = graces.flag
    ended = graces.flag + graces.interrupt
    killed = ended + graces.terminate
    missed = 0
    cases: list[tuple[str, Callable[[], None], float]] = [
        ("asleep", asleep, asked),
        ("stuck in C", stuck, ended),
        ("stuck in C, ignores SIGTERM", ignoring, killed),
    ]
    for name, task, grace in cases:
        for how in ("stop", "deadline"):
            took = []
            with snakepit.Executor(1) as executor:
                executor.wait_ready()
                took += [(_time_of_stop(executor, task, how) - grace) * 1000 for _ in range(STOPS)]
            middle = statistics.median(took)
            missed += middle > 50
            print(
                f"{name}, {how}: capacity back {middle:.1f} ms beyond the grace times "
                f"({grace:g} s), worst of {len(took)} {max(took):.1f} ms"
            )
    return int(missed > 0)


def _time_of_stop(executor: snakepit.Executor, task: Callable[[], None], how: str) -> float:
    if how == "stop":
        future = executor.submit(task)
        while not future.running():
            time.sleep(0.001)
        time.sleep(0.02)  # until it is well inside
        begun = time.monotonic()
        future.stop()
    else:
        begun = time.monotonic() + 0.1
        executor.options(timeout=0.1).submit(task)
    executor.submit(pow, 2, 3).result()
    return time.monotonic() - begun
