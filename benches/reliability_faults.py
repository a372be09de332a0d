"""How long does a fault take capacity away: a killed worker, a task that must be stopped?"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from itertools import repeat

import snakepit
from benches.reliability_recycling import paced, quantile
from snakepit.testing import kill_worker

ROUNDS = 40
STOPS = 8
PAIRS = 5  # rounds of each kind, alternating
SECONDS = 4.0  # a round
KILL_EVERY = 0.5  # seconds
NEIGHBOURS_BAR = 1.2


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


def measure_neighbours() -> int:
    """Print p99 of the calls of one worker, with the other killed every half second and without."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    kills = lost = 0
    for _ in range(PAIRS):
        for kind, times in found.items():
            with snakepit.Executor(2) as executor:
                executor.wait_ready()
                steady = SteadyCaller(executor)
                steady.call(1.0)
                enough = threading.Event()
                killer = threading.Thread(target=steady.kill_others, args=(enough,))
                if kind == "with":
                    killer.start()
                try:
                    took = steady.call(SECONDS)
                finally:
                    enough.set()
                if kind == "with":
                    killer.join()
            times.append(quantile(took, 0.99))
            kills, lost = kills + steady.kills, lost + steady.lost
    p99 = {kind: statistics.median(times) for kind, times in found.items()}
    ratio = p99["with"] / p99["without"]
    print(
        f"{kills} times the other worker was killed: p99 of this one's calls "
        f"{p99['with']:.0f} us, without {p99['without']:.0f} us, ratio {ratio:.2f} "
        f"(bar: {NEIGHBOURS_BAR}); {lost} calls met a killed worker"
    )
    return int(ratio > NEIGHBOURS_BAR)


class SteadyCaller:
    """Calls at a steady rate, which one warm worker serves; and kills the other."""

    def __init__(self, executor: snakepit.Executor) -> None:
        self.executor = executor
        self.kills = 0
        self.lost = 0  # calls that met a killed worker after all
        self._pid = 0  # of the worker that served last

    def call(self, seconds: float) -> list[float]:
        """Call for some seconds; return what each call took, in microseconds."""
        took = []
        clock = time.perf_counter
        for _ in paced(seconds):
            before = clock()
            try:
                self._pid = self.executor.submit(os.getpid).result()
            except snakepit.errors.WorkerCrashedError:
                self.lost += 1
                continue
            took.append((clock() - before) * 1e6)
        return took

    def kill_others(self, enough: threading.Event) -> None:
        """Kill whoever does not serve, every now and then."""
        while not enough.wait(KILL_EVERY):
            for pid in self.executor.worker_pids():
                if pid != self._pid:
                    with contextlib.suppress(ProcessLookupError, ValueError):
                        kill_worker(self.executor, pid)
                        self.kills += 1


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
