"""What the constructor accepts, refuses, and promises."""

from __future__ import annotations

import concurrent.futures
import inspect
import multiprocessing
import os
import pickle
import threading
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import KINDS, new_executor, results

from . import tasks


def test_is_an_executor_of_the_standard_library(executor: snakepit.Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)


def test_submit_returns_a_future_of_the_standard_library(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.square, 3)
    assert isinstance(future, snakepit.Future)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(60) == 9


def test_works_without_any_argument() -> None:
    with snakepit.Executor() as executor:
        pid = executor.submit(os.getpid).result(60)
    assert pid != os.getpid()


def test_default_size_is_the_number_of_usable_cpus() -> None:
    with snakepit.Executor() as executor:
        executor.wait_ready(60)
        assert 1 <= len(executor.worker_pids()) <= len(os.sched_getaffinity(0))
        assert executor.stats().workers == len(executor.worker_pids())


def test_local_tasks_run_in_threads_of_the_caller() -> None:
    with new_executor("local") as executor:
        pid, thread = executor.submit(lambda: (os.getpid(), threading.get_ident())).result(60)
        assert pid == os.getpid()
        assert thread != threading.get_ident()
        assert executor.worker_pids() == []


@pytest.mark.all_kinds
@pytest.mark.processes
def test_each_start_method_runs_tasks_in_other_processes(make: Make) -> None:
    executor = make(2)
    executor.wait_ready(60)
    pids = executor.worker_pids()
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert {executor.submit(os.getpid).result(60) for _ in range(4)} <= set(pids)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_takes_a_multiprocessing_context(method: str) -> None:
    context = multiprocessing.get_context(method)
    with snakepit.Executor(1, mp_context=context) as executor:
        assert executor.submit(tasks.square, 5).result(60) == 25


