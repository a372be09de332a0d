"""Stopping tasks that run."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import results

from . import tasks
from .test_options import expect_capacity


@pytest.mark.processes
@pytest.mark.parametrize(
    "task",
    [tasks.sleep_long, tasks.spin, tasks.spin_ignoring_sigterm, tasks.swallow_everything],
    ids=lambda task: task.__name__,
)
def test_stops_any_task(executor: snakepit.Executor, gate: Any, task: Any) -> None:
    error_of_stopped(executor, gate, task)
    expect_capacity(executor, gate)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("task", "number"),
    [(tasks.swallow_interrupts, "SIGTERM"), (tasks.swallow_everything, "SIGKILL")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_stop_by_force_says_what_it_took(
    executor: snakepit.Executor, gate: Any, task: Any, number: str
) -> None:
    error = error_of_stopped(executor, gate, task)
    assert f"was ended for it, by {number}; the task had run for " in str(error)
    assert error.autopsy is not None
    assert (error.autopsy.signal, error.autopsy.ended_by_pool) == (number, "stop")
    # The grace times that it was given are part of it.
    assert error.details["ran"] >= 0.5
    assert pickle.loads(pickle.dumps(error)).autopsy == error.autopsy


@pytest.mark.processes
@pytest.mark.all_kinds
def test_stop_without_force_has_no_autopsy(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace={"interrupt": 60.0})
    error = error_of_stopped(executor, gate, tasks.spin)
    assert error.autopsy is None


def error_of_stopped(executor: snakepit.Executor, gate: Any, task: Any) -> errors.TaskStoppedError:
    """Stop a call of `task` once it runs, and return the error that it ends with."""
    started = gate("started")
    future = executor.submit(task, started)
    started.wait()
    future.stop()
    error = wait_for_error(future)
    assert isinstance(error, errors.TaskStoppedError)
    return error


def wait_for_error(future: snakepit.Future[Any]) -> BaseException | None:
    """Return what the future failed with; a CancelledError may be raised or given."""
    wait([future], 60)
    try:
        return future.exception(0)
    except CancelledError as error:
        return error


@pytest.mark.processes
@pytest.mark.all_kinds
def test_stopped_task_reads_as_cancelled(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")
    future = executor.submit(tasks.sleep_long, started)
    started.wait()
    future.stop()
    with pytest.raises(CancelledError):
        future.result(60)
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.processes
def test_stops_a_task_that_is_stuck_in_c(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")

    def work() -> None:
        import re

        started.open()
        re.match(r"(a*)*b", "a" * 60)

    future = executor.submit(work)
    started.wait()
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    expect_capacity(executor, gate)


def test_stopping_a_queued_task_keeps_it_from_running(
    make: Make, gate: Any, log: tasks.Log
) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release)
    started.wait()
    queued = executor.submit(tasks.record, log, "ran")
    queued.stop()
    with pytest.raises(CancelledError):
        queued.result(60)
    release.open()
    running.result(60)
    executor.shutdown()
    assert log.lines() == []


def test_stopping_a_settled_task_changes_nothing(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.square, 3)
    assert future.result(60) == 9
    future.stop()
    future.stop()
    assert future.result(0) == 9
    failed = executor.submit(tasks.fail, ValueError("kept"))
    assert isinstance(failed.exception(60), ValueError)
    failed.stop()
    assert isinstance(failed.exception(0), ValueError)


@pytest.mark.processes
def test_stop_harms_no_other_task(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")
    future = executor.submit(tasks.spin, started)
    started.wait()
    others = [executor.submit(tasks.square, n) for n in range(300)]
    future.stop()
    assert results(others) == [n * n for n in range(300)]
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)


@pytest.mark.processes
def test_stop_races_with_the_end(executor: snakepit.Executor) -> None:
    """Either the task is done or it is stopped; the worker's next task is never hit."""
    for number in range(100):
        first = executor.submit(tasks.square, number)
        second = executor.submit(tasks.square, number + 1)
        first.stop()
        error = wait_for_error(first)
        assert error is None or isinstance(error, CancelledError)
        assert second.result(60) == (number + 1) ** 2
    expect_no_crash(executor)


def expect_no_crash(executor: snakepit.Executor) -> None:
    assert results(executor.submit(tasks.square, n) for n in range(100)) == [
        n * n for n in range(100)
    ]


@pytest.mark.processes
def test_stopping_many_at_once(make: Make, gate: Any) -> None:
    executor = make(3)
    doors = [gate(f"started-{n}") for n in range(3)]
    running = [executor.submit(tasks.spin, door) for door in doors]
    queued = [executor.submit(tasks.spin, gate(f"never-{n}")) for n in range(10)]
    for door in doors:
        door.wait()
    threads = [threading.Thread(target=future.stop) for future in running + queued]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for future in running + queued:
        assert isinstance(wait_for_error(future), CancelledError)
    expect_capacity(executor, gate, workers=3)


@pytest.mark.processes
def test_cooperative_task_sees_the_flag(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")
    executor.wait_ready(60)
    pids = sorted(executor.worker_pids())

    def work() -> str:
        started.open()
        while not snakepit.cancelled():
            pass
        return "stopped early"

    future = executor.submit(work)
    started.wait()
    assert future.stop() is True
    assert future.result(60) == "stopped early"
    assert sorted(executor.worker_pids()) == pids


@pytest.mark.processes
def test_shutdown_after_a_stop(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    future = executor.submit(tasks.swallow_everything, started)
    started.wait()
    future.stop()
    executor.shutdown(wait=True)
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)


def test_a_bare_future_cannot_be_stopped() -> None:
    future: snakepit.Future[Any] = snakepit.Future()
    future.stop()
    assert future.cancelled() or not future.done()
