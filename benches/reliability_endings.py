"""What is left of an owner that is killed, and of pools that come and go.

``python -m benches.reliability_endings owner-killed`` and ``… cycles``.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy
import psutil

import snakepit

ROUNDS = 10
CYCLES = 1000
WARM = 50  # cycles after which what is made once has been made
ARENA_BYTES = 1 << 30
MARK = "SNAKEPIT_BENCH_RUN"
GONE_BAR = 1000.0  # milliseconds after which nothing of a killed owner is left
GIVE_UP = 10.0  # seconds
GROWTH_BAR = 2.0  # MB in all cycles; no descriptor and no thread may be left


def work(array: object, path: str) -> None:
    """Leave two grandchildren, one in a session of its own, and be stuck in C."""
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(path).touch()
    sum(range(10**13))


def own(folder: str) -> None:
    """Be the owner: two busy workers with grandchildren, and 1 GB in the arena."""
    executor = snakepit.Executor(2)
    array = snakepit.share(numpy.ones(ARENA_BYTES, numpy.uint8))
    paths = [f"{folder}/{uuid.uuid4().hex}" for _ in range(2)]
    for path in paths:
        executor.submit(work, array, path)
    while not all(map(os.path.exists, paths)):
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(600)


def shared_megabytes() -> float:
    """Shared memory of the whole machine (Shmem), in MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) / 1024
    return 0.0


def marked(mark: str) -> list[int]:
    """The living processes that carry a mark in their environment."""
    found = []
    for pid in psutil.pids():
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def measure_owner_killed(folder: str) -> int:
    """Print, for some owners, the milliseconds from SIGKILL until all is gone.

    Returns 1 if that took longer than the bar once.
    """
    worst = 0.0
    for _ in range(ROUNDS):
        before = shared_megabytes()
        mark = uuid.uuid4().hex
        owner = subprocess.Popen(
            [sys.executable, "-m", "benches.reliability_endings", "own", folder],
            env={**os.environ, MARK: mark},
            stdout=subprocess.PIPE,
        )
        assert owner.stdout is not None
        assert owner.stdout.readline()
        processes, held = len(marked(mark)), shared_megabytes() - before
        owner.kill()
        begun = time.monotonic()
        owner.wait()
        while marked(mark) and time.monotonic() - begun < GIVE_UP:
            time.sleep(0.001)
        gone = (time.monotonic() - begun) * 1000
        while shared_megabytes() - before > held / 20 and time.monotonic() - begun < GIVE_UP:
            time.sleep(0.001)
        back = (time.monotonic() - begun) * 1000
        print(
            f"{processes} processes gone after {gone:.0f} ms; "
            f"{held:.0f} MB of shared memory back after {back:.0f} ms",
            flush=True,
        )
        owner.stdout.close()
        worst = max(worst, back)
    print(f"worst of {ROUNDS}: {worst:.0f} ms (bar: {GONE_BAR:.0f})")
    return int(worst > GONE_BAR)


def holdings() -> tuple[int, int, float]:
    """Descriptors, threads, and private memory in MB."""
    gc.collect()
    # A pool may have ended an instant before its last thread has.
    soon = time.monotonic() + 1
    while threading.active_count() > 1 and time.monotonic() < soon:
        time.sleep(0.001)
    process = psutil.Process()
    return process.num_fds(), threading.active_count(), process.memory_full_info().uss / 1e6


def measure_cycles(cycles: int) -> int:
    """Print what this process holds as pools start and stop in it; 1 if it holds more and more."""
    first = holdings()
    for number in range(1, cycles + 1):
        with snakepit.Executor(2) as executor:
            assert executor.submit(pow, 2, 3).result() == 8
        if number == WARM:
            first = holdings()
        if number % 100 == 0 or number == WARM:
            now = holdings()
            print(
                f"{number} cycles: {now[0]} descriptors, {now[1]} threads, {now[2]:.2f} MB",
                flush=True,
            )
    last = holdings()
    print(
        f"growth from cycle {WARM} to {cycles}: {last[0] - first[0]} descriptors, "
        f"{last[1] - first[1]} threads, {last[2] - first[2]:+.2f} MB (bars: 0, 0, {GROWTH_BAR:g})"
    )
    return int(last[0] > first[0] or last[1] > first[1] or last[2] - first[2] > GROWTH_BAR)


def main() -> None:
    """Run what the command line names."""
    match sys.argv[1:]:
        case ["own", folder]:
            own(folder)
        case ["owner-killed"]:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                sys.exit(measure_owner_killed(folder))
        case ["cycles", *count]:
            sys.exit(measure_cycles(int(count[0]) if count else CYCLES))
        case _:
            sys.exit("usage: python -m benches.reliability_endings owner-killed | cycles [N]")


if __name__ == "__main__":
    main()