@pytest.mark.parametrize("count", [0, -1, -1000])
def test_refuses_a_size_below_one(kind: str, count: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        snakepit.Executor(count, **KINDS[kind])


@pytest.mark.parametrize("count", [10**9, 10**30])
def test_refuses_an_absurd_size(kind: str, count: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        snakepit.Executor(count, **KINDS[kind])


@pytest.mark.parametrize("count", ["4", 2.5, [], object(), float("nan")])
def test_refuses_a_size_that_is_no_integer(kind: str, count: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        snakepit.Executor(count, **KINDS[kind])


def test_refuses_an_initializer_that_cannot_be_called(kind: str) -> None:
    with pytest.raises(TypeError, match="initializer"):
        snakepit.Executor(1, initializer=3, **KINDS[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (-3, ValueError), ("3", TypeError)])
def test_refuses_a_wrong_number_of_tasks_per_child(
    kind: str, count: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="max_tasks_per_child"):
        snakepit.Executor(1, max_tasks_per_child=count, **KINDS[kind])


def test_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="max_wrokers"):
        snakepit.Executor(max_wrokers=2)  # type: ignore[call-arg]


def test_name_that_is_not_there_is_an_error_to_type_checkers_as_well() -> None:
    with pytest.raises(AttributeError, match="Exectuor"):
        # mypy, which `make check` runs, refuses an ignored error that is none.
        snakepit.Exectuor(2)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("option", "wrong", "nearest"),
    [("start_method", "forksever", "forkserver"), ("profile", "proces", "process")],
)
def test_unknown_value_is_refused_and_the_nearest_known_named(
    option: str, wrong: str, nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        snakepit.Executor(1, **{option: wrong})  # type: ignore[arg-type]


def test_refused_constructions_leave_nothing(kind: str) -> None:
    for _ in range(20):
        with pytest.raises(ValueError, match="max_workers"):
            snakepit.Executor(0, **KINDS[kind])


def test_unused_executor_ends_at_once(kind: str) -> None:
    for _ in range(5):
        new_executor(kind).shutdown()


def test_many_executors_side_by_side(make: Make) -> None:
    executors = [make(1) for _ in range(4)]
    futures = [executor.submit(tasks.square, n) for n in range(5) for executor in executors]
    assert results(futures) == [n * n for n in range(5) for _ in executors]


SENSELESS = [
    ({"worker_ttl": 10**400}, ValueError, "worker_ttl .* too large"),
    ({"memory_threshold_mb": "0.5B"}, ValueError, "memory_threshold_mb must be at least 1 byte"),
    ({"env": ["A=b"]}, TypeError, r"env must be a dict of environment variables, not \['A=b'\]"),
    ({"env": {"A": "b\0c"}}, ValueError, "env: A contains a NUL"),
    ({"env": {"A=B": "c"}}, ValueError, "env: 'A=B' cannot be the name"),
    ({"env": {"A": None}}, TypeError, "env: A must be text or a number"),
    ({"name": 5}, TypeError, "name must be a string"),
    ({"initializer": print, "initargs": 5}, TypeError, "initargs must be a tuple"),
    ({"initializer": print, "initargs": "abc"}, TypeError, r"initargs .* \(value,\)"),
    ({"profile": "proces", "threads_per_worker": 2}, ValueError, "did you mean 'process'"),
]


@pytest.mark.parametrize(("options", "error", "message"), SENSELESS)
def test_options_that_make_no_sense_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        snakepit.Executor(1, **options)


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: snakepit.Executor(max_wrokers=2), "max_workers"),  # type: ignore[call-arg]
        (lambda: snakepit.Executor(pool_size=2), "max_workers"),  # type: ignore[call-arg]
        (lambda: snakepit.Executor(processes=2), "max_workers"),  # type: ignore[call-arg]
        (lambda: snakepit.Executor(adapter_env={}), "env"),  # type: ignore[call-arg]
        (
            lambda: snakepit.Executor(maxtasksperchild=2),  # type: ignore[call-arg]
            "max_tasks_per_child",
        ),
        (lambda: snakepit.RetryPolicy(max_atempts=2), "max_attempts"),  # type: ignore[call-arg]
        (lambda: snakepit.CircuitBreaker(failure=2), "failures"),  # type: ignore[call-arg]
    ],
)
def test_unknown_argument_names_the_nearest(call: Any, near: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument .* did you mean {near!r}"):
        call()


def test_unknown_term_names_the_nearest(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        executor.options(timout=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'chunksize'"):
        executor.map(abs, [1], chunk_size=2)  # type: ignore[call-arg]


def test_signatures_are_there_to_be_read() -> None:
    for function, name in (
        (snakepit.Executor, "max_workers"),
        (snakepit.Executor.options, "timeout"),
        (snakepit.RetryPolicy, "max_attempts"),
    ):
        assert name in inspect.signature(function).parameters


OF_PROCESSES = [
    {"preload": ["json"]}, {"inline_threshold": 5}, {"heartbeat_timeout": 5.0}, {"max_missed": 1},
    {"heartbeat_interval": 0.5}, {"env": {"A": "b"}}, {"start_timeout": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("options", OF_PROCESSES, ids=lambda options: next(iter(options)))
def test_local_executor_refuses_what_is_for_processes(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} is for workers that are"):
        snakepit.Executor(1, profile="local", **options)


def test_local_executor_takes_options_that_ask_for_nothing() -> None:
    with snakepit.Executor(
        1, profile="local", env={}, preload=[], max_missed=3, heartbeat_interval=None
    ) as executor:
        assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.processes
def test_hanging_initializer_is_told_by_the_option_that_limits_it(make: Make) -> None:
    executor = make(1, initializer=tasks.sleep_and_return, initargs=(100, 1), start_timeout=0.3)
    error = executor.submit(tasks.square, 3).exception(60)
    assert isinstance(error, errors.PoolNotReadyError)
    assert "was not ready within start_timeout=0.3 s and was ended" in str(error)
    assert "its initializer, or what that imports, takes longer" in str(error)
    assert "raise start_timeout" in str(error)
    assert error.details["start_timeout"] == 0.3


@pytest.mark.processes
def test_executor_that_a_task_uses_names_current_pool(executor: snakepit.Executor) -> None:
    view = executor.options(timeout=60)
    for error in (
        executor.submit(lambda: executor.submit(pow, 2, 3)).exception(60),
        executor.submit(lambda: view.submit(pow, 2, 3)).exception(60),
        executor.submit(tasks.identity, executor).exception(60),
    ):
        assert isinstance(error, errors.EncodeError)
        assert "snakepit.current_pool()" in str(error)
    with pytest.raises(pickle.PicklingError, match="a Pool cannot be pickled"):
        pickle.dumps(snakepit.Pool(snakepit.ShowcaseAdapter))


def test_wait_ready_can_be_called_again_and_after_work(executor: snakepit.Executor) -> None:
    executor.wait_ready(60)
    assert executor.submit(tasks.square, 2).result(60) == 4
    executor.wait_ready()


@pytest.mark.processes
def test_wait_ready_says_when_its_time_is_up(make: Make, gate: Any) -> None:
    door = gate("start")
    executor = make(1, initializer=door.wait)
    with pytest.raises(TimeoutError):
        executor.wait_ready(timeout=0.2)
    door.open()
    executor.wait_ready(60)
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.processes
@pytest.mark.parametrize("threshold", [0, 1, 100, 10_240, 100_000])
def test_inline_threshold_changes_no_result(make: Make, threshold: int) -> None:
    executor = make(1, inline_threshold=threshold)
    for size in (0, 1, 99, 100, 101, 10_239, 10_240, 10_241, 99_999, 100_001, 300_000):
        data = bytes(range(256)) * (size // 256 + 1)
        assert executor.submit(tasks.identity, data[:size]).result(60) == data[:size]
