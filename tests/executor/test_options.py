"""Views of an executor whose calls carry a timeout, a priority, or a session."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import CancelledError
from operator import eq
from typing import Any, Literal

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import results, wait_until

from . import tasks


def expect_capacity(executor: snakepit.Executor, gate: Any, workers: int = 2) -> None:
    """Check that `workers` tasks can run at once."""
    release = gate("capacity-release")
    doors = [gate(f"capacity-{n}") for n in range(workers)]
    futures = [executor.submit(tasks.hold, door, release) for door in doors]
    wait_until(lambda: all(door.is_open() for door in doors), f"{workers} tasks to run at once")
    release.open()
    results(futures)


# Timeouts


@pytest.mark.processes
def test_running_task_is_ended_at_its_timeout(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")
    future = executor.options(timeout=1.0).submit(tasks.sleep_long, started)
    error = future.exception(60)
    assert isinstance(error, errors.TaskTimeoutError)
    assert isinstance(error, TimeoutError)
    assert started.is_open()
    expect_capacity(executor, gate)


@pytest.mark.processes
def test_late_call_has_failed_before_its_worker_hears_of_it(
    executor: snakepit.Executor, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it might answer, in time to count, that it was stopped on request."""
    executor.wait_ready(60)
    ladder: Any = executor._pool.supervisor.ladder  # type: ignore[union-attr]
    stop, failed = ladder.stop_task, []

    def note(task: Any) -> None:
        failed.append(task.done())
        stop(task)

    monkeypatch.setattr(ladder, "stop_task", note)
    future = executor.options(timeout=0.5).submit(tasks.sleep_long, gate("started"))
    assert isinstance(future.exception(60), errors.TaskTimeoutError)
    expect_capacity(executor, gate)
    assert failed == [True]


@pytest.mark.processes
@pytest.mark.parametrize(
    "task", [tasks.spin, tasks.spin_ignoring_sigterm, tasks.swallow_everything]
)
def test_unwilling_task_is_ended_at_its_timeout(
    executor: snakepit.Executor, gate: Any, task: Any
) -> None:
    future = executor.options(timeout=0.5).submit(task, gate("started"))
    assert isinstance(future.exception(60), errors.TaskTimeoutError)
    expect_capacity(executor, gate)


def test_queued_task_times_out_and_never_runs(
    executor: snakepit.Executor, gate: Any, log: tasks.Log
) -> None:
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release) for door in doors]
    for door in doors:
        door.wait()
    futures = [executor.options(timeout=0.2).submit(tasks.record, log, n) for n in range(5)]
    for future in futures:
        assert isinstance(future.exception(60), errors.TaskTimeoutError)
    assert not any(future.done() for future in running)
    release.open()
    results(running)
    executor.shutdown()
    assert log.lines() == []


def test_queued_task_times_out_although_nobody_waits(
    executor: snakepit.Executor, gate: Any
) -> None:
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(2)]
    future = executor.options(timeout=0.1).submit(tasks.square, 1)
    wait_until(future.done, "the queued task to time out")
    assert isinstance(future.exception(0), errors.TaskTimeoutError)
    release.open()
    results(running)


def test_timeout_that_suffices(executor: snakepit.Executor) -> None:
    view = executor.options(timeout=60)
    assert results(view.submit(tasks.square, n) for n in range(100)) == [n * n for n in range(100)]
    assert list(view.map(tasks.square, range(100))) == [n * n for n in range(100)]


def test_timeouts_in_any_order(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(2)]
    limits = [0.3, 0.1, 60.0, 0.2, 0.05, 60.0]
    futures = [executor.options(timeout=limit).submit(tasks.square, 2) for limit in limits]
    timed_out = [future for future, limit in zip(futures, limits, strict=True) if limit < 1]
    for future in timed_out:
        assert isinstance(future.exception(60), errors.TaskTimeoutError)
    release.open()
    results(running)
    assert [future.result(60) for future in futures if future not in timed_out] == [4, 4]


