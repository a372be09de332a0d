"""What a call held is freed when the call is over, on both sides."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import snakepit
from tests.conftest import gil_is_enabled
from tests.support import wait_until

from . import tasks
from .tasks import Thing


@contextmanager
def no_garbage_collector() -> Iterator[None]:
    """Let reference counts alone free what is freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def expect_freed(reference: weakref.ref[Any], what: str) -> None:
    """Wait until the object is gone; without the GIL another thread may merge its counts late."""

    def gone() -> bool:
        if not gil_is_enabled():
            gc.collect()
        return reference() is None

    wait_until(gone, f"{what} to be freed", timeout=20)


def test_object_of_a_submitted_method_is_freed(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        thing = Thing()
        reference = weakref.ref(thing)
        executor.submit(thing.method)
        del thing
        expect_freed(reference, "the bound object")


def test_argument_is_freed_once_the_task_is_done(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        thing = Thing()
        reference = weakref.ref(thing)
        future = executor.submit(tasks.capture, [thing], key=thing)
        future.exception(60)
        del thing, future
        expect_freed(reference, "the argument")


def test_argument_is_freed_while_the_future_is_kept(kind: str, executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        thing = Thing()
        reference = weakref.ref(thing)
        future = executor.submit(isinstance, thing, int)
        assert future.result(60) is False
        del thing
        expect_freed(reference, "the argument")
        assert future.done()


def test_function_is_freed(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        thing: Any = Thing(3)

        def work() -> Any:
            return thing.value

        references: list[weakref.ref[Any]] = [weakref.ref(work), weakref.ref(thing)]
        assert executor.submit(work).result(60) == 3
        del work
        thing = None
        for reference in references:
            expect_freed(reference, "the function or what it captured")


def test_result_is_freed_with_its_future(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        future = executor.submit(Thing, 1)
        result = future.result(60)
        reference = weakref.ref(result)
        del result
        assert reference() is not None
        del future
        expect_freed(reference, "the result")


def test_result_nobody_asked_for_is_freed(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        seen: list[weakref.ref[Any]] = []
        settled = threading.Event()

        def look(future: Future[Any]) -> None:
            seen.append(weakref.ref(future.result(0)))
            settled.set()

        executor.submit(Thing, 1).add_done_callback(look)
        assert settled.wait(60)
        expect_freed(seen[0], "the result")


def test_exception_is_freed_with_its_future(executor: snakepit.Executor) -> None:
    """Raising it must leave no cycle through the frames of its traceback."""

    class Marked(ValueError):
        pass

    def work() -> None:
        raise Marked("x")

    with no_garbage_collector():
        future = executor.submit(work)
        try:
            future.result(60)
        except Marked as error:
            reference = weakref.ref(error)
        del future
        expect_freed(reference, "the exception")


def test_map_keeps_no_result(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        for thing in executor.map(Thing, range(10), chunksize=1):
            reference = weakref.ref(thing)
            del thing
            expect_freed(reference, "a result that map gave")


def test_map_keeps_no_item(executor: snakepit.Executor) -> None:
    references: list[weakref.ref[Any]] = []

    def items() -> Iterator[Thing]:
        for number in range(10):
            thing = Thing(number)
            references.append(weakref.ref(thing))
            yield thing
            del thing

    with no_garbage_collector():
        assert list(executor.map(lambda thing: thing.value, items())) == list(range(10))
        for reference in references:
            expect_freed(reference, "an item of map")


def test_as_completed_keeps_no_future(executor: snakepit.Executor) -> None:
    futures: list[Any] = [executor.submit(tasks.square, n) for n in range(10)]
    with no_garbage_collector():
        for future in as_completed(futures, timeout=60):
            futures.remove(future)
            reference = weakref.ref(future)
            del future
            expect_freed(reference, "a future that as_completed gave")


def test_settled_future_does_not_keep_the_executor(kind: str) -> None:
    from tests.support import new_executor

    executor = new_executor(kind)
    view = executor.options(session="a", affinity="strict_queue")
    futures = [executor.submit(tasks.square, 3), view.submit(tasks.square, 3)]
    assert [future.result(60) for future in futures] == [9, 9]
    reference = weakref.ref(executor)
    with no_garbage_collector():
        del executor, view
        expect_freed(reference, "the executor")
    assert [future.result(0) for future in futures] == [9, 9]


def test_callback_is_freed_after_it_ran(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        thing = Thing()
        reference = weakref.ref(thing)
        future = executor.submit(tasks.square, 2)
        future.add_done_callback(lambda _, thing=thing: None)  # type: ignore[misc]
        del thing
        future.result(60)
        del future
        expect_freed(reference, "what a callback captured")


def test_cancelled_task_frees_its_arguments(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    with no_garbage_collector():
        running = [executor.submit(tasks.pid_after, release) for _ in range(3)]
        thing = Thing()
        reference = weakref.ref(thing)
        future = executor.submit(tasks.capture, thing)
        assert future.cancel()
        del thing, future
        release.open()
        for other in running:
            other.result(60)
        expect_freed(reference, "the argument of a cancelled task")


@pytest.mark.processes
def test_arguments_are_freed_in_the_worker(executor: snakepit.Executor, log: tasks.Log) -> None:
    assert executor.submit(isinstance, tasks.Remains(log, os.getpid()), int).result(60) is False
    wait_until(log.lines, "the argument to be freed in the worker", timeout=20)


@pytest.mark.processes
def test_results_are_freed_in_the_worker(executor: snakepit.Executor, log: tasks.Log) -> None:
    executor.submit(tasks.Remains, log, os.getpid()).result(60)
    wait_until(log.lines, "the result to be freed in the worker", timeout=20)


@pytest.mark.processes
def test_exceptions_are_freed_in_the_worker(executor: snakepit.Executor, log: tasks.Log) -> None:
    home = os.getpid()

    def work() -> None:
        kept = tasks.Remains(log, home)
        raise ValueError(repr(kept))

    executor.submit(work).exception(60)
    wait_until(log.lines, "the frame of a failed task to be freed", timeout=20)


@pytest.mark.processes
def test_large_arguments_are_freed(executor: snakepit.Executor) -> None:
    with no_garbage_collector():
        array = np.zeros(300_000)
        reference = weakref.ref(array)
        future = executor.submit(tasks.identity, array)
        answer = future.result(60)
        del array
        expect_freed(reference, "the array")
        answer_reference = weakref.ref(answer)
        del answer, future
        expect_freed(answer_reference, "the resulting array")


def test_memory_stays_level_over_many_calls(executor: snakepit.Executor) -> None:
    import psutil

    def run(count: int) -> None:
        for _ in range(count // 500):
            futures = [executor.submit(tasks.identity, ["x" * 100, n]) for n in range(500)]
            for future in futures:
                future.result(60)

    run(5_000)
    gc.collect()
    before = psutil.Process().memory_info().rss
    run(30_000)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 8_000_000
