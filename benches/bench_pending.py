"""Does a task cost more when many wait? 10^2 to 10^6 no-ops are submitted, then gathered."""

from benches import work
from benches.suite import POOLS, QUICK, Bench, Run, runs

COUNTS = {f"{count:,}": count for count in (100, 1_000, 10_000, 100_000, 1_000_000)}
# What a peer does in about half a minute.
MOST = {"snakepit": 1_000_000, "ray": 10_000, "dask": 1_000}
MOST_ELSEWHERE = 100_000
MOST_QUICK = {"snakepit": 100_000, "dask": 100}
MOST_QUICK_ELSEWHERE = 1_000


def _most(peer: str) -> int:
    if QUICK:
        return MOST_QUICK.get(peer, MOST_QUICK_ELSEWHERE)
    return MOST.get(peer, MOST_ELSEWHERE)


@runs(
    POOLS,
    list(COUNTS),
    sweeps=1,
    cases_inside=True,
    where=lambda peer, case: COUNTS[case] <= _most(peer),
)
def test_pending(bench: Bench, run: Run) -> None:
    count = COUNTS[run.case]
    pool = bench.pool()
    pool.gather(work.noop, 100)
    bench.rounds(
        lambda: pool.gather(work.noop, count),
        seconds=0.5,
        least=1,
        most=50,
        per=count,
        warm=1 if count <= 10_000 else 0,
        warm_seconds=0,
    )
