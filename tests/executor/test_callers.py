"""Several threads that each wait for their calls: they settle each other's, and glance first."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from tests.conftest import Make
from tests.support import run_clean, send_signal, wait_until

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


@pytest.mark.parametrize("profile", ["process", "thread", "local"])
@pytest.mark.parametrize("way", ["result", "stream"])
def test_signal_is_heard_whenever_it_comes_in_a_wait(
    tmp_path: Path, profile: str, way: str
) -> None:
    """Above all while the caller spins: what comes then does not end the sleep after it."""
    source = f"""
        import signal, time
        import snakepit

        class Alarm(Exception):
            pass

        def ring(number, frame):
            raise Alarm

        def nap():
            for _ in range(200):
                time.sleep(0.01)

        def naps():
            yield 1
            nap()

        signal.signal(signal.SIGALRM, ring)
        with snakepit.Executor(1, profile={profile!r}) as executor:
            for turn in range(40):
                for number in range(20):
                    executor.submit(pow, 2, 3).result()
                if {way == "result"}:
                    future = executor.submit(nap)
                else:
                    stream = executor.stream(naps)
                    future = stream.future
                    next(stream)
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.00002 + turn * 0.00001)
                    future.result() if {way == "result"} else next(stream)
                except Alarm:
                    print("late" if future.done() else "heard")
                future.stop()
                while not future.done():
                    time.sleep(0.001)
        """
    assert run_clean(source, tmp_path) == ["heard"] * 40
