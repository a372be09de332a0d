"""How long does one no-op call take, there and back? The next begins when the last has ended."""

from benches import work
from benches.suite import POOLS, Bench, Run, runs


@runs(POOLS, ["no-op"])
def test_round_trip(bench: Bench, run: Run) -> None:
    call = bench.pool().call
    bench.rounds(lambda: call(work.noop), seconds=1.2, least=100, warm=100, warm_seconds=0.4)
