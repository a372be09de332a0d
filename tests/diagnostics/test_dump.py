"""Where every worker is, as the pool's own process sees it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.diagnostics import PoolReport, WorkerReport
from snakepit.diagnostics.dump import dump_pool
from tests.conftest import Make
from tests.executor.tasks import Gate
from tests.support import LONG, results, wait_until

from . import tasks

Gates = Callable[[str], Gate]


def running(executor: snakepit.Executor, timeout: float = LONG) -> list[WorkerReport]:
    report = executor.dump(timeout=timeout)
    return [worker for worker in report.workers if worker.task is not None]


def the_running_one(executor: snakepit.Executor, function: str = "Gate.wait") -> WorkerReport:
    """The one worker that runs a task, once it is in `function`."""

    def look() -> WorkerReport | None:
        found = running(executor)
        return found[0] if len(found) == 1 and function in functions(found[0]) else None

    worker: WorkerReport = wait_until(look, "one running worker with a stack")
    return worker


def functions(worker: WorkerReport) -> list[str]:
    return [frame.function for frame in worker.stack]


@pytest.mark.all_kinds
def test_running_task_is_shown_with_its_stack(make: Make, gate: Gates) -> None:
    executor = make(2, name="shown")
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.wait_below, 3, started, release)
    started.wait()
    worker = the_running_one(executor)
    release.open()
    future.result(LONG)
    assert worker.state == "running" and worker.task is not None
    assert worker.task.function == "tests.diagnostics.tasks.wait_below"
    assert 0 <= worker.task.age < LONG and worker.task.deadline is None
    assert functions(worker)[-4:] == ["wait_below"] * 4
    first = tasks.wait_below.__code__.co_firstlineno
    lines = [frame.line - first for frame in worker.stack[-4:]]
    assert lines == [5, 2, 2, 2]
    assert {frame.file for frame in worker.stack[-4:]} == {tasks.__file__}


@pytest.mark.processes
def test_idle_workers_are_shown_without_a_task(executor: snakepit.Executor) -> None:
    executor.wait_ready(LONG)
    report = executor.dump(timeout=LONG)
    assert [worker.state for worker in report.workers] == ["idle", "idle"]
    assert {worker.pid for worker in report.workers} == set(executor.worker_pids())
    assert all(worker.no_stack is None and worker.stack == () for worker in report.workers)
    assert report.owner_pid == os.getpid()


def test_frames_of_generators_are_shown(executor: snakepit.Executor, gate: Gates) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.wait_in_generator, started, release)
    started.wait()
    worker = the_running_one(executor)
    release.open()
    future.result(LONG)
    assert functions(worker)[-2:] == [
        "wait_in_generator.<locals>.numbers",
        "wait_in_generator",
    ]


@pytest.mark.processes
def test_task_stuck_in_c_with_the_gil_shows_its_stack(
    executor: snakepit.Executor, gate: Gates, tmp_path: Path
) -> None:
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    started = gate("started")
    future = executor.submit(tasks.wait_in_c_with_the_gil, pipe, started)
    started.wait()

    def in_the_call() -> WorkerReport | None:
        worker = the_running_one(executor, "wait_in_c_with_the_gil")
        return worker if functions(worker) == ["wait_in_c_with_the_gil"] else None

    assert wait_until(in_the_call)
    os.close(os.open(pipe, os.O_WRONLY))
    future.result(LONG)


@pytest.mark.processes
def test_stopped_worker_is_named_and_not_waited_for(
    executor: snakepit.Executor, gate: Gates
) -> None:
    executor.wait_ready(LONG)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.wait_below, 0, started, release)
    started.wait()
    pid = the_running_one(executor).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        # A patience that the test would not survive if it were spent.
        (worker,) = wait_until(
            lambda: [w for w in executor.dump(timeout=1e6).workers if w.state == "stopped"]
        )
    finally:
        os.kill(pid, signal.SIGCONT)
    release.open()
    future.result(LONG)
    assert worker.pid == pid and worker.task is not None and worker.stack == ()
    assert worker.no_stack is not None and "SIGCONT" in worker.no_stack
    assert "no stack: " in "\n".join(worker.lines())


@pytest.mark.processes
def test_worker_in_its_initializer_is_starting(make: Make, gate: Gates) -> None:
    started, release = gate("started"), gate("release")
    executor = make(1, initializer=tasks.initialise_slowly, initargs=(started, release))
    future = executor.submit(int)
    started.wait()

    def look() -> WorkerReport | None:
        (worker,) = executor.dump(timeout=LONG).workers
        return worker if "Gate.wait" in functions(worker) else None

    worker = wait_until(look)
    release.open()
    future.result(LONG)
    assert worker.state == "starting" and worker.task is None
    assert functions(worker)[-1] == "initialise_slowly"


@pytest.mark.processes
def test_deadline_and_items_are_shown(make: Make, gate: Gates) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    view = executor.options(timeout=1000)
    future = view.submit(tasks.wait_below, 0, started, release)
    started.wait()
    task = the_running_one(executor).task
    assert task is not None and task.deadline is not None and 900 < task.deadline <= 1000
    assert "deadline in 16 min" in str(task)
    assert task.items is None
    release.open()
    future.result(LONG)
    gate_of_map = gate("map")
    mapped = executor.map(tasks.wait_for_item, [gate_of_map] * 3, range(3), chunksize=3)
    task = the_running_one(executor).task
    assert task is not None and task.items == 3
    gate_of_map.open()
    assert list(mapped) == [0, 1, 2]


def test_attempt_is_shown_where_calls_are_retried(make: Make, gate: Gates) -> None:
    executor = make(1)
    started, release, failed = gate("started"), gate("release"), gate("failed")
    view = executor.options(retry=snakepit.RetryPolicy(max_attempts=3, backoff=(0.0,)))
    future = view.submit(tasks.fail_once_and_wait, failed, started, release)
    started.wait()
    task = the_running_one(executor).task
    release.open()
    future.result(LONG)
    assert task is not None and task.attempt == 2 and "attempt 2" in str(task)


def test_function_that_travels_by_value_has_a_name(make: Make, gate: Gates) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")

    def local_function(_item: int) -> None:
        started.open()
        release.wait()

    # A map numbers its function, whatever it is.
    mapped = executor.map(local_function, [1])
    started.wait()
    task = the_running_one(executor).task
    release.open()
    assert list(mapped) == [None]
    assert task is not None and task.function is not None
    assert task.function.endswith("local_function")


def test_report_is_text_and_json(executor: snakepit.Executor, gate: Gates) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.wait_below, 0, started, release)
    started.wait()
    the_running_one(executor)
    report = executor.dump(timeout=LONG)
    release.open()
    future.result(LONG)
    text = str(report)
    line = tasks.wait_below.__code__.co_firstlineno + 5
    assert text.startswith(f"pool 'default' of process {os.getpid()}")
    assert "task 1: tests.diagnostics.tasks.wait_below, for " in text
    assert f'File "{tasks.__file__}", line {line}, in wait_below' in text
    as_json: dict[str, Any] = json.loads(json.dumps(report.as_dict()))
    assert as_json["name"] == "default"
    assert [w["task"] for w in as_json["workers"] if w["task"]]


def test_without_stacks_nobody_is_asked(executor: snakepit.Executor, gate: Gates) -> None:
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.wait_below, 0, started, release)
    started.wait()
    the_running_one(executor)
    report = executor.dump(stacks=False)
    release.open()
    future.result(LONG)
    assert all(w.stack == () and w.no_stack is None for w in report.workers)


def test_pool_that_was_not_started_or_has_ended_has_no_workers(make: Make) -> None:
    executor = make(2)
    assert [w for w in executor.dump().workers if w.pid != os.getpid()] == []
    executor.submit(int).result(LONG)
    executor.shutdown()
    report = executor.dump()
    assert isinstance(report, PoolReport)
    assert [w for w in report.workers if w.state == "running"] == []


@pytest.mark.processes
def test_looking_never_harms_a_worker(make: Make, gate: Gates) -> None:
    """Hundreds of looks at tasks that recurse, raise, allocate and make and drop code."""
    executor = make(2)
    executor.wait_ready(LONG)
    release = gate("release")
    futures = [executor.submit(tasks.churn, seed, release) for seed in range(2)]
    pids = set(executor.worker_pids())
    seen = 0
    for _ in range(300):
        for worker in dump_pool(executor._pool, timeout=LONG).workers:
            seen += bool(worker.stack)
            assert worker.state != "dead"
    wait_until(lambda: running(executor))
    release.open()
    assert all(rounds > 0 for rounds in results(futures))
    assert seen > 0
    assert set(executor.worker_pids()) == pids and executor.stats().crashed == 0


def test_looking_never_harms_threads(gate: Gates) -> None:
    release = gate("release")
    with snakepit.Executor(3, profile="local") as executor:
        futures = [executor.submit(tasks.churn, seed, release) for seed in range(3)]
        for _ in range(200):
            executor.dump()
        wait_until(lambda: any(worker.stack for worker in running(executor)))
        release.open()
        assert all(rounds > 0 for rounds in results(futures))
