"""What the tests of the session store share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.support import LONG


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """Run `function(number)` in `count` threads that begin together; return what they returned."""
    barrier = threading.Barrier(count)
    outcomes: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait(LONG)
        try:
            outcomes[number] = function(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
