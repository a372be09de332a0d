"""How much memory does an idle worker with numpy take: its proportional share (PSS), in 10^6 B?"""

from benches import probe
from benches.suite import PRELOADERS, QUICK, Bench, Run, runs


def _measure(bench: Bench, run: Run, workers: int) -> None:
    def pss() -> list[float]:
        answer = probe.run("memory", run.peer, workers)
        bench.note(f"{workers} with helper processes: {answer['all']:.0f} MB")
        return [answer["worker"]]

    bench.values(pss, unit="MB")


@runs(PRELOADERS, ["2 workers"], sweeps=1)
def test_2_workers(bench: Bench, run: Run) -> None:
    _measure(bench, run, 2)


if not QUICK:

    @runs(PRELOADERS, ["16 workers"], sweeps=1)
    def test_16_workers(bench: Bench, run: Run) -> None:
        _measure(bench, run, 16)
