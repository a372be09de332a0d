"""What does supervision cost the calls? No-ops under everything that watches, against nothing.

Two workers, one caller. The first pool looks at no worker and replaces none; the second has
heartbeats, and limits of age, of calls and of memory. Rounds alternate, so that what else the
machine does hits both. Two pools alike differ by 5 % in how their memory lies, for as long as they
live, so there are many pairs; the figure is the median of their ratios of medians. As many pairs of
pools that are alike show what such a figure is worth here. What no option turns off (the stop word
of each call, the autopsy's recording) is in all.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import snakepit

PAIRS = 25
ROUNDS = 10  # a pair
CALLS = 2_000  # a round and pool, each way
WARM_UP = 200
BAR = 1.03

UNWATCHED: dict[str, Any] = {"heartbeat_interval": None}
WATCHED: dict[str, Any] = {
    "heartbeat_interval": 1.0,
    "worker_ttl": "1h",
    "worker_max_requests": 1_000_000_000,
    "memory_threshold_mb": 4096,
}


def _seconds(executor: snakepit.Executor) -> tuple[float, float]:
    """Return seconds a call, one by one and all at once."""
    for _ in range(WARM_UP):
        executor.submit(int).result()
    began = time.perf_counter()
    for _ in range(CALLS):
        executor.submit(int).result()
    between = time.perf_counter()
    for future in [executor.submit(int) for _ in range(CALLS)]:
        future.result()
    return (between - began) / CALLS, (time.perf_counter() - between) / CALLS


def _compare(turned: bool, watched: dict[str, Any]) -> list[tuple[float, float]]:
    """Return seconds a call without and under `watched`, one by one and all at once."""
    took: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    options = {False: UNWATCHED, True: watched}
    with (
        snakepit.Executor(2, **options[turned]) as first,
        snakepit.Executor(2, **options[not turned]) as second,
    ):
        first.wait_ready()
        second.wait_ready()
        pools = [(turned, first), (not turned, second)]
        for number in range(ROUNDS):
            for under, pool in pools if number % 2 else reversed(pools):
                took[under].append(_seconds(pool))
    return [
        (statistics.median(each[way] for each in took[False]),
         statistics.median(each[way] for each in took[True]))
        for way in (0, 1)
    ]  # fmt: skip


def main() -> int:
    """Measure, print, and return 1 if the bar is missed."""
    pairs = [_compare(number % 2 == 1, WATCHED) for number in range(PAIRS)]
    alike = [_compare(number % 2 == 1, UNWATCHED) for number in range(PAIRS)]
    missed = 0
    for way, name in enumerate(("one by one", "all at once")):
        ratio, control = (
            statistics.median(pair[way][1] / pair[way][0] for pair in each)
            for each in (pairs, alike)
        )
        print(
            f"no-ops {name}, watched against unwatched: {ratio:.3f} (bar: {BAR}); pools alike: "
            f"{control:.3f}"
        )
        missed += ratio > BAR
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
