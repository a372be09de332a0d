"""How many no-op calls a second: 20,000 are submitted, then their results are gathered."""

from benches import work
from benches.suite import POOLS, QUICK, Bench, Run, runs


@runs(POOLS, ["no-op"])
def test_submit_then_gather(bench: Bench, run: Run) -> None:
    pool = bench.pool()
    count = 20_000
    if pool.slow:
        count = 2_000
        bench.note(f"{count:,} tasks")
    if QUICK:
        count //= 10
    pool.gather(work.noop, 500)
    bench.rounds(
        lambda: pool.gather(work.noop, count),
        seconds=1.0,
        least=1,
        most=10,
        per=count,
        warm=0,
        warm_seconds=0.01,
    )
