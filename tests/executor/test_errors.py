"""Exceptions of tasks: they come home whole, or as the nearest thing that can."""

from __future__ import annotations

import io
import pickle
import sys
import traceback
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.support import results

from . import tasks

PLAIN: list[BaseException] = [
    ValueError("text"),
    KeyError("key"),
    OSError(2, "no such thing", "file"),
    FileNotFoundError(2, "nothing"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "reason"),
    StopIteration(5),
    StopAsyncIteration(),
    AssertionError(),
    TimeoutError("the task's own"),
    CancelledError("the task's own"),
    BrokenProcessPool("the task's own"),
    RecursionError("said only"),
    MemoryError("said only"),
    SystemExit(3),
    KeyboardInterrupt("said only"),
    GeneratorExit(),
    BaseException("base"),
    tasks.PlainError("one", 2, None),
    ExceptionGroup("group", [ValueError(1), ExceptionGroup("inner", [KeyError(2)])]),
    snakepit.errors.SnakepitError("the task's own"),
]


@pytest.mark.parametrize("error", PLAIN, ids=lambda error: type(error).__name__)
def test_exception_keeps_its_type_and_arguments(
    executor: snakepit.Executor, error: BaseException
) -> None:
    got = executor.submit(tasks.fail, error).exception(60)
    assert type(got) is type(error)
    assert str(got) == str(error)
    if not isinstance(error, BaseExceptionGroup):
        assert got.args == error.args
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.parametrize("error", PLAIN, ids=lambda error: type(error).__name__)
def test_result_raises_it(executor: snakepit.Executor, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        executor.submit(tasks.fail, error).result(60)
    assert type(caught.value) is type(error)


def test_pool_survives_a_task_that_calls_exit(executor: snakepit.Executor) -> None:
    futures = [executor.submit(sys.exit, "leaving") for _ in range(6)]
    assert [type(future.exception(60)) for future in futures] == [SystemExit] * 6
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_attributes_and_notes_come_along(executor: snakepit.Executor) -> None:
    error: Any = executor.submit(tasks.fail_with_state).exception(60)
    assert error.args == ("text", 7)
    assert error.colour == "blue"
    assert error.__notes__ == ["a note"]


def test_groups_come_along(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.fail_with_group).exception(60)
    assert isinstance(error, ExceptionGroup)
    assert [type(inner) for inner in error.exceptions] == [ValueError, KeyError]


@pytest.mark.processes
@pytest.mark.all_kinds
def test_cause_carries_the_traceback_of_the_worker(executor: snakepit.Executor) -> None:
    with pytest.raises(RuntimeError, match="from the depths") as caught:
        executor.submit(tasks.fail_deeply).result(60)
    cause = str(caught.value.__cause__)
    assert "fail_deeply" in cause
    assert 'raise RuntimeError("from the depths")  # a comment that only the source has' in cause


@pytest.mark.processes
def test_printed_traceback_shows_both_sides(executor: snakepit.Executor) -> None:
    try:
        executor.submit(tasks.fail_deeply).result(60)
    except RuntimeError as error:
        printed = io.StringIO()
        traceback.print_exception(error, file=printed)
    assert "a comment that only the source has" in printed.getvalue()
    assert "test_printed_traceback_shows_both_sides" in printed.getvalue()


def test_local_traceback_is_the_real_one(kind: str, executor: snakepit.Executor) -> None:
    if kind != "local":
        pytest.skip("the frames are in another process")
    error = executor.submit(tasks.fail_deeply).exception(60)
    assert error is not None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-2:] == ["fail_deeply", "inner"]


@pytest.mark.parametrize("function", [tasks.fail_with_cause, tasks.fail_with_context])
def test_chained_exceptions_are_shown(executor: snakepit.Executor, function: Any) -> None:
    with pytest.raises(ValueError, match="the second thing") as caught:
        executor.submit(function).result(60)
    text = "".join(traceback.format_exception(caught.value))
    assert "the first thing" in text
    assert "the second thing" in text


@pytest.mark.processes
def test_exception_can_be_pickled_on(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.fail_deeply).exception(60)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.args) == (RuntimeError, ("from the depths",))


@pytest.mark.processes
def test_exception_whose_constructor_takes_other_arguments(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.fail_with_two_arguments).exception(60)
    assert isinstance(error, (tasks.TwoArgumentsError, errors.RemoteError))
    assert "left and right" in str(error)
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.processes
def test_exception_that_cannot_be_pickled(executor: snakepit.Executor) -> None:
    error = executor.submit(tasks.fail_unpicklably).exception(60)
    assert isinstance(error, errors.RemoteError)
    assert "UnpicklableError" in str(error)
    assert "held a lock" in str(error)
    text = "".join(traceback.format_exception(error))
    assert "fail_unpicklably" in text
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.processes
def test_exception_class_made_in_the_worker(executor: snakepit.Executor) -> None:
    def fail() -> None:
        class StrangeError(Exception):
            pass

        raise StrangeError("from far away")

    error = executor.submit(fail).exception(60)
    assert "from far away" in str(error)
    assert type(error).__name__ in ("StrangeError", "RemoteError")


def test_local_keeps_the_very_object(kind: str, executor: snakepit.Executor) -> None:
    if kind != "local":
        pytest.skip("objects stay what they are only within a process")
    error = ValueError("this one")
    assert executor.submit(tasks.fail, error).exception(60) is error


@pytest.mark.processes
def test_huge_exception(executor: snakepit.Executor) -> None:
    text = "x" * 3_000_000
    error = executor.submit(tasks.fail, ValueError(text)).exception(60)
    assert isinstance(error, ValueError)
    assert error.args == (text,)


def test_many_failures(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.fail_when, n, n - n % 2) for n in range(1000)]
    failed = [future.exception(60) is not None for future in futures]
    assert failed == [n % 2 == 0 for n in range(1000)]


def test_recursion_error_is_the_tasks_own(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.recurse_forever) for _ in range(4)]
    assert [type(future.exception(60)) for future in futures] == [RecursionError] * 4
    assert results([executor.submit(tasks.square, 3)]) == [9]


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("WorkerCrashedError", (BrokenProcessPool,)),
        ("TaskTimeoutError", (TimeoutError,)),
        ("TaskStoppedError", (CancelledError,)),
        ("PoolNotReadyError", (BrokenProcessPool,)),
        ("PoolShutdownError", (RuntimeError,)),
        ("ArenaFullError", (MemoryError,)),
        ("EncodeError", (pickle.PicklingError, TypeError)),
        ("DecodeError", (pickle.UnpicklingError,)),
        ("RemoteError", ()),
    ],
)
def test_errors_derive_from_what_callers_catch_already(name: str, bases: tuple[type, ...]) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.SnakepitError)
    assert issubclass(errors.SnakepitError, Exception)
    for base in bases:
        assert issubclass(error, base)


def test_an_error_has_details_and_can_be_pickled() -> None:
    """Errors travel: out of workers, out of tasks that call other pools, into logs."""
    with pytest.raises(errors.PoolShutdownError) as caught:
        with snakepit.Executor(1, profile="local") as executor:
            pass
        executor.submit(tasks.square, 1)
    assert isinstance(caught.value.details, dict)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is errors.PoolShutdownError
    assert str(again) == str(caught.value)
    assert again.details == caught.value.details
