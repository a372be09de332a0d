"""What does it cost to hand over an array that lies in shared memory already, by its size?"""

import numpy as np

from benches import work
from benches.suite import MB, QUICK, Bench, Run, runs

SIZES = {"1 MB": MB, "64 MB": 64 * MB, "1 GB": 1024 * MB}


@runs(["snakepit", "ray"], list(SIZES))
def test_hand_over(bench: Bench, run: Run) -> None:
    pool, nbytes = bench.pool(), SIZES[run.case]
    if run.peer == "ray":
        array = pool.put(np.ones(nbytes // 8))
        bench.note("by reference, after put")
    else:
        array = pool.shared_array(nbytes)
        bench.note("snakepit.shared_array")
    call = pool.call
    value = bench.rounds(
        lambda: call(work.peek, array),
        seconds=0.5,
        least=20,
        most=5_000,
        warm=20,
        warm_seconds=0.1 if QUICK else 0.3,
    )
    assert value == 2.0
