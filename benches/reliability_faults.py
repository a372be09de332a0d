"""How long does a fault take capacity away: a killed worker, a task that must be stopped?"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

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
    """Print what a worker's calls take with the other killed every half second, and without.

    A replacement has to boot, on processors that the calls need too. So the bar is against rounds
    in which nobody is killed and a stranger computes as much as a replacement does, as often.
    """
    found: dict[str, list[list[float]]] = {"without": [], "with": [], "stranger": []}
    kills = lost = 0
    cost = 0.0
    for _ in range(PAIRS):
        for kind, rounds in found.items():
            with snakepit.Executor(2) as executor:
                executor.wait_ready()
                steady = SteadyCaller(executor)
                steady.call(1.0)
                beside: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
                if kind == "with":
                    beside = steady.killing_others()
                elif kind == "stranger":
                    beside = stranger(cost)
                with beside:
                    rounds.append(steady.call(SECONDS))
            kills, lost = kills + steady.kills, lost + steady.lost
            cost = max(cost, statistics.median(steady.costs or [0.0]))
    half, most = (
        {
            kind: statistics.median(quantile(took, q) for took in each)
            for kind, each in found.items()
        }
        for q in (0.5, 0.99)
    )
    ratio = most["with"] / most["stranger"]
    print(
        f"{kills} times the other worker was killed, and another booted in {cost * 1000:.1f} ms of "
        f"CPU: this one's calls took p50 {half['with']:.0f} us, p99 {most['with']:.0f} us; with "
        f"a stranger that computes as much {half['stranger']:.0f}, {most['stranger']:.0f} us; "
        f"undisturbed {half['without']:.0f}, {most['without']:.0f} us: p99 {ratio:.2f} times that "
        f"beside the stranger (bar: {NEIGHBOURS_BAR}), "
        f"{most['with'] / most['without']:.2f} times undisturbed; {lost} calls met a killed worker"
    )
    return int(ratio > NEIGHBOURS_BAR)


@contextlib.contextmanager
def stranger(seconds: float) -> Iterator[None]:
    """Have a process compute for so long every `KILL_EVERY` seconds."""
    program = f"""
import time
while True:
    time.sleep({KILL_EVERY})
    began = time.process_time()
    while time.process_time() - began < {seconds}:
        pass
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class SteadyCaller:
    """Calls at a steady rate, which one warm worker serves; and kills the other."""

    def __init__(self, executor: snakepit.Executor) -> None:
        self.executor = executor
        self.kills = 0
        self.lost = 0  # calls that met a killed worker after all
        self.costs: list[float] = []  # CPU seconds of each worker that was killed
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

    @contextlib.contextmanager
    def killing_others(self) -> Iterator[None]:
        """Kill whoever does not serve, every now and then."""
        enough = threading.Event()

        def kill() -> None:
            while not enough.wait(KILL_EVERY):
                for pid in self.executor.worker_pids():
                    if pid != self._pid:
                        with contextlib.suppress(OSError, ValueError):
                            # In nanoseconds; what psutil reads counts in hundredths of a second.
                            used, _, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
                            kill_worker(self.executor, pid)
                            self.kills += 1
                            self.costs.append(int(used) / 1e9)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield
        finally:
            enough.set()
            killer.join()


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


def _load() -> None:
    """Nothing: but whoever runs it has imported this module."""


def _time_of_stop(executor: snakepit.Executor, task: Callable[[], None], how: str) -> float:
    # A call that is stopped while its function is imported ends at once.
    executor.submit(_load).result()
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