@pytest.mark.processes
def test_timeout_spares_the_tasks_behind_it(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    slow = executor.options(timeout=0.5).submit(tasks.spin, started)
    others = [executor.submit(tasks.square, n) for n in range(30)]
    assert isinstance(slow.exception(60), errors.TaskTimeoutError)
    assert results(others) == [n * n for n in range(30)]


def test_timeout_error_says_where_the_time_went(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(2)]
    error = executor.options(timeout=0.1).submit(tasks.square, 1).exception(60)
    release.open()
    results(running)
    assert isinstance(error, errors.TaskTimeoutError)
    assert "0.1" in str(error)
    assert error.details


@pytest.mark.parametrize("timeout", [-1, "1", float("nan")])
def test_refuses_a_wrong_timeout(executor: snakepit.Executor, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        executor.options(timeout=timeout).submit(tasks.square, 1)


# Priorities


PRIORITIES: tuple[Literal["low", "normal", "high"], ...] = ("low", "normal", "high")


def test_priorities_order_the_queue(make: Make, gate: Any, log: tasks.Log) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release)
    started.wait()
    futures = []
    for number in range(3):
        for priority in PRIORITIES:
            view = executor.options(priority=priority)
            futures.append(view.submit(tasks.record, log, f"{priority} {number}"))
    release.open()
    running.result(60)
    results(futures)
    assert log.lines() == [f"{p} {n}" for p in ("high", "normal", "low") for n in range(3)]


def test_equal_priorities_keep_their_order(make: Make, gate: Any, log: tasks.Log) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release)
    started.wait()
    for priority in ("low", "high"):
        for number in range(40):
            executor.options(priority=priority).submit(tasks.record, log, f"{priority}-{number}")
    release.open()
    executor.shutdown()
    lines = log.lines()
    for priority in ("high", "low"):
        own = [line for line in lines if line.startswith(priority)]
        assert own == [f"{priority}-{n}" for n in range(40)]
    # So that nothing starves, one choice in 16 is for the lowest.
    assert 36 <= sum(line.startswith("high") for line in lines[:40]) < 40


def test_plain_submits_keep_their_order(make: Make, log: tasks.Log) -> None:
    executor = make(1)
    for number in range(500):
        executor.submit(tasks.record, log, number)
    executor.shutdown()
    assert list(map(int, log.lines())) == list(range(500))


def test_unknown_priority_is_refused(executor: snakepit.Executor) -> None:
    with pytest.raises(ValueError, match="high"):
        executor.options(priority="hihg").submit(tasks.square, 1)  # type: ignore[arg-type]


def test_unknown_option_is_refused(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError, match="timeuot"):
        executor.options(timeuot=3)  # type: ignore[call-arg]


# Sessions


