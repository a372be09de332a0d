"""How long does the import take, in a fresh interpreter whose bytecode is cached?"""

import subprocess
import sys
from collections.abc import Sequence

from benches.peers import PEERS as REGISTRY
from benches.suite import QUICK, Bench, Run, chosen, runs

# A package may import its parts only when they are used: so also with the pool's class.
STANDARD = (
    "import concurrent.futures",
    "from concurrent.futures import ProcessPoolExecutor",
)
SNAKEPIT = (
    "import snakepit",
    "from snakepit import Executor",
    "import concurrent.futures, snakepit; snakepit.Executor",
)
PEERS = ("loky", "pebble", "mpire", "ray", "dask")

ROUNDS = 3 if QUICK else 7


def _statements() -> list[str]:
    own = SNAKEPIT if chosen(["snakepit"]) else ()
    return [*STANDARD, *own, *(f"import {REGISTRY[key].module}" for key in chosen(PEERS))]


def _times(statement: str) -> Sequence[float]:
    """Return the seconds that it takes in `ROUNDS` fresh interpreters, after one not counted."""
    code = (
        f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun)"
    )
    command = [sys.executable, "-c", code]
    outputs = [subprocess.check_output(command, text=True) for _ in range(ROUNDS + 1)]
    return [float(output) for output in outputs[1:]]


@runs([], ["import"], limits=_statements())
def test_import(bench: Bench, run: Run) -> None:
    bench.values(lambda: _times(run.peer))
