"""What do threads give: two of a worker against one, and `local` against ThreadPoolExecutor?

The same pieces of work are run by one thread and by two. Pure Python runs at once on free-threaded
builds alone; numpy gives the GIL away, so that its work runs at once on others as well.
"""

import importlib.util
import sysconfig

from benches import work
from benches.suite import QUICK, Bench, Run, runs

PIECES = 16
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
HAS_NUMPY = importlib.util.find_spec("numpy") is not None

PYTHON = {"pure Python, 1 thread": 1, "pure Python, 2 threads": 2}
NUMPY = {"numpy, 1 thread": 1, "numpy, 2 threads": 2}
SCALERS = ("snakepit-thread", "snakepit-local", "threads")
LOCALS = ("snakepit-local", "threads")


def _pieces(bench: Bench, threads: int, fn: object, size: int) -> None:
    pool = bench.pool(threads)
    bench.rounds(
        lambda: pool.gather(fn, PIECES, size), seconds=2.0, least=3, most=50, per=PIECES, warm=1
    )


if FREE_THREADED:

    @runs(SCALERS, list(PYTHON))
    def test_pure_python(bench: Bench, run: Run) -> None:
        _pieces(bench, PYTHON[run.case], work.count_up, 40_000 if QUICK else 400_000)


if HAS_NUMPY:

    @runs(SCALERS, list(NUMPY))
    def test_numpy(bench: Bench, run: Run) -> None:
        _pieces(bench, NUMPY[run.case], work.multiply, 200 if QUICK else 700)


@runs(LOCALS, ["no-op, there and back"])
def test_round_trip(bench: Bench, run: Run) -> None:
    call = bench.pool().call
    bench.rounds(lambda: call(work.noop), seconds=1.2, least=100, warm=100, warm_seconds=0.4)


@runs(LOCALS, ["no-ops, submitted then gathered"])
def test_submit_then_gather(bench: Bench, run: Run) -> None:
    pool = bench.pool()
    count = 2_000 if QUICK else 20_000
    pool.gather(work.noop, 500)
    bench.rounds(
        lambda: pool.gather(work.noop, count),
        seconds=1.0, least=1, most=10, per=count, warm=0, warm_seconds=0.01,
    )  # fmt: skip
