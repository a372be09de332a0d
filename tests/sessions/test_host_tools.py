"""Host tools: functions of the owner that calls of a session use."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors
from snakepit.pool.lending import Lender
from tests.conftest import Make
from tests.executor import tasks
from tests.support import LONG, results, send_signal, wait_until

from . import calls


def test_tool_runs_in_the_owner(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "where", lambda: os.getpid())
    view = executor.options(session="s")
    assert view.submit(calls.call_tool, "where").result(LONG) == os.getpid()


def test_tool_gets_its_arguments(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "capture", tasks.capture)
    view = executor.options(session="s")
    got = view.submit(calls.call_tool, "capture", 1, [2], three={3}).result(LONG)
    assert got == ((1, [2]), {"three": {3}})
    assert view.submit(calls.use_tool, "capture", 4).result(LONG) == ((4,), {})


def test_arrays_both_ways(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "double", lambda array: array * 2)
    array = np.arange(50_000)
    view = executor.options(session="s")
    assert np.array_equal(view.submit(calls.call_tool, "double", array).result(LONG), array * 2)


def test_workers_see_the_exposed_tools(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "add", tasks.add, "adds", {"left": "int"})
    executor.register_tool("s", "hidden", tasks.add, exposed=False)
    view = executor.options(session="s")
    assert view.submit(calls.tool_names).result(LONG) == [("add", "adds", {"left": "int"})]
    with pytest.raises(errors.HostToolNotFoundError):
        view.submit(calls.call_tool, "hidden", 1, 2).result(LONG)
    assert executor.session("s").call_tool("hidden", 1, 2) == 3


def test_unknown_tool_names_the_nearest(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "transform", tasks.add)
    view = executor.options(session="s")
    for way in (calls.call_tool, calls.use_tool):
        with pytest.raises(errors.HostToolNotFoundError, match="did you mean 'transform'") as got:
            view.submit(way, "tranform").result(LONG)
        assert got.value.details == {"session": "s", "tool": "tranform", "tools": ["transform"]}


def test_tools_are_the_sessions_own(executor: snakepit.Executor) -> None:
    executor.register_tool("a", "tool", lambda: "a's")
    executor.register_tool("b", "tool", lambda: "b's")
    for name in ("a", "b"):
        view = executor.options(session=name)
        assert view.submit(calls.call_tool, "tool").result(LONG) == f"{name}'s"
    with pytest.raises(errors.HostToolNotFoundError):
        executor.options(session="c").submit(calls.call_tool, "tool").result(LONG)


def test_tools_end_with_the_session(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "tool", lambda: 1)
    view = executor.options(session="s")
    assert view.submit(calls.call_tool, "tool").result(LONG) == 1
    executor.session_store.delete_session("s")
    with pytest.raises(errors.HostToolNotFoundError):
        view.submit(calls.call_tool, "tool").result(LONG)


def test_exception_of_a_tool_arrives(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "fail", tasks.fail_deeply)
    executor.register_tool("s", "unpicklable", tasks.fail_unpicklably)
    executor.register_tool("s", "lock", tasks.make_lock)
    view = executor.options(session="s")
    with pytest.raises(Exception) as direct:
        tasks.fail_deeply()
    kind, text, _ = view.submit(calls.catch_tool_error, "fail").result(LONG)
    assert (kind, text) == (type(direct.value).__name__, str(direct.value))


@pytest.mark.processes
def test_traceback_of_a_tool_arrives(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "fail", tasks.fail_deeply)
    view = executor.options(session="s")
    _, _, cause = view.submit(calls.catch_tool_error, "fail").result(LONG)
    assert "in fail_deeply" in cause


@pytest.mark.processes
def test_what_cannot_be_pickled_is_an_error(executor: snakepit.Executor) -> None:
    executor.register_tool("s", "unpicklable", tasks.fail_unpicklably)
    executor.register_tool("s", "lock", tasks.make_lock)
    view = executor.options(session="s")
    with pytest.raises(errors.RemoteError, match="UnpicklableError"):
        view.submit(calls.call_tool, "unpicklable").result(LONG)
    with pytest.raises(errors.EncodeError):
        view.submit(calls.call_tool, "lock").result(LONG)
    assert executor.submit(tasks.square, 3).result(LONG) == 9


def test_tools_run_at_once(executor: snakepit.Executor) -> None:
    barrier = threading.Barrier(5, timeout=LONG)

    def meet(number: int) -> int:
        barrier.wait()
        return number

    executor.register_tool("s", "meet", meet)
    view = executor.options(session="s")
    futures = [view.submit(calls.tool_in_threads, "meet", count) for count in (2, 3)]
    assert results(futures) == [[0, 1], [0, 1, 2]]


def test_tool_may_wait_for_the_pool(make: Make) -> None:
    executor = make(1)
    executor.register_tool("s", "square", lambda n: executor.submit(tasks.square, n).result(LONG))
    view = executor.options(session="s")
    assert view.submit(calls.call_tool, "square", 7).result(LONG) == 49


@pytest.mark.parametrize("workers", [1, 2])
def test_tools_and_calls_may_alternate_at_any_depth(make: Make, workers: int) -> None:
    executor = make(workers)
    view = executor.options(session="s")
    executor.register_tool(
        "s", "descend", lambda depth: view.submit(calls.descend, depth).result(LONG)
    )
    futures = [view.submit(calls.descend, 6) for _ in range(workers + 1)]
    assert results(futures, 120) == [6] * (workers + 1)
    assert executor.submit(tasks.square, 3).result(LONG) == 9


@pytest.mark.processes
def test_lent_tasks_are_like_others(make: Make) -> None:
    executor = make(1)
    view = executor.options(session="s")
    other = executor.options(session="other")

    def tool() -> list[Any]:
        array = np.arange(20_000)
        futures = [
            executor.submit(tasks.add, array, 1),
            executor.submit(lambda: "by value"),
            other.submit(calls.session_id),
            executor.submit(calls.has_session),
            executor.submit(tasks.capture, 1, two=2),
            executor.submit(tasks.fail, ValueError("as asked")),
        ]
        values: list[Any] = [futures[0].result(LONG).sum()]
        values += [future.result(LONG) for future in futures[1:5]]
        values.append(repr(futures[5].exception(LONG)))
        values.append(list(executor.map(tasks.square, range(10))))
        return values

    executor.register_tool("s", "tool", tool)
    assert view.submit(calls.call_tool, "tool").result(LONG) == [
        np.arange(20_000).sum() + 20_000,
        "by value",
        "other",
        False,
        ((1,), {"two": 2}),
        "ValueError('as asked')",
        [n * n for n in range(10)],
    ]


@pytest.mark.processes
def test_lent_task_whose_worker_dies_fails(make: Make) -> None:
    executor = make(1)
    found: list[BaseException | None] = []

    def tool() -> None:
        found.append(executor.submit(tasks.kill_self).exception(LONG))

    executor.register_tool("s", "tool", tool)
    outer = executor.options(session="s").submit(calls.call_tool, "tool")
    assert isinstance(outer.exception(LONG), errors.WorkerCrashedError)
    wait_until(lambda: found, "the tool to end")
    assert isinstance(found[0], errors.WorkerCrashedError)
    assert executor.submit(tasks.square, 3).result(LONG) == 9


def test_tools_may_wait_for_the_pool_while_a_worker_of_threads_is_replaced(gate: Any) -> None:
    with snakepit.Executor(1, profile="thread", threads_per_worker=2) as executor:
        roster: Any = executor._pool.roster  # type: ignore[union-attr]
        doors = [gate(name) for name in ("started", "started too")]
        release = gate("release")
        for session in ("a", "b"):
            executor.register_tool(session, "pid", lambda: executor.submit(os.getpid).result(LONG))
        futures = []
        for session, started in zip(("a", "b"), doors, strict=True):
            view = executor.options(session=session)
            futures.append(view.submit(calls.hold_and_call_tool, started, release, "pid"))
            started.wait()
            if session == "a":
                executor.recycle_worker(wait=False)
                # Its other thread makes room for one of the successor's, whose other one is held.
                wait_until(lambda: roster.taking(0) == roster.taking(2) == 1, "a successor")
        release.open()
        assert len(results(futures)) == 2


def strict(executor: snakepit.Executor, session: str) -> Any:
    return executor.options(session=session, affinity="strict_queue")


def wait_in_tools(executor: snakepit.Executor, tool: Callable[[], Any]) -> Any:
    """Have both workers of the executor wait for tools, and return what the first tool does."""
    both = threading.Barrier(2, timeout=LONG)
    leave = threading.Event()

    def first() -> Any:
        both.wait()
        try:
            return tool()
        finally:
            leave.set()

    def second() -> None:
        both.wait()
        leave.wait(LONG)

    executor.register_tool("first", "tool", first)
    executor.register_tool("second", "tool", second)
    views = [executor.options(session=name) for name in ("first", "second")]
    return results([view.submit(calls.call_tool, "tool") for view in views])[0]


@pytest.mark.processes
def test_strict_calls_are_lent_to_their_own_workers(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    held = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    there = strict(executor, "b").submit(os.getpid).result(LONG)
    release.open()
    homes = [held.result(LONG), there]
    assert homes[0] != homes[1]

    def ask() -> list[int]:
        return [strict(executor, name).submit(os.getpid).result(LONG) for name in ("a", "b")]

    assert wait_in_tools(executor, ask) == homes


@pytest.mark.processes
def test_session_that_begins_with_a_lent_call_stays_on_that_worker(make: Make, gate: Any) -> None:
    executor = make(2)

    def ask() -> list[int]:
        return [strict(executor, name).submit(os.getpid).result(LONG) for name in ("a", "b")]

    homes = wait_in_tools(executor, ask)
    assert homes[0] == homes[1]  # the one that has waited longest
    started, release = gate("started"), gate("release")
    held = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    there = strict(executor, "b").submit(os.getpid)
    other = executor.submit(os.getpid).result(LONG)
    release.open()
    assert [held.result(LONG), there.result(LONG)] == homes
    assert other not in homes


@pytest.mark.processes
def test_strict_call_is_lent_to_its_worker_while_others_are_free(make: Make) -> None:
    executor = make(2)
    view = strict(executor, "s")
    home = view.submit(os.getpid).result(LONG)
    executor.register_tool("s", "pid", lambda: view.submit(os.getpid).result(LONG))
    assert view.submit(calls.call_tool, "pid").result(LONG) == home


@pytest.mark.processes
def test_worker_that_dies_before_its_wait_is_noted_is_lent_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make(1)
    pool: Any = executor._pool
    leave = threading.Event()
    linked: list[bool] = []
    lenders: list[Lender] = []
    note, forget = Lender.waits, pool.asks.forget

    def note_late(lender: Lender, lane: int, number: int) -> None:
        (pid,) = executor.worker_pids()
        assert send_signal(pid)
        wait_until(lambda: executor.worker_pids() not in ([], [pid]), "a successor")
        note(lender, lane, number)
        lenders.append(lender)

    def forget_lent(lane: int) -> Any:
        linked.append(lane in pool.nested._links)
        return forget(lane)

    monkeypatch.setattr(Lender, "waits", note_late)
    monkeypatch.setattr(pool.asks, "forget", forget_lent)
    executor.register_tool("s", "tool", lambda: leave.wait(LONG))
    future = executor.options(session="s").submit(calls.call_tool, "tool")
    assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
    wait_until(lambda: lenders and not lenders[0]._waits, "the wait to be forgotten")
    assert linked == [False]  # A wait that is noted from here on is found to be a dead worker's.
    leave.set()


@pytest.mark.processes
def test_deadline_of_a_lent_task(make: Make) -> None:
    executor = make(1)

    def tool() -> str:
        future = executor.options(timeout=0.2).submit(tasks.sleep_and_return, 1.0)
        return type(future.exception(LONG)).__name__

    executor.register_tool("s", "tool", tool)
    view = executor.options(session="s")
    assert view.submit(calls.call_tool, "tool").result(LONG) == "TaskTimeoutError"


def test_stopping_a_call_that_waits_for_a_tool(executor: snakepit.Executor) -> None:
    entered, leave = threading.Event(), threading.Event()

    def tool() -> None:
        entered.set()
        leave.wait(LONG)

    executor.register_tool("s", "tool", tool)
    future = executor.options(session="s").submit(calls.call_tool, "tool")
    assert entered.wait(LONG)
    future.stop()
    leave.set()
    error = future.exception(LONG)
    assert error is None or isinstance(error, errors.TaskStoppedError)
    assert executor.submit(tasks.square, 3).result(LONG) == 9


@pytest.mark.processes
def test_pool_ends_though_a_tool_does_not(make: Make) -> None:
    executor = make(1)
    entered, leave = threading.Event(), threading.Event()

    def tool() -> None:
        entered.set()
        leave.wait(LONG)

    executor.register_tool("s", "tool", tool)
    future = executor.options(session="s").submit(calls.call_tool, "tool")
    assert entered.wait(LONG)
    executor.kill_workers()
    executor.shutdown(wait=True)
    assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
    leave.set()


def test_wrong_tools_are_refused(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError):
        executor.register_tool("s", "tool", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name"):
        executor.register_tool("s", "", tasks.add)
