"""What does a worker take beyond what its adapter's preload() holds, of eight (PSS, in 10^6 B)?

All processes but the owner count, the template with them: what is held once is subtracted once.
"""

from benches import probe, processes
from benches.suite import Bench, Run, runs
from benches.tools import HELD_MB

WORKERS = 8


@runs(["snakepit-tools"], ["8 workers"], sweeps=1)
def test_preload(bench: Bench, run: Run) -> None:
    bench.values(lambda: [_beyond(bench)], unit="MB")


def _beyond(bench: Bench) -> float:
    import snakepit

    with snakepit.Pool("benches.tools:Heavy", pool_size=WORKERS) as pool:
        pool.await_ready(60)
        calls = [pool.submit("read") for _ in range(4 * WORKERS)]
        if {call.result() for call in calls} != {HELD_MB}:
            raise RuntimeError("the workers have lost what was preloaded")
        whole = sum(probe.pss(process.pid) for process in processes.descendants())
    bench.note(f"preload() holds {HELD_MB} MB; all together take {whole:.0f} MB")
    return (whole - HELD_MB) / WORKERS
