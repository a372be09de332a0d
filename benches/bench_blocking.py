"""Do short calls wait behind a long one?

One of two workers is taken for a second; 1,000 no-ops run beside it. The no-ops come in bursts of
ten, so that a pool which hands work to a taken worker in advance shows it. Each one's time is from
its submit() to its callback.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benches import work
from benches.suite import POOLS, QUICK, Bench, Run, runs

BURSTS = 100
BURST = 10
INTERVAL = 0.008
LONG = 1.0

SLEEPING = "a task sleeps"
BURNING = "a task computes"


def _beside(pool: Any, long_task: Callable[[str, float], None], started: Path) -> list[float]:
    """Run the no-ops beside one `long_task`; return their times in seconds."""
    times: list[float] = []

    def settled(begun: float, _: object) -> None:
        times.append(time.perf_counter() - begun)

    long = pool.submit(long_task, str(started), LONG)
    while not started.exists():
        time.sleep(0.001)
    due = time.perf_counter()
    for _ in range(BURSTS):
        time.sleep(max(0.0, due - time.perf_counter()))
        due += INTERVAL
        for _ in range(BURST):
            pool.notify(work.noop, partial(settled, time.perf_counter()))
    while len(times) < BURSTS * BURST:
        time.sleep(0.01)
    long.result()
    started.unlink()
    return times


def _measure(bench: Bench, long_task: Callable[[str, float], None], folder: Path) -> None:
    pool = bench.pool()
    pool.gather(work.noop, 50 if QUICK else 200)
    bench.values(lambda: _beside(pool, long_task, folder / "started"))


@runs(POOLS, [SLEEPING], sweeps=2)
def test_beside_a_sleeping_task(bench: Bench, run: Run, tmp_path: Path) -> None:
    _measure(bench, work.sleep_beside, tmp_path)


@runs(POOLS, [BURNING], sweeps=2)
def test_beside_a_computing_task(bench: Bench, run: Run, tmp_path: Path) -> None:
    _measure(bench, work.burn_beside, tmp_path)
