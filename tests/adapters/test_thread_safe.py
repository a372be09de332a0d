"""ThreadSafeAdapter and ThreadSafetyChecker: one instance, several threads."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import snakepit
from snakepit import ThreadSafeAdapter, ThreadSafetyChecker, thread_safe_method, tool
from snakepit.adapters.tools import tools_of
from snakepit.errors import AdapterError, TaskInterrupt
from tests.support import LONG, wait_until


class Ledger(ThreadSafeAdapter):
    def __init__(self) -> None:
        # Without a call of the base's constructor, as people forget it.
        self.total = 0

    @tool
    @thread_safe_method
    def add(self, amount: int) -> int:
        before = self.total
        threading.Event().wait(0.0001)
        self.total = before + amount
        return self.total

    @thread_safe_method
    @tool
    def add_twice(self, amount: int) -> int:
        with self.acquire_lock():
            self.add(amount)
            return self.add(amount)

    @tool(streaming=True)
    @thread_safe_method
    def parts(self, count: int) -> Iterator[int]:
        yield from range(count)

    @tool
    def careless(self, barrier: Any = None) -> None:
        if barrier is not None:
            barrier.wait(30)

    @tool
    def count_up(self) -> int:
        self.total += 1
        return self.total

    @tool
    def careful(self) -> int:
        with self.acquire_lock():
            return self.count_up()

    @tool
    def hold(self, release: threading.Event) -> None:
        with self.acquire_lock():
            release.wait()

    @tool
    def lock_counts(self) -> tuple[int, int]:
        return self.acquire_lock().acquired, self.acquire_lock().contended

    @tool(streaming=True)
    def careless_parts(self, count: int) -> Iterator[int]:
        yield from range(count)

    @tool
    def fail(self) -> None:
        raise ValueError("no luck")


class Watched(Ledger):
    """Watches itself, strictly, in the worker that it lives in."""

    def setup(self) -> None:
        self.checker = ThreadSafetyChecker(strict_mode=True)
        self.checker.watch(self)

    @tool(thread_sensitive=True)
    def alone(self) -> int:
        return threading.get_ident()

    @tool(thread_sensitive=True, streaming=True)
    def alone_in_parts(self, count: int) -> Iterator[int]:
        yield from range(count)

    @tool
    def report(self) -> dict[str, Any]:
        return self.checker.get_report()


def in_threads(count: int, function: Callable[[], object]) -> list[BaseException]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_a_thread_safe_method_loses_no_update() -> None:
    ledger = Ledger()
    assert not in_threads(8, lambda: [ledger.add(1) for _ in range(20)])
    assert not in_threads(2, lambda: ledger.add_twice(1))
    assert ledger.total == 164
    stats = ledger.get_stats_dict()
    assert stats["calls"] == {"add": 164, "add_twice": 2} and stats["total_calls"] == 166
    assert stats["threads"] >= 1 and stats["lock_contended"] > 0 and stats["seconds_waited"] > 0


def test_a_call_that_waits_for_the_lock_can_be_stopped(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    with snakepit.Pool(Ledger, profile="local", threads_per_worker=3) as pool:
        held = pool.submit("hold", {"release": release})
        wait_until(lambda: pool.execute("lock_counts")[0] == 1, "the lock to be held")
        waiting = pool.submit("add", {"amount": 1})
        wait_until(lambda: pool.get_stats()["busy"] == 2, "the other call to wait")
        assert waiting.cancel()
        # Its thread takes calls again while the lock is held.
        wait_until(lambda: pool.get_stats()["busy"] == 1, "the other call to end")
        release.set()
        held.result(LONG)
        assert pool.execute("add", {"amount": 1}) == 1
    assert "left behind" not in caplog.text


class Interrupt:
    """`Interrupt() + TaskInterrupt` leaves that with the thread, which raises it soon after.

    By C alone, and by an operator, after which no exception is looked for: it comes at the next
    call.
    """

    __add__ = staticmethod(
        functools.partial(
            ctypes.pythonapi.PyThreadState_SetAsyncExc, ctypes.c_ulong(threading.get_ident())
        )
    )


def test_an_interrupt_at_the_end_of_the_with_leaves_the_lock_free() -> None:
    lock = Ledger().acquire_lock()
    interrupt, error = Interrupt(), ctypes.py_object(TaskInterrupt)
    with pytest.raises(TaskInterrupt), lock:
        interrupt + error
    assert not lock.is_mine()
    assert not in_threads(1, lock.__enter__)


def test_marks_and_signatures_survive_the_decorator() -> None:
    tools = tools_of(Ledger)
    assert [parameter.type for parameter in tools["add"].parameters] == ["int"]
    assert "add_twice" in tools and tools["parts"].streaming
    assert list(Ledger().parts(3)) == [0, 1, 2]


def test_values_of_a_thread_are_its_own() -> None:
    ledger = Ledger()
    ledger.set_thread_local("who", "main")
    seen: list[Any] = []
    in_threads(1, lambda: seen.append(ledger.get_thread_local("who", "nobody")))
    assert seen == ["nobody"] and ledger.get_thread_local("who") == "main"


def careless_in_two_threads(ledger: Ledger) -> list[BaseException]:
    # Both at once, so that they are two threads and not one identity after the other.
    barrier = threading.Barrier(2)
    return in_threads(2, lambda: ledger.careless(barrier))


def test_the_checker_reports_methods_entered_without_the_lock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checker, ledger = ThreadSafetyChecker(), Ledger()
    checker.watch(ledger)
    with caplog.at_level(logging.WARNING, "snakepit"):
        assert not careless_in_two_threads(ledger)
        assert not careless_in_two_threads(ledger)
    in_threads(2, lambda: ledger.add(1))
    report = checker.get_report()
    assert report["unsafe_methods"] == ["Ledger.careless"]
    assert report["methods"]["Ledger.careless"]["calls"] == 4
    assert report["methods"]["Ledger.careless"]["most_at_once"] == 2
    assert report["contention"]["acquired"] >= 2
    assert len([one for one in caplog.records if "careless" in one.message]) == 1


def test_a_strict_checker_raises() -> None:
    checker, ledger = ThreadSafetyChecker(strict_mode=True), Ledger()
    checker.watch(ledger)
    (error,) = careless_in_two_threads(ledger)
    assert isinstance(error, AdapterError) and "careless" in str(error)


def one_after_the_other(*calls: Callable[[], object]) -> list[BaseException]:
    """Call them in threads of which each starts while those before are still alive."""
    errors: list[BaseException] = []
    end = threading.Event()
    threads = []
    for call in calls:
        done = threading.Event()

        def run(call: Callable[[], object] = call, done: threading.Event = done) -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)
            done.set()
            end.wait(30)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        assert done.wait(30)
    end.set()
    for thread in threads:
        thread.join()
    return errors


def test_a_strict_checker_raises_before_the_method_runs() -> None:
    checker, ledger = ThreadSafetyChecker(strict_mode=True), Ledger()
    checker.watch(ledger)
    errors = one_after_the_other(ledger.count_up, ledger.count_up)
    assert [type(error) for error in errors] == [AdapterError] and ledger.total == 1
    report = checker.get_report()
    assert report["unsafe_methods"] == ["Ledger.count_up"]
    assert report["methods"]["Ledger.count_up"]["calls"] == 1


def test_a_strict_checker_lets_methods_in_that_take_the_lock() -> None:
    checker, ledger = ThreadSafetyChecker(strict_mode=True), Ledger()
    checker.watch(ledger)
    calls = [lambda: ledger.add(1), ledger.careful, lambda: list(ledger.parts(3))]
    assert not one_after_the_other(*calls, *calls)
    assert checker.get_report()["unsafe_methods"] == [] and ledger.total == 4


def test_the_checker_watches_a_stream_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    checker, ledger = ThreadSafetyChecker(), Ledger()
    checker.watch(ledger)
    stream = ledger.parts(3)
    assert next(stream) == 0
    # Watched, it is a generator still, and holds the lock while it is read.
    assert ledger.acquire_lock().is_mine() and list(stream) == [1, 2]
    assert not one_after_the_other(*[lambda: list(ledger.parts(3))] * 2)
    assert checker.get_report()["unsafe_methods"] == [] and not caplog.records
    one_after_the_other(*[lambda: list(ledger.careless_parts(3))] * 2)
    assert checker.get_report()["unsafe_methods"] == ["Ledger.careless_parts"]
    assert "careless_parts" in caplog.text


def test_the_checker_tells_of_methods_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    for strict in (False, True):
        checker, ledger = ThreadSafetyChecker(strict_mode=strict), Ledger()
        checker.watch(ledger)
        errors = one_after_the_other(ledger.fail, ledger.fail)
        second = AdapterError if strict else ValueError
        assert [type(error) for error in errors] == [ValueError, second]
    assert "Ledger.fail was entered by 2 threads" in caplog.text


@pytest.mark.parametrize("profile", ["thread", "local"])
def test_a_watched_thread_sensitive_tool_is_not_reported(profile: Any) -> None:
    size: Any = {"pool_size": 1} if profile == "thread" else {}
    with snakepit.Pool(Watched, profile=profile, threads_per_worker=4, **size) as pool:
        calls = [pool.submit("alone") for _ in range(40)]
        streams = [pool.stream("alone_in_parts", {"count": 3}) for _ in range(8)]
        assert all(list(stream) == [0, 1, 2] for stream in streams)
        assert len({call.result(LONG) for call in calls}) >= 1
        report = pool.execute("report")
    assert report["unsafe_methods"] == []
    assert report["methods"]["Watched.alone"]["calls"] == 40


def test_a_checker_that_is_not_enabled_touches_nothing() -> None:
    checker, ledger = ThreadSafetyChecker(enabled=False), Ledger()
    checker.watch(ledger)
    careless_in_two_threads(ledger)
    assert checker.get_report()["methods"] == {} and "careless" not in vars(ledger)


def test_the_checker_knows_libraries_that_need_care() -> None:
    import sqlite3

    assert sqlite3.threadsafety >= 0
    found = ThreadSafetyChecker().get_report()["libraries"]
    assert "thread" in found["sqlite3"]
    for name, reason in found.items():
        checked = snakepit.Compatibility.check(name)
        assert checked.status == "warning" and checked.message.startswith(reason)
