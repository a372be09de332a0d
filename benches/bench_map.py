"""How many tiny calls a second through map()?

Each peer with its best chunk size, Snakepit without one. The best chunk size is looked for here, in
the same run. multiprocessing.Pool.imap also runs with chunks of 256.
"""

import time
from collections.abc import Sequence
from typing import Any

from benches import work
from benches.suite import QUICK, Bench, Run, runs

ITEMS = 40_000 if QUICK else 200_000
FIXED = "chunks of 256"
BEST = "best chunk size"

_best: dict[str, int] = {}


def _consume(pool: Any, items: Sequence[int], chunk: int) -> None:
    expected = len(items) * (len(items) + 1) // 2
    if sum(pool.map(work.increment, items, chunk)) != expected:
        raise AssertionError("map returned wrong values")


def _best_chunk(pool: Any) -> int:
    """Return the quickest of the peer's chunk sizes, tried over a quarter of the items."""
    times: dict[int, float] = {}
    for chunk in pool.chunks:
        begun = time.perf_counter()
        _consume(pool, range(ITEMS // 4), chunk)
        times[chunk] = time.perf_counter() - begun
    return min(times, key=lambda chunk: times[chunk])


@runs(
    ["snakepit", "ppe", "pool", "loky", "pebble", "mpire", "threads"],
    [BEST, FIXED],
    cases_inside=True,
    where=lambda peer, case: case == BEST or peer == "pool",
)
def test_map(bench: Bench, run: Run) -> None:
    pool, count = bench.pool(), ITEMS
    if pool.chunks == (0,):
        chunk = 0
        bench.note("no chunk size given")
        if run.peer == "threads":
            count //= 10
            bench.note(f"no chunks, {count:,} items")
    elif run.case == FIXED:
        chunk = 256
    else:
        chunk = _best.get(run.peer) or _best_chunk(pool)
        _best[run.peer] = chunk
        bench.note(f"best: {chunk}")
    items = range(count)
    bench.rounds(
        lambda: _consume(pool, items, chunk),
        seconds=1.0,
        least=2,
        most=10,
        per=count,
        warm=1,
        warm_seconds=0,
    )
