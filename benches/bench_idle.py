"""How much CPU does a pool of 16 workers use when it has nothing to do?

Of the owner, the workers and their helper processes, in percent of one core.
"""

from benches import probe
from benches.suite import PROCESS_POOLS, QUICK, Bench, Run, runs

WINDOW = 2.0 if QUICK else 10.0


@runs(PROCESS_POOLS, ["16 workers"], sweeps=1)
def test_idle(bench: Bench, run: Run) -> None:
    bench.values(lambda: [probe.run("idle", run.peer, 16, WINDOW)["percent"]], unit="%")
