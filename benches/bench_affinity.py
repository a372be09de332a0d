"""What does a session cost? Calls of 10,000 sessions over 2 workers, one after the other.

Sessions are begun one after the other, too, and called once before. With one worker, the worker of
a session is never asleep while another is awake: that shows what the bookkeeping costs.

What is compared differs by less than the machine's pace does from one second to the next. So each
kind of session is measured in turn with calls of none in the same pool, each time for as long as
all its sessions take.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

from benches import work
from benches.suite import QUICK, WORKERS, Bench, Run, runs

SESSIONS = 1_000 if QUICK else 10_000
CALLS = 100  # a round
TURNS = 1 if QUICK else 10
KINDS = ("hint", "strict", "strict, one worker")
CASES = tuple(case for kind in KINDS for case in (f"none beside {kind}", kind))


def views(pool: Any, case: str) -> Iterator[Any]:
    """Return the views of the sessions of a case, over and over."""
    if case not in KINDS:
        return itertools.repeat(pool.view())
    affinity = "hint" if case == "hint" else "strict_queue"
    return itertools.cycle(
        [pool.view(session=f"user {n}", affinity=affinity) for n in range(SESSIONS)]
    )


def call(turn: Iterator[Any], count: int) -> None:
    """Call so many sessions, each when the one before has answered."""
    for view in itertools.islice(turn, count):
        view.submit(work.noop).result()


def measure(pool: Any, cases: tuple[str, ...]) -> dict[str, list[float]]:
    """Return the seconds that a call took in each round of each case."""
    turns = {case: views(pool, case) for case in cases}
    for turn in turns.values():
        call(turn, SESSIONS)
    times: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(TURNS):
        for case, turn in turns.items():
            for _ in range(SESSIONS // CALLS):
                begun = time.perf_counter()
                call(turn, CALLS)
                times[case].append((time.perf_counter() - begun) / CALLS)
    return times


measured: dict[str, list[float]] = {}  # in the present sweep


@runs(("snakepit",), CASES, sweeps=8)
def test_affinity(bench: Bench, run: Run) -> None:
    if run.case not in KINDS:
        # A pool of its own: what an earlier kind of session has left in one would be measured, too.
        bench.close_pool()
        pool = bench.pool(1 if run.case.endswith("one worker") else WORKERS)
        kind = run.case.removeprefix("none beside ")
        measured.update(measure(pool, (run.case, kind)))
    bench.values(lambda: measured[run.case])
