"""What does a variable of the session cost in a worker, and a host tool, beside one no-op call?

Each is measured in the worker itself, in the same run as the call and one after the other.
"""

import time
from collections.abc import Callable
from typing import Any

from benches import work
from benches.suite import Bench, Run, runs

CALL = "no-op call"
CACHED, ASKED, SET, TOOL = "get, cached", "get, asked for", "set", "host tool"
CASES = (CALL, CACHED, ASKED, SET, TOOL)
ROUNDS = 2_000


def noop() -> None:
    """What the host tool does."""


def spend_in_worker(case: str) -> list[float]:
    """Return how long each round took, in seconds."""
    import snakepit

    session: Any = snakepit.current_session()
    session.cache_ttl = 5 if case == CACHED else 0
    way: Callable[[], Any] = {
        CACHED: lambda: session.get_variable("x"),
        ASKED: lambda: session.get_variable("x"),
        SET: lambda: session.set_variable("x", 1),
        TOOL: lambda: session.call_tool("noop"),
    }[case]
    rounds = ROUNDS // 5 if case == TOOL else ROUNDS
    # A cached get is too short for the clock.
    repeat = 100 if case == CACHED else 1
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(repeat):
            way()
        times.append((time.perf_counter() - begun) / repeat)
    return times


@runs(["snakepit"], CASES, cases_inside=True)
def test_sessions(bench: Bench, run: Run) -> None:
    peer = bench.pool(1)
    if run.case == CALL:
        bench.rounds(lambda: peer.call(work.noop), seconds=1.0, least=100, warm=100)
        return
    executor = peer._executor
    if not executor.session("bench").list_variables("x"):
        executor.session("bench").register_variable("x", "integer", 1)
        executor.register_tool("bench", "noop", noop)
    view = executor.options(session="bench")
    view.submit(spend_in_worker, run.case).result()
    bench.values(lambda: view.submit(spend_in_worker, run.case).result())
