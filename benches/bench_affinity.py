"""What does a session cost? Calls of 10,000 sessions over 2 workers, one after the other.

Sessions are begun one after the other, too, and called once before. With one worker, the worker of
a session is never asleep while another is awake: that shows what the bookkeeping costs.
"""

import itertools
from collections.abc import Iterator
from typing import Any

from benches import work
from benches.suite import QUICK, Bench, Run, runs

SESSIONS = 1_000 if QUICK else 10_000
CALLS = 100  # a round
CASES = ("no session", "hint", "strict", "no session, one worker", "strict, one worker")


def views(pool: Any, case: str) -> Iterator[Any]:
    """Return the views of the sessions of a case, over and over."""
    if case.startswith("no session"):
        return itertools.repeat(pool.view())
    affinity = "hint" if case == "hint" else "strict_queue"
    return itertools.cycle(
        [pool.view(session=f"{case} {n}", affinity=affinity) for n in range(SESSIONS)]
    )


@runs(("snakepit",), CASES, sweeps=5)
def test_affinity(bench: Bench, run: Run) -> None:
    pool = bench.pool(1 if run.case.endswith("one worker") else 2)
    turn = views(pool, run.case)

    def call(count: int = CALLS) -> None:
        for _ in range(count):
            next(turn).submit(work.noop).result()

    call(SESSIONS)
    bench.rounds(call, seconds=0.8, least=20, per=CALLS)
