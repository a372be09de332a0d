"""Values that misbehave while they are packed or unpacked, on either side."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.support import results, wait_until

from . import tasks

pytestmark = pytest.mark.processes


def expect_full_strength(executor: snakepit.Executor) -> None:
    """Check that both workers are there, ready, and run tasks."""
    wait_until(lambda: len(set(executor.worker_pids())) == 2, "two workers")
    barrier = [executor.submit(tasks.square, n) for n in range(50)]
    assert results(barrier) == [n * n for n in range(50)]
    wait_until(lambda: (executor.stats().busy, executor.stats().queued) == (0, 0), "idleness")


def test_argument_that_cannot_be_pickled(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.identity, threading.Lock())
    error = future.exception(60)
    assert isinstance(error, (pickle.PicklingError, TypeError))
    assert isinstance(error, errors.EncodeError)
    assert "lock" in str(error)
    expect_full_strength(executor)


def test_function_that_cannot_be_pickled(executor: snakepit.Executor) -> None:
    lock = threading.Lock()
    error = executor.submit(lambda: lock.locked()).exception(60)
    assert isinstance(error, errors.EncodeError)
    expect_full_strength(executor)


def test_result_that_cannot_be_pickled(executor: snakepit.Executor) -> None:
    for function in (tasks.make_lock, tasks.make_generator):
        error = executor.submit(function).exception(60)
        assert isinstance(error, errors.EncodeError)
        assert isinstance(error, (pickle.PicklingError, TypeError))
    expect_full_strength(executor)


def test_argument_that_raises_when_it_is_packed(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.identity, tasks.RaisesWhenDumped()).exception(60)
    assert isinstance(error, (errors.EncodeError, ValueError))
    assert "bad to dump" in str(error)
    expect_full_strength(executor)


def test_argument_that_exits_when_it_is_packed(executor: snakepit.Executor) -> None:
    """The caller's own SystemExit may come out of submit, but must harm nothing."""
    with pytest.raises((SystemExit, errors.EncodeError)):
        executor.submit(tasks.identity, tasks.ExitsWhenDumped()).result(60)
    expect_full_strength(executor)


def test_argument_that_raises_in_the_worker(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.identity, tasks.RaisesWhenLoaded()).exception(60)
    assert isinstance(error, (errors.DecodeError, ValueError))
    assert "bad to load" in str(error)
    expect_full_strength(executor)


@pytest.mark.parametrize("cls", [tasks.ExitsWhenLoaded, tasks.InterruptsWhenLoaded])
def test_argument_that_exits_in_the_worker(executor: snakepit.Executor, cls: type[Any]) -> None:
    for _ in range(3):
        error = executor.submit(tasks.identity, cls()).exception(60)
        assert isinstance(error, (errors.SnakepitError, SystemExit, KeyboardInterrupt))
    expect_full_strength(executor)


def test_argument_that_kills_the_worker(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.identity, tasks.DiesWhenLoaded()).exception(60)
    assert isinstance(error, errors.WorkerCrashedError)
    expect_full_strength(executor)


def test_result_that_raises_when_it_is_packed(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.build, tasks.RaisesWhenDumped).exception(60)
    assert isinstance(error, (errors.EncodeError, ValueError))
    assert "bad to dump" in str(error)
    expect_full_strength(executor)


def test_result_that_exits_when_it_is_packed(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.build, tasks.ExitsWhenDumped).exception(60)
    assert isinstance(error, (errors.SnakepitError, SystemExit))
    expect_full_strength(executor)


def test_result_that_kills_the_worker_when_it_is_packed(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.build, tasks.DiesWhenDumped).exception(60)
    assert isinstance(error, errors.WorkerCrashedError)
    expect_full_strength(executor)


def test_result_that_raises_at_home(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.build, tasks.RaisesWhenLoaded).exception(60)
    assert isinstance(error, errors.DecodeError)
    assert isinstance(error, pickle.UnpicklingError)
    assert "bad to load" in str(error)
    expect_full_strength(executor)


def test_result_that_exits_at_home(executor: snakepit.Executor) -> None:
    """Whichever thread unpacks it, the collector of results lives on."""
    for _ in range(3):
        error = executor.submit(tasks.build, tasks.ExitsWhenLoaded).exception(60)
        assert isinstance(error, errors.DecodeError)
    settled = threading.Event()
    executor.submit(tasks.build, tasks.ExitsWhenLoaded).add_done_callback(lambda _: settled.set())
    assert settled.wait(60)
    expect_full_strength(executor)


def test_bad_values_among_good_ones(executor: snakepit.Executor) -> None:
    bad = {
        3: tasks.RaisesWhenLoaded,
        7: tasks.ExitsWhenDumped,
        11: tasks.RaisesWhenDumped,
        13: tasks.ExitsWhenLoaded,
    }
    futures = [
        executor.submit(tasks.build, bad[n % 20]) if n % 20 in bad else executor.submit(int, n)
        for n in range(200)
    ]
    for number, future in enumerate(futures):
        if number % 20 in bad:
            assert future.exception(60) is not None
        else:
            assert future.result(60) == number
    expect_full_strength(executor)


def test_large_value_with_an_unpicklable_end_gives_its_memory_back(
    executor: snakepit.Executor,
) -> None:
    """Buffers that were placed before the error must not stay behind (the audit looks)."""
    data = bytearray(300_000)
    for _ in range(50):
        future = executor.submit(tasks.identity, [pickle.PickleBuffer(data), threading.Lock()])
        assert isinstance(future.exception(60), errors.EncodeError)
    expect_full_strength(executor)


def test_module_that_the_worker_cannot_import(
    executor: snakepit.Executor, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a module that exists in the caller alone: an error, not a dead worker."""
    import sys
    import types

    module = types.ModuleType("module_of_the_caller_alone")
    exec("def function(): return 1", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    future = executor.submit(module.function)
    error = future.exception(60)
    assert error is None or "module_of_the_caller_alone" in str(error)
    expect_full_strength(executor)