@pytest.mark.processes
def test_calls_of_a_session_mostly_meet_the_same_worker(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(60)
    for session in ("a", "b", "c"):
        view = executor.options(session=session)
        pids: Counter[int] = Counter()
        for _ in range(20):
            wait_until(lambda: executor.stats().busy == 0, "idle workers")
            pids[view.submit(os.getpid).result(60)] += 1
        assert pids.most_common(1)[0][1] >= 15


@pytest.mark.processes
def test_sessions_meet_their_own_workers_in_turn(make: Make, gate: Any) -> None:
    """What pins them is the session, not that the warmest worker is taken first."""
    executor = make(2)
    executor.wait_ready(60)
    release = gate("release")
    doors = {name: gate(f"started-{name}") for name in "ab"}
    held = {
        name: executor.options(session=name).submit(tasks.hold_pid, door, release)
        for name, door in doors.items()
    }
    for door in doors.values():
        door.wait()
    release.open()
    home = {name: future.result(60) for name, future in held.items()}
    assert home["a"] != home["b"]
    at_home = 0
    for _ in range(20):
        for name in "ab":
            # A worker still busy with its last answer is passed over, and the session moves.
            wait_until(lambda: executor.stats().busy == 0, "idle workers")
            pid = executor.options(session=name).submit(os.getpid).result(60)
            at_home += pid == home[name]
    assert at_home >= 30


@pytest.mark.processes
def test_ten_thousand_sessions_are_told_apart(make: Make) -> None:
    executor = make(2)
    executor.wait_ready(60)
    workers = executor.lifecycle_stats().workers
    views = [executor.options(session=f"user-{number}") for number in range(10_000)]
    homes = []
    for number, view in enumerate(views):
        worker = workers[number % 2]
        executor._pool.scheduler.prefer_lane(view._terms.session, worker.id)  # type: ignore[union-attr]
        homes.append(worker.pid)
    # A worker that is still busy with its last answer is passed over.
    met = [view.submit(os.getpid).result(60) for view in views]
    assert sum(map(eq, met, homes)) >= 9_000


@pytest.mark.processes
def test_the_worker_of_a_strict_session_is_the_one_for_its_other_calls(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(60)
    for session in map(str, range(10)):
        home = executor.options(session=session, affinity="strict_queue").submit(os.getpid)
        pid = home.result(60)
        view = executor.options(session=session)
        wait_until(lambda: executor.stats().busy == 0, "idle workers")
        assert view.submit(os.getpid).result(60) == pid


def test_session_does_not_wait_for_a_busy_worker(make: Make, gate: Any) -> None:
    executor = make(2)
    view = executor.options(session="s")
    started, release = gate("started"), gate("release")
    running = view.submit(tasks.hold, started, release)
    started.wait()
    assert view.submit(tasks.square, 4).result(60) == 16
    assert not running.done()
    release.open()
    running.result(60)


@pytest.mark.processes
def test_session_survives_the_death_of_its_worker(executor: snakepit.Executor) -> None:
    view = executor.options(session="s")
    first = view.submit(os.getpid).result(60)
    assert isinstance(view.submit(tasks.exit_process).exception(60), errors.WorkerCrashedError)
    assert view.submit(os.getpid).result(60) != first


# Views


def test_view_has_submit_and_map(executor: snakepit.Executor) -> None:
    view = executor.options(timeout=60, priority="high", session="s")
    assert view.submit(tasks.add, 1, right=2).result(60) == 3
    assert list(view.map(tasks.square, range(50), chunksize=7)) == [n * n for n in range(50)]
    assert isinstance(view.submit(tasks.square, 1), snakepit.Future)


def test_views_do_not_change_the_executor(executor: snakepit.Executor, gate: Any) -> None:
    executor.options(timeout=0.05, priority="low")
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "fine")
    started.wait()
    with pytest.raises(TimeoutError):
        future.result(0.2)
    assert not future.done()
    release.open()
    assert future.result(60) == "fine"


def test_view_after_shutdown_is_refused(executor: snakepit.Executor) -> None:
    view = executor.options(timeout=60)
    executor.shutdown()
    with pytest.raises(errors.PoolShutdownError):
        view.submit(tasks.square, 1)


@pytest.mark.processes
def test_cancel_running_lets_cancel_stop_a_task(executor: snakepit.Executor, gate: Any) -> None:
    started = gate("started")
    future = executor.options(cancel_running=True).submit(tasks.sleep_long, started)
    started.wait()
    assert future.cancel() is True
    with pytest.raises(CancelledError):
        future.result(60)
    expect_capacity(executor, gate)


def test_a_view_keeps_its_executor(make: Make) -> None:
    view = snakepit.Executor(1).options(timeout="1min")
    assert view.submit(tasks.square, 3).result(60) == 9
    del view


def test_cancel_running_is_true_or_false(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError, match="cancel_running"):
        executor.options(cancel_running="no")  # type: ignore[arg-type]
