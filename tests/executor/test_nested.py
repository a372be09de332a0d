"""Tasks that use the pool that runs them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import snakepit
from tests.conftest import Make
from tests.support import results, wait_until

from . import tasks


def test_there_is_no_current_pool_outside_a_task(executor: snakepit.Executor) -> None:
    with pytest.raises(RuntimeError):
        snakepit.current_pool()
    executor.submit(tasks.square, 2).result(60)
    with pytest.raises(RuntimeError):
        snakepit.current_pool()


@pytest.mark.all_kinds
def test_tree_of_tasks(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.nested_fibonacci, 8).result(90) == 21


def test_larger_tree_of_tasks(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.nested_fibonacci, 11).result(120) == 89


@pytest.mark.parametrize("workers", [1, 2])
def test_trees_on_all_workers_at_once(make: Make, workers: int) -> None:
    executor = make(workers)
    futures = [executor.submit(tasks.nested_fibonacci, 6) for _ in range(6)]
    assert results(futures, 120) == [8] * 6


def test_single_worker_may_wait_for_itself(make: Make) -> None:
    executor = make(1)
    assert executor.submit(tasks.nested_chain, 1).result(60) == 1
    assert executor.submit(tasks.nested_fibonacci, 6).result(60) == 8


def test_deep_chain(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.nested_chain, 40).result(90) == 40


def test_nested_wait(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.nested_wait, 2) for _ in range(4)]
    assert results(futures, 120) == [9] * 4


def test_nested_as_completed(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.nested_as_completed, 2) for _ in range(4)]
    assert results(futures, 120) == [9] * 4


def test_nested_map(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.nested_map, 50) for _ in range(6)]
    assert results(futures, 120) == [[n * n for n in range(50)]] * 6


def test_nested_exception(executor: snakepit.Executor) -> None:
    assert executor.submit(tasks.nested_failure).result(60) == "caught inner"


@pytest.mark.processes
def test_nested_crash(make: Make) -> None:
    """Another worker runs the inner task, or the waiting one itself, which then shares its fate."""
    executor = make(3)
    future = executor.submit(tasks.nested_crash)
    if future.exception(60) is None:
        assert future.result() == "WorkerCrashedError"
    else:
        assert isinstance(future.exception(), snakepit.errors.WorkerCrashedError)
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_nested_callback(executor: snakepit.Executor, log: tasks.Log) -> None:
    executor.submit(tasks.nested_callback, log).result(60)
    assert wait_until(log.lines, "the callback in the worker") == ["49"]


def test_tasks_that_nobody_waits_for_run_before_the_shutdown_returns(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    executor.submit(tasks.nested_unawaited, log, 20).result(60)
    executor.shutdown(wait=True)
    assert sorted(map(int, log.lines())) == list(range(20))


def test_closures_and_large_values_between_tasks(executor: snakepit.Executor) -> None:
    def outer(size: int) -> tuple[int, bytes]:
        pool = snakepit.current_pool()
        blob = bytes(range(256)) * size
        future = pool.submit(lambda: (len(blob), blob))
        length, back = future.result(60)
        return length, back[:3]

    assert executor.submit(outer, 1000).result(60) == (256_000, b"\x00\x01\x02")


def test_submitting_from_outside_goes_on_meanwhile(executor: snakepit.Executor) -> None:
    tree = executor.submit(tasks.nested_fibonacci, 9)
    singles = [executor.submit(tasks.square, n) for n in range(200)]
    assert results(singles, 120) == [n * n for n in range(200)]
    assert tree.result(120) == 34


def test_nested_future_is_cancelled_while_it_is_queued(make: Make, gate: Any) -> None:
    executor = make(1)

    def work() -> tuple[bool, bool]:
        child = snakepit.current_pool().submit(tasks.square, 3)
        return child.cancel(), child.cancelled()

    assert executor.submit(work).result(60) == (True, True)


def test_nested_call_in_a_thread_of_the_task(executor: snakepit.Executor) -> None:
    def work() -> int:
        pool = snakepit.current_pool()
        got: list[int] = []
        thread = threading.Thread(
            target=lambda: got.append(pool.submit(tasks.square, 6).result(60))
        )
        thread.start()
        thread.join()
        return got[0]

    futures = [executor.submit(work) for _ in range(2)]
    assert results(futures) == [36] * 2


def test_nested_timeout_of_result(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")

    def work() -> str:
        child = snakepit.current_pool().submit(tasks.hold, started, release, "late")
        started.wait()
        try:
            child.result(0.05)
        except TimeoutError:
            release.open()
            return str(child.result(60))
        return "too early"

    assert executor.submit(work).result(60) == "late"


@pytest.mark.processes
def test_worker_that_dies_while_it_waits_for_its_child(make: Make, gate: Any) -> None:
    """The parent's death fails the parent; the child ends unheard and the pool goes on."""
    executor = make(2)
    started, release = gate("started"), gate("release")

    def work() -> None:
        child = snakepit.current_pool().submit(tasks.hold, started, release)
        started.wait()
        threading.Timer(0.05, tasks.exit_process).start()
        child.result(60)

    error = executor.submit(work).exception(60)
    assert isinstance(error, snakepit.errors.WorkerCrashedError)
    release.open()
    assert results(executor.submit(tasks.square, n) for n in range(20)) == [
        n * n for n in range(20)
    ]


def shut_down_from_inside(cancel_futures: bool) -> str:
    pool = snakepit.current_pool()
    try:
        pool.shutdown(cancel_futures=cancel_futures)
    except RuntimeError as error:
        return f"{error} -- {pool.submit(pow, 2, 3).result(60)}"
    return "shut down"


def test_a_task_cannot_shut_down_its_own_pool(executor: snakepit.Executor) -> None:
    for cancel_futures in (False, True):
        told = executor.submit(shut_down_from_inside, cancel_futures).result(60)
        assert "cannot shut down the pool that runs it" in told
        assert "the pool's owner" in told and told.endswith("-- 8")
    assert executor.submit(pow, 2, 4).result(60) == 16
