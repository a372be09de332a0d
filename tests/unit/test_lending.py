"""Looks for tasks to lend: one row of them, whoever begins to wait meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace, TracebackType
from typing import Any

from snakepit.pool.lending import Lender


class Yielding:
    """A lock after whose `turn`th release another thread has its turn."""

    def __init__(self, turn: int, other: Callable[[], object]) -> None:
        self._lock = threading.RLock()
        self._turn = turn
        self._other = other

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._lock.release()
        self._turn -= 1
        if self._turn == 0:
            thread = threading.Thread(target=self._other)
            thread.start()
            thread.join()


def test_who_begins_to_wait_as_a_row_of_looks_ends_begins_the_only_one() -> None:
    looks: list[Any] = []
    pool: Any = SimpleNamespace(
        threads=1,
        lanes=2,
        roster=SimpleNamespace(taking=lambda _worker: 1),
        scheduler=SimpleNamespace(bindings=None),
        supervisor=SimpleNamespace(after=lambda _seconds, note: looks.append(note)),
    )
    lender = Lender(pool)
    lender.waits(0, 1)
    lender.waits_no_more(0, 1)
    # Once it has looked, and once it has seen that nobody waits.
    lender._lock = Yielding(2, lambda: lender.waits(1, 2))  # type: ignore[assignment]
    looks.pop()()
    assert looks == [lender._keep_looking]
