"""Futures: their states, callbacks, cancelling, and the calls that executors make on them."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

import pytest

import snakepit
from tests.support import results, wait_until

from . import tasks


@pytest.fixture
def future() -> Future[Any]:
    """Return a future that belongs to no executor."""
    return snakepit.Future()


def pending() -> Future[Any]:
    return snakepit.Future()


def running() -> Future[Any]:
    future: Future[Any] = snakepit.Future()
    future.set_running_or_notify_cancel()
    return future


def cancelled() -> Future[Any]:
    future: Future[Any] = snakepit.Future()
    future.cancel()
    return future


def notified() -> Future[Any]:
    future = cancelled()
    future.set_running_or_notify_cancel()
    return future


def failed() -> Future[Any]:
    future: Future[Any] = snakepit.Future()
    future.set_exception(OSError("no"))
    return future


def succeeded() -> Future[Any]:
    future: Future[Any] = snakepit.Future()
    future.set_result(42)
    return future


STATES = [pending, running, cancelled, notified, failed, succeeded]


# A future by itself


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (pending, "state=pending"),
        (running, "state=running"),
        (cancelled, "state=cancelled"),
        (notified, "state=cancelled"),
        (failed, "state=finished raised OSError"),
        (succeeded, "state=finished returned int"),
    ],
)
def test_repr_tells_the_state(make: Callable[[], Future[Any]], text: str) -> None:
    assert text in repr(make())
    assert "Future at 0x" in repr(make())


@pytest.mark.parametrize(
    ("make", "may_cancel", "is_cancelled", "is_running", "is_done"),
    [
        (pending, True, False, False, False),
        (running, False, False, True, False),
        (cancelled, True, True, False, True),
        (notified, True, True, False, True),
        (failed, False, False, False, True),
        (succeeded, False, False, False, True),
    ],
)
def test_every_state(
    make: Callable[[], Future[Any]],
    may_cancel: bool,
    is_cancelled: bool,
    is_running: bool,
    is_done: bool,
) -> None:
    future = make()
    assert (future.cancelled(), future.running(), future.done()) == (
        is_cancelled,
        is_running,
        is_done,
    )
    assert future.cancel() is may_cancel
    assert future.cancelled() is (is_cancelled or may_cancel)


def test_result_without_waiting() -> None:
    for make in (pending, running):
        with pytest.raises(TimeoutError):
            make().result(timeout=0)
        with pytest.raises(TimeoutError):
            make().exception(timeout=0)
    for make in (cancelled, notified):
        with pytest.raises(CancelledError):
            make().result(timeout=0)
        with pytest.raises(CancelledError):
            make().exception(timeout=0)
    with pytest.raises(OSError, match="no"):
        failed().result(timeout=0)
    assert isinstance(failed().exception(timeout=0), OSError)
    assert succeeded().result(timeout=0) == 42
    assert succeeded().exception(timeout=0) is None


@pytest.mark.parametrize("make", [failed, succeeded])
def test_settled_future_cannot_be_settled_again(make: Callable[[], Future[Any]]) -> None:
    future = make()
    with pytest.raises(InvalidStateError, match="state=finished"):
        future.set_result(1)
    with pytest.raises(InvalidStateError, match="state=finished"):
        future.set_exception(ValueError())


def test_cancelled_future_cannot_be_settled() -> None:
    for make in (cancelled, notified):
        with pytest.raises(InvalidStateError):
            make().set_result(1)
        with pytest.raises(InvalidStateError):
            make().set_exception(ValueError())


def test_set_running_or_notify_cancel() -> None:
    assert snakepit.Future().set_running_or_notify_cancel() is True
    assert cancelled().set_running_or_notify_cancel() is False


def test_waiting_thread_gets_a_result_set_elsewhere(future: Future[Any]) -> None:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(future.result(60)))
    thread.start()
    future.set_result("value")
    thread.join()
    assert got == ["value"]


def test_waiting_thread_gets_an_exception_set_elsewhere(future: Future[Any]) -> None:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(future.exception(60)))
    thread.start()
    error = ValueError()
    future.set_exception(error)
    thread.join()
    assert got == [error]


def test_waiting_thread_learns_of_a_cancel(future: Future[Any]) -> None:
    got: list[str] = []

    def work() -> None:
        try:
            future.result(60)
        except CancelledError as error:
            got.append(type(error).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    assert future.cancel()
    thread.join()
    assert got == ["CancelledError"]


def test_a_future_is_not_copied_or_pickled(future: Future[Any]) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(future)
    with pytest.raises(TypeError):
        copy.deepcopy(future)


# Callbacks


def test_callbacks_run_in_the_order_of_their_adding(future: Future[Any]) -> None:
    seen: list[int] = []
    for number in range(5):
        future.add_done_callback(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    future.set_result(None)
    assert seen == [0, 1, 2, 3, 4]


def test_callback_gets_the_future_itself(future: Future[Any]) -> None:
    seen: list[Any] = []
    future.add_done_callback(seen.append)
    future.set_result(3)
    assert seen == [future]
    assert seen[0].result() == 3


@pytest.mark.parametrize("make", [cancelled, notified, failed, succeeded])
def test_callback_of_a_settled_future_runs_at_once(make: Callable[[], Future[Any]]) -> None:
    future = make()
    seen: list[Any] = []
    future.add_done_callback(seen.append)
    assert seen == [future]


def test_callback_runs_on_cancel(future: Future[Any]) -> None:
    seen: list[bool] = []
    future.add_done_callback(lambda f: seen.append(f.cancelled()))
    assert future.cancel()
    assert future.cancel()
    assert seen == [True]


@pytest.mark.parametrize("when", ["before", "after"])
def test_raising_callback_is_logged_and_the_others_run(
    future: Future[Any], when: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []

    def bad(_: Future[Any]) -> None:
        raise LookupError("a bad callback")

    with caplog.at_level(logging.ERROR):
        if when == "after":
            future.set_result(5)
        future.add_done_callback(bad)
        future.add_done_callback(seen.append)
        if when == "before":
            future.set_result(5)
    assert seen == [future]
    (record,) = [r for r in caplog.records if "exception calling callback" in r.getMessage()]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_callback_added_by_a_callback_runs(future: Future[Any]) -> None:
    seen: list[str] = []

    def first(f: Future[Any]) -> None:
        seen.append("first")
        f.add_done_callback(lambda _: seen.append("second"))

    future.add_done_callback(first)
    future.set_result(None)
    assert seen == ["first", "second"]


# Futures of an executor


@pytest.mark.all_kinds
def test_callback_of_a_task(executor: snakepit.Executor) -> None:
    seen: list[Any] = []
    called = threading.Event()

    def callback(future: Future[Any]) -> None:
        seen.append(future.result(0))
        called.set()

    executor.submit(tasks.square, 4).add_done_callback(callback)
    assert called.wait(60)
    assert seen == [16]


def test_callbacks_of_many_tasks_each_run_once(executor: snakepit.Executor) -> None:
    seen: list[int] = []
    lock = threading.Lock()

    def callback(future: Future[Any]) -> None:
        with lock:
            seen.append(future.result(0))

    for number in range(1000):
        executor.submit(tasks.identity, number).add_done_callback(callback)
    wait_until(lambda: len(seen) >= 1000, "a thousand callbacks")
    executor.shutdown()
    assert sorted(seen) == list(range(1000))


def test_callbacks_have_run_when_the_shutdown_returns(executor: snakepit.Executor) -> None:
    seen: list[int] = []
    for number in range(100):
        executor.submit(tasks.identity, number).add_done_callback(
            lambda future: seen.append(future.result(0))
        )
    executor.shutdown(wait=True)
    assert sorted(seen) == list(range(100))


def test_callback_may_submit(executor: snakepit.Executor) -> None:
    seen: list[int] = []
    ended = threading.Event()

    def again(future: Future[Any]) -> None:
        seen.append(future.result(0))
        if len(seen) < 20:
            executor.submit(tasks.identity, len(seen)).add_done_callback(again)
        else:
            ended.set()

    executor.submit(tasks.identity, 0).add_done_callback(again)
    assert ended.wait(60)
    assert seen == list(range(20))


def test_callback_may_wait_for_another_task(executor: snakepit.Executor) -> None:
    """A callback that blocks may run where results are collected: it must not stop that."""
    seen: list[int] = []
    ended = threading.Event()

    def callback(_: Future[Any]) -> None:
        seen.append(executor.submit(tasks.square, 5).result(60))
        ended.set()

    executor.submit(tasks.square, 1).add_done_callback(callback)
    assert ended.wait(90)
    assert seen == [25]


def test_blocking_callback_holds_up_no_other_result(executor: snakepit.Executor, gate: Any) -> None:
    entered, leave = threading.Event(), threading.Event()

    def callback(_: Future[Any]) -> None:
        entered.set()
        leave.wait(60)

    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release).add_done_callback(callback)
    release.open()
    try:
        assert entered.wait(60)
        assert executor.submit(tasks.square, 5).result(30) == 25
    finally:
        leave.set()


def test_raising_callback_does_not_harm_the_executor(
    executor: snakepit.Executor, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(_: Future[Any]) -> None:
        raise LookupError("a bad callback")

    with caplog.at_level(logging.ERROR):
        for number in range(20):
            executor.submit(tasks.identity, number).add_done_callback(bad)
        executor.shutdown()
    messages = [r for r in caplog.records if "exception calling callback" in r.getMessage()]
    assert len(messages) == 20
    caplog.clear()  # the tracebacks in its records hold frames, and these the executor


def test_running_and_done(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release)
    started.wait()
    wait_until(future.running, "a task that runs to say so")
    assert not future.done()
    release.open()
    future.result(60)
    assert (future.running(), future.done(), future.cancelled()) == (False, True, False)


def test_repr_of_an_executors_future(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, 3)
    started.wait()
    wait_until(lambda: "state=running" in repr(future), "the state in the repr")
    release.open()
    future.result(60)
    assert "state=finished returned int" in repr(future)


def test_running_task_cannot_be_cancelled(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "kept")
    started.wait()
    wait_until(future.running, "a task that runs to say so")
    assert future.cancel() is False
    release.open()
    assert future.result(60) == "kept"
    assert future.cancel() is False


def test_queued_tasks_can_be_cancelled_and_never_run(
    executor: snakepit.Executor, gate: Any, log: tasks.Log
) -> None:
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release) for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.record, log, number) for number in range(100)]
    cancelled = [future for future in queued[20:] if future.cancel()]
    assert cancelled == queued[20:]
    assert all(future.cancelled() and future.done() for future in cancelled)
    for future in cancelled[:3]:
        with pytest.raises(CancelledError):
            future.result(0)
    release.open()
    results(running)
    results(queued[:20])
    assert executor.submit(tasks.square, 2).result(60) == 4
    executor.shutdown()
    assert sorted(map(int, log.lines())) == list(range(20))


def test_callback_runs_when_a_queued_task_is_cancelled(
    executor: snakepit.Executor, gate: Any
) -> None:
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(2)]
    queued = [executor.submit(tasks.square, number) for number in range(4)]
    seen: list[bool] = []
    queued[-1].add_done_callback(lambda future: seen.append(future.cancelled()))
    assert queued[-1].cancel()
    assert seen == [True]
    release.open()
    results(running)


def test_cancel_races_with_the_start(executor: snakepit.Executor, log: tasks.Log) -> None:
    """What was cancelled never ran; what was not gives its result: there is nothing between."""
    cancelled = []
    for number in range(500):
        future = executor.submit(tasks.record, log, number)
        if future.cancel():
            cancelled.append(number)
        else:
            assert future.result(60) == number
    executor.shutdown()
    assert set(map(int, log.lines())) == set(range(500)) - set(cancelled)


def test_many_cancels_from_several_threads(executor: snakepit.Executor, log: tasks.Log) -> None:
    futures = [executor.submit(tasks.record, log, number) for number in range(600)]
    answers: dict[int, list[bool]] = {}

    def work(thread: int) -> None:
        answers[thread] = [future.cancel() for future in reversed(futures)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    executor.shutdown()
    ran = {number for number, future in enumerate(futures) if not future.cancelled()}
    assert set(map(int, log.lines())) == ran
    assert all(future.done() for future in futures)
