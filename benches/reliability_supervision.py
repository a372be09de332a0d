"""What does supervision cost the calls? No-ops under everything that watches, against nothing.

Two workers, one caller. The first pool looks at no worker and replaces none; the second has
heartbeats, and limits of age, of calls and of memory. Rounds alternate, so that what else the
machine does hits both, and the figure is the ratio of the medians. What no option turns off (the
stop word of each call, the autopsy's recording) is in both.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import snakepit

ROUNDS = 100
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


def main() -> int:
    """Measure, print, and return 1 if the bar is missed."""
    unwatched: list[tuple[float, float]] = []
    watched: list[tuple[float, float]] = []
    with snakepit.Executor(2, **UNWATCHED) as bare, snakepit.Executor(2, **WATCHED) as full:
        bare.wait_ready()
        full.wait_ready()
        for number in range(ROUNDS):
            for pool in (bare, full) if number % 2 else (full, bare):
                (unwatched if pool is bare else watched).append(_seconds(pool))
    missed = 0
    for which, name in enumerate(("one by one", "all at once")):
        without = statistics.median(seconds[which] for seconds in unwatched)
        under = statistics.median(seconds[which] for seconds in watched)
        ratio = under / without
        print(
            f"no-ops {name}: {under * 1e6:.2f} us watched, {without * 1e6:.2f} us unwatched: "
            f"{ratio:.3f} (bar: {BAR})"
        )
        missed += ratio > BAR
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
