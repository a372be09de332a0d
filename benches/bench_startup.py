"""How soon are 2, 16, 100 workers ready, with numpy imported? Every one has answered a call."""

from benches import probe
from benches.peers import PEERS
from benches.suite import PRELOADERS, QUICK, Bench, Run, runs


def _peers(workers: int) -> list[str]:
    return [key for key in PRELOADERS if workers <= PEERS[key].most_workers]


def _start(bench: Bench, run: Run, workers: int) -> None:
    bench.values(lambda: [probe.run("start", run.peer, workers)["seconds"]])


@runs(_peers(2), ["2 workers"])
def test_2_workers(bench: Bench, run: Run) -> None:
    _start(bench, run, 2)


@runs(_peers(16), ["16 workers"], sweeps=2)
def test_16_workers(bench: Bench, run: Run) -> None:
    _start(bench, run, 16)


# The smoke run leaves it out: some peers need a quarter of a minute.
if not QUICK:

    @runs(_peers(100), ["100 workers"], sweeps=2)
    def test_100_workers(bench: Bench, run: Run) -> None:
        _start(bench, run, 100)
