"""What do making, fetching and deleting a session cost, beside one no-op call of the same run?"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benches import work
from benches.suite import Bench, Run, runs

CALL = "no-op call"
CASES = (CALL, "create", "fetch", "delete")
COUNT = 5_000
IDS = [f"session-{number}" for number in range(COUNT)]


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """A store that holds a few thousand sessions all the time."""
    import snakepit

    with snakepit.SessionStore(2 * COUNT) as store:
        for number in range(COUNT // 2):
            store.create_session(f"other-{number}")
        yield store


@runs(["snakepit"], CASES, cases_inside=True)
def test_session_store(bench: Bench, run: Run, store: Any) -> None:
    if run.case == CALL:
        call = bench.pool().call
        bench.rounds(lambda: call(work.noop), seconds=1.0, least=100, warm=100)
        return
    _timed(bench, run.case, store)


def _timed(bench: Bench, case: str, store: Any) -> None:
    """Time rounds of COUNT sessions; what makes or removes them for the next round is not timed."""

    def spend(function: Callable[[str], Any]) -> float:
        begun = time.perf_counter()
        for name in IDS:
            function(name)
        return (time.perf_counter() - begun) / COUNT

    def measure() -> list[float]:
        times = []
        for _ in range(20):
            made = spend(store.create_session)
            fetched = spend(store.get_session)
            deleted = spend(store.delete_session)
            times.append({"create": made, "fetch": fetched, "delete": deleted}[case])
        return times

    bench.values(measure)
