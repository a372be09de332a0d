"""Calls go out and results come back."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future
from typing import Any

import pytest

import snakepit
from tests.conftest import Make
from tests.support import results, wait_until

from . import tasks


@pytest.mark.all_kinds
def test_result(executor: snakepit.Executor) -> None:
    assert executor.submit(pow, 2, 8).result(60) == 256


@pytest.mark.all_kinds
def test_exception(executor: snakepit.Executor) -> None:
    future = executor.submit(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        future.result(60)
    assert type(future.exception(60)) is ZeroDivisionError


def test_keyword_arguments(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.add, 2, right=8).result(60) == 10
    assert executor.submit(tasks.capture, 1, 2, a=3, b=4).result(60) == ((1, 2), {"a": 3, "b": 4})


def test_keywords_may_be_named_like_the_parameters_of_submit(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.capture, 1, self=2, fn=3, args=4, kwargs=5, timeout=6, task=7)
    keywords = {"self": 2, "fn": 3, "args": 4, "kwargs": 5, "timeout": 6, "task": 7}
    assert future.result(60) == ((1,), keywords)


def test_the_function_is_positional_only(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError):
        executor.submit(fn=tasks.capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]


@pytest.mark.parametrize("value", [5, None, "text"])
def test_what_cannot_be_called_gives_a_type_error(executor: snakepit.Executor, value: Any) -> None:
    with pytest.raises(TypeError):
        executor.submit(value).result(60)
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_callables_of_every_sort(executor: snakepit.Executor) -> None:
    assert executor.submit("a-b".split, "-").result(60) == ["a", "b"]
    assert executor.submit(str.upper, "a").result(60) == "A"
    assert executor.submit(int, "12").result(60) == 12
    assert executor.submit(functools.partial(tasks.add, 1), 2).result(60) == 3
    assert executor.submit([3, 1, 2].index, 2).result(60) == 2
    assert executor.submit(dict.fromkeys, "ab", 0).result(60) == {"a": 0, "b": 0}
    assert executor.submit(tasks.Gate, "/nowhere").result(60).path.name == "nowhere"


def test_no_argument_and_none_as_result(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.capture).result(60) == ((), {})
    assert executor.submit(tasks.identity, None).result(60) is None
    assert executor.submit(tasks.identity, None).exception(60) is None


def test_many_arguments(executor: snakepit.Executor) -> None:
    keywords = {f"k{n}": n for n in range(300)}
    assert executor.submit(tasks.capture, *range(300), **keywords).result(60) == (
        tuple(range(300)),
        keywords,
    )


def test_ten_thousand_submits(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.square, number) for number in range(10_000)]
    assert results(futures) == [number * number for number in range(10_000)]


def test_results_can_be_taken_in_any_order(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.square, number) for number in range(200)]
    assert results(reversed(futures)) == [n * n for n in reversed(range(200))]
    assert [future.result(0) for future in futures] == [n * n for n in range(200)]


def test_a_result_can_be_taken_again(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.identity, [1, 2])
    first = future.result(60)
    assert future.result() is first


@pytest.mark.all_kinds
def test_all_workers_run_at_once(make: Make, gate: Any) -> None:
    executor = make(3)
    started = [gate(f"started-{n}") for n in range(3)]
    release = gate("release")
    futures = [executor.submit(tasks.hold, door, release, n) for n, door in enumerate(started)]
    wait_until(lambda: all(door.is_open() for door in started), "three tasks to run at once")
    release.open()
    assert results(futures) == [0, 1, 2]


def test_saturation_far_beyond_the_number_of_workers(make: Make, gate: Any) -> None:
    executor = make(3)
    release = gate("release")
    futures = [executor.submit(tasks.pid_after, release) for _ in range(60)]
    assert not any(future.done() for future in futures)
    release.open()
    pids = results(futures)
    if executor.worker_pids():
        assert len(set(pids)) <= 3


def test_a_long_task_keeps_no_short_one_waiting(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    long = executor.submit(tasks.hold, started, release, "long")
    started.wait()
    assert results(executor.submit(tasks.square, n) for n in range(300)) == [
        n * n for n in range(300)
    ]
    assert not long.done()
    release.open()
    assert long.result(60) == "long"


def test_short_tasks_submitted_with_a_long_one_pass_it(
    executor: snakepit.Executor, gate: Any
) -> None:
    """Work that a worker holds in advance must not wait for the task that it runs."""
    doors = [gate(f"started-{n}") for n in range(6)]
    releases = [gate(f"release-{n}") for n in range(6)]
    for door, release in zip(doors, releases, strict=True):
        long = executor.submit(tasks.hold, door, release, "long")
        short = [executor.submit(tasks.square, n) for n in range(20)]
        assert results(short) == [n * n for n in range(20)]
        release.open()
        assert long.result(60) == "long"


def test_many_threads_submit_at_once(executor: snakepit.Executor) -> None:
    answers: dict[int, list[int]] = {}
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait(60)
        futures = [executor.submit(tasks.square, thread * 1000 + n) for n in range(400)]
        answers[thread] = results(futures)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {t: [(t * 1000 + n) ** 2 for n in range(400)] for t in range(8)}


def test_many_threads_call_one_after_another(executor: snakepit.Executor) -> None:
    failures: list[tuple[int, int]] = []

    def work(thread: int) -> None:
        for n in range(150):
            if executor.submit(tasks.add, thread, n).result(60) != thread + n:
                failures.append((thread, n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_many_threads_wait_for_one_future(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    future: Future[Any] = executor.submit(tasks.hold, started, release, "value")
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(future.result(60))) for _ in range(10)]
    for thread in threads:
        thread.start()
    started.wait()
    release.open()
    for thread in threads:
        thread.join()
    assert got == ["value"] * 10


def test_waiter_for_a_slow_task_does_not_keep_others_from_their_results(
    executor: snakepit.Executor, gate: Any
) -> None:
    """One thread that waits may collect for all: its own task must not hold theirs back."""
    started, release = gate("started"), gate("release")
    slow = executor.submit(tasks.hold, started, release, "slow")
    waiter = threading.Thread(target=slow.result, args=(60,))
    waiter.start()
    started.wait()
    for number in range(100):
        assert executor.submit(tasks.square, number).result(60) == number * number
    settled = threading.Event()
    executor.submit(tasks.square, 1).add_done_callback(lambda _: settled.set())
    assert settled.wait(60)
    release.open()
    waiter.join()


def test_nobody_waits_and_futures_settle_all_the_same(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.square, number) for number in range(50)]
    wait_until(lambda: all(future.done() for future in futures), "futures that nobody waits for")


def test_a_timeout_of_result_leaves_the_task_alone(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "late")
    started.wait()
    for timeout in (0, 0.01, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)
    assert future.running()
    release.open()
    assert future.result(60) == "late"


def test_the_pool_made_in_a_thread_outlives_it(make: Make) -> None:
    made: list[snakepit.Executor] = []

    def build() -> None:
        executor = make(2)
        assert executor.submit(tasks.square, 2).result(60) == 4
        made.append(executor)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    (executor,) = made
    executor.wait_ready(60)
    pids = executor.worker_pids()
    assert results(executor.submit(tasks.square, n) for n in range(50)) == [
        n * n for n in range(50)
    ]
    assert executor.worker_pids() == pids
