"""concurrent.futures.wait and as_completed on the executor's futures."""

from __future__ import annotations

import concurrent.futures
import itertools
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Future,
    as_completed,
    wait,
)
from contextlib import contextmanager
from typing import Any

import pytest

import snakepit
from tests.conftest import Make

from . import tasks


def finished(value: object = 42) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def failed() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(OSError())
    return future


def cancelled() -> Future[Any]:
    """Return a cancelled future that nobody has been told of yet."""
    future: Future[Any] = Future()
    future.cancel()
    return future


def cancelled_and_notified() -> Future[Any]:
    future = cancelled()
    future.set_running_or_notify_cancel()
    return future


@contextmanager
def held(executor: snakepit.Executor, gate: Any, name: str = "held") -> Iterator[Future[Any]]:
    """Give a future whose task runs until the block is left."""
    started, release = gate(f"{name}-started"), gate(f"{name}-release")
    future = executor.submit(tasks.hold, started, release, name)
    try:
        started.wait()
        yield future
    finally:
        release.open()


@pytest.mark.all_kinds
def test_wait_for_all(executor: snakepit.Executor) -> None:
    futures: set[Any] = {executor.submit(divmod, 2, 0), executor.submit(tasks.square, 21)}
    others = {finished(), failed(), cancelled_and_notified()}
    done, pending = wait(futures | others, timeout=60, return_when=ALL_COMPLETED)
    assert done == futures | others
    assert pending == set()


def test_wait_for_the_first(executor: snakepit.Executor, gate: Any) -> None:
    with held(executor, gate) as slow:
        quick = executor.submit(tasks.square, 2)
        unnotified = cancelled()
        done, pending = wait([unnotified, quick, slow], 60, FIRST_COMPLETED)
        assert done == {quick}
        assert pending == {unnotified, slow}


def test_wait_for_the_first_when_some_are_done(executor: snakepit.Executor, gate: Any) -> None:
    with held(executor, gate) as slow:
        already = {cancelled_and_notified(), finished()}
        done, pending = wait(already | {slow}, 60, FIRST_COMPLETED)
        assert (done, pending) == (already, {slow})


def test_wait_for_the_first_exception(make: Make, gate: Any) -> None:
    executor = make(3)
    with held(executor, gate) as slow:
        go = gate("go")
        good: Any = executor.submit(tasks.square, 2)
        bad: Any = executor.submit(tasks.fail_after, go)
        good.result(60)
        threading.Timer(0.05, go.open).start()
        done, pending = wait([good, bad, slow], 60, FIRST_EXCEPTION)
        assert (done, pending) == ({good, bad}, {slow})


def test_wait_for_an_exception_that_is_there(executor: snakepit.Executor, gate: Any) -> None:
    with held(executor, gate) as slow:
        bad = failed()
        done, pending = wait([bad, slow], 60, FIRST_EXCEPTION)
        assert (done, pending) == ({bad}, {slow})


def test_wait_for_an_exception_that_never_comes(executor: snakepit.Executor) -> None:
    futures = {executor.submit(tasks.square, n) for n in range(20)}
    assert wait(futures, 60, FIRST_EXCEPTION) == (futures, set())


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_wait_gives_up_in_time(executor: snakepit.Executor, gate: Any, timeout: float) -> None:
    with held(executor, gate) as slow:
        already = {cancelled_and_notified(), failed(), finished()}
        done, pending = wait(already | {slow}, timeout)
        assert (done, pending) == (already, {slow})


def test_wait_takes_a_future_twice(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.square, 3)
    assert wait([future, future], 60) == ({future}, set())


def test_wait_for_many_with_quick_thread_switches(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        futures = {executor.submit(tasks.pid_after, release) for _ in range(100)}
        release.open()
        assert wait(futures, 60) == (futures, set())
    finally:
        sys.setswitchinterval(interval)


def test_wait_in_several_threads_for_the_same_futures(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.square, n) for n in range(500)]
    answers: list[int] = []

    def work() -> None:
        done, _ = wait(futures, 60)
        answers.append(len(done))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [500] * 5


def test_wait_for_futures_of_several_executors(make: Make) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        futures: set[Any] = {make(1).submit(tasks.square, 2), make(1).submit(tasks.square, 3)}
        futures.add(threads.submit(tasks.square, 4))
        assert wait(futures, 60) == (futures, set())


@pytest.mark.all_kinds
def test_as_completed_gives_all(executor: snakepit.Executor) -> None:
    futures: set[Any] = {executor.submit(tasks.square, n) for n in range(50)}
    futures |= {finished(), failed(), cancelled_and_notified()}
    assert set(as_completed(futures, timeout=60)) == futures


def test_as_completed_gives_first_what_is_done_first(
    executor: snakepit.Executor, gate: Any
) -> None:
    with held(executor, gate) as slow:
        quick = executor.submit(tasks.square, 2)
        order = as_completed([slow, quick], timeout=60)
        assert next(order) is quick
        gate("held-release").open()
        assert next(order) is slow


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_as_completed_gives_up_in_time(
    executor: snakepit.Executor, gate: Any, timeout: float
) -> None:
    already = {cancelled_and_notified(), failed(), finished()}
    with held(executor, gate) as slow:
        seen = set()
        with pytest.raises(TimeoutError, match=r"1 \(of 4\) futures unfinished"):
            for future in as_completed(already | {slow}, timeout):
                seen.add(future)
        assert seen == already


def test_as_completed_gives_a_repeated_future_once(executor: snakepit.Executor, gate: Any) -> None:
    with held(executor, gate) as slow:
        order = as_completed(itertools.repeat(slow, 3), timeout=60)
        gate("held-release").open()
        assert list(order) == [slow]


def test_as_completed_of_nothing() -> None:
    assert list(as_completed([])) == []


def test_as_completed_while_more_is_submitted(executor: snakepit.Executor) -> None:
    total = 0
    waiting: set[Any] = {executor.submit(tasks.square, 1)}
    for number in range(2, 60):
        done, waiting = wait(waiting, 60, FIRST_COMPLETED)
        total += sum(future.result() for future in done)
        waiting.add(executor.submit(tasks.square, number))
    total += sum(future.result() for future in as_completed(waiting, timeout=60))
    assert total == sum(n * n for n in range(1, 60))


def test_wait_sees_a_future_cancelled_by_the_executor(
    executor: snakepit.Executor, gate: Any
) -> None:
    """A cancelled future counts as done only once the executor has taken notice of it."""
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(2)]
    queued = [executor.submit(tasks.square, n) for n in range(5)]
    last = executor.submit(tasks.square, 6)
    if not last.cancel():
        pytest.fail("a queued task could not be cancelled")
    release.open()
    done, pending = wait([*running, *queued, last], 60)
    assert pending == set()
    assert last in done
