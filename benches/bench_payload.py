"""How does the round trip of a no-op grow with its argument, bytes of 10 B to 1 MB?"""

from benches import work
from benches.suite import POOLS, Bench, Run, runs

SIZES = {
    "10 B": 10,
    "100 B": 100,
    "1 kB": 1_000,
    "10 kB": 10_000,
    "100 kB": 100_000,
    "1 MB": 1_000_000,
}


@runs(POOLS, list(SIZES), sweeps=2, cases_inside=True)
def test_bytes(bench: Bench, run: Run) -> None:
    call, data = bench.pool().call, b"x" * SIZES[run.case]
    bench.rounds(
        lambda: call(work.noop, data), seconds=0.25, least=20, most=5_000, warm=20, warm_seconds=0.1
    )
