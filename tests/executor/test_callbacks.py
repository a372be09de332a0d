"""Callbacks of futures: whom they may wait for, and whom they must not stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

import snakepit
from tests.support import LONG, new_executor

from . import tasks
from .tasks import Gate


def hold_all(
    executor: snakepit.Executor, gate: Callable[[str], Gate], workers: int = 2
) -> tuple[list[snakepit.Future[Any]], Gate]:
    """Occupy every worker; return their futures and what lets them go on."""
    release = gate("release")
    started = [gate(f"started-{number}") for number in range(workers)]
    held = [executor.submit(tasks.hold, each, release) for each in started]
    for each in started:
        each.wait()
    return held, release


def test_a_callback_may_shut_down_the_executor_whose_calls_end_together(
    kind: str, gate: Callable[[str], Gate]
) -> None:
    executor = new_executor(kind)
    held, release = hold_all(executor, gate)
    ended = threading.Event()

    def shut_down(_: object) -> None:
        executor.shutdown(wait=True)
        ended.set()

    futures = [executor.submit(tasks.square, number) for number in range(40)]
    futures[0].add_done_callback(shut_down)
    release.open()
    assert [future.result(LONG) for future in futures] == [n * n for n in range(40)]
    assert ended.wait(LONG)
    del held
    executor.shutdown()


@pytest.mark.processes
def test_a_callback_may_wait_for_a_call_that_ended_with_its_own(
    executor: snakepit.Executor, gate: Callable[[str], Gate]
) -> None:
    _, release = hold_all(executor, gate)
    futures = [executor.submit(tasks.square, number) for number in range(40)]
    seen: Future[int] = Future()
    futures[0].add_done_callback(lambda _: seen.set_result(futures[39].result(LONG)))
    release.open()
    assert seen.result(LONG) == 39 * 39


@pytest.mark.processes
def test_a_callback_may_call_and_replace(executor: snakepit.Executor) -> None:
    seen: Future[int] = Future()

    def call(_: object) -> None:
        executor.recycle_worker()
        seen.set_result(executor.submit(tasks.square, 5).result(LONG))

    executor.submit(tasks.square, 1).add_done_callback(call)
    # This thread waits, too, and must not be the one that runs the callback.
    executor.submit(tasks.square, 2).result(LONG)
    assert seen.result(LONG) == 25


@pytest.mark.processes
def test_who_waits_for_a_result_runs_nobody_elses_callbacks(executor: snakepit.Executor) -> None:
    blocked, threads = threading.Event(), []

    def block(_: object) -> None:
        threads.append(threading.current_thread())
        blocked.wait(LONG)

    first = executor.submit(tasks.square, 3)
    first.add_done_callback(block)
    assert executor.submit(tasks.square, 4).result(LONG) == 16
    assert first.result(LONG) == 9
    blocked.set()
    assert threading.current_thread() not in threads


def test_a_callback_that_exits_stops_nobody(
    kind: str, executor: snakepit.Executor, caplog: pytest.LogCaptureFixture
) -> None:
    later = threading.Event()
    # As many as there are workers, and more: in a local pool the callback runs on theirs.
    for _ in range(4):
        future = executor.submit(tasks.sleep_and_return, 0.01, 1)
        future.add_done_callback(lambda _: tasks.exit_here())
        future.add_done_callback(lambda _: later.set())
        assert future.result(LONG) == 1
        assert later.wait(LONG)
        later.clear()
    executor.submit(tasks.sleep_and_return, 0.01).add_done_callback(lambda _: later.set())
    assert later.wait(LONG)
    assert executor.submit(tasks.square, 3).result(LONG) == 9
    executor.shutdown()
    assert "SystemExit" in caplog.text
    caplog.clear()  # Its tracebacks hold the futures.


@pytest.mark.processes
def test_callbacks_of_late_calls_go_on_after_one_that_exits(
    executor: snakepit.Executor, caplog: pytest.LogCaptureFixture
) -> None:
    view = executor.options(timeout=0.05)
    seen = threading.Event()
    callbacks: list[Callable[[object], object]] = [
        lambda _: tasks.exit_here(),
        lambda _: seen.set(),
    ]
    for callback in callbacks:
        late = view.submit(tasks.sleep_and_return, LONG)
        late.add_done_callback(callback)
        with pytest.raises(snakepit.errors.TaskTimeoutError):
            late.result(LONG)
    assert seen.wait(LONG)
    caplog.clear()


def test_outcomes_reach_an_event_loop(executor: snakepit.Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, tasks.square, n) for n in range(50)]
        return list(await asyncio.gather(*calls))

    assert asyncio.run(main()) == [n * n for n in range(50)]
