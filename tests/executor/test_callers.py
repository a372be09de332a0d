"""Several threads that each wait for their calls: they settle each other's, and glance first."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import snakepit
from tests.conftest import Make
from tests.support import send_signal, wait_until

from . import tasks

CALLERS = 8


@pytest.fixture
def restless() -> Iterator[None]:
    """Have threads take the interpreter from each other as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Callers:
    """Threads that each go on calling, and waiting, until they are stopped."""

    def __init__(self, calls: Any) -> None:
        self.counts = [0] * CALLERS
        self.wrong: list[Any] = []
        self._calls = calls
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(n,)) for n in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _go_on(self, caller: int) -> None:
        while not self._stop.is_set():
            try:
                got = self._calls.submit(tasks.add, caller, self.counts[caller]).result(60)
            except Exception as error:
                self.wrong.append(error)
                return
            if got != caller + self.counts[caller]:
                self.wrong.append((caller, self.counts[caller], got))
            self.counts[caller] += 1

    def wait_for(self, more: int) -> None:
        """Wait until each has made so many calls more."""
        wanted = [count + more for count in self.counts]
        wait_until(
            lambda: self.wrong or all(map(int.__ge__, self.counts, wanted)), "calls of every thread"
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.wrong == []


@pytest.mark.all_kinds
def test_each_of_many_callers_gets_its_own(executor: snakepit.Executor, restless: None) -> None:
    callers = Callers(executor)
    callers.wait_for(200)
    callers.stop()
    assert executor.stats().queued == 0


@pytest.mark.processes
def test_callers_go_on_while_workers_are_killed(make: Make) -> None:
    executor = make(2)
    callers = Callers(executor.options(idempotent=True))
    for _ in range(5):
        callers.wait_for(50)
        send_signal(executor.worker_pids()[0])
    callers.wait_for(50)
    callers.stop()


def test_caller_among_others_lets_go_while_its_call_takes_long(make: Make, gate: Any) -> None:
    """Its answer comes when another thread of this process has done something for it."""
    executor = make(2)
    callers = Callers(executor)
    for number in range(10):
        callers.wait_for(10)
        door = gate(f"door {number}")
        future = executor.submit(door.wait)
        opener = threading.Thread(target=door.open)
        opener.start()
        future.result(60)
        opener.join()
    callers.stop()


def test_caller_among_others_gives_up_in_time(make: Make, gate: Any) -> None:
    executor = make(2)
    door = gate("door")
    late = executor.submit(door.wait)
    callers = Callers(executor)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            late.result(0.001)
    callers.wait_for(10)
    callers.stop()
    door.open()
    late.result(60)
