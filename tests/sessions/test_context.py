"""Sessions as calls see them: `snakepit.current_session()` in workers of every kind."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors
from snakepit.pool import terms
from snakepit.view import PoolView
from snakepit.worker import session
from tests.conftest import Make
from tests.executor import tasks
from tests.executor.tasks import Gate, Log
from tests.support import LONG, results, wait_until

from . import calls
from .support import in_threads

Gates = Callable[[str], Gate]


@pytest.fixture
def view(executor: snakepit.Executor) -> PoolView:
    """Return calls of the session "s", which has a variable x."""
    executor.session("s").register_variable("x", "integer", 1)
    return executor.options(session="s")


def free_mail(executor: snakepit.Executor) -> bool:
    counts = executor._pool.scheduler.counts()  # type: ignore[union-attr]
    return bool(counts["free_mail"] == counts["mail"])


# -- which session ---------------------------------------------------------------------------------


def test_call_without_a_session_has_none(executor: snakepit.Executor) -> None:
    assert not executor.submit(calls.has_session).result(LONG)


def test_there_is_no_session_outside_a_call(executor: snakepit.Executor) -> None:
    assert snakepit.current_session() is None


@pytest.mark.all_kinds
def test_call_has_the_session_it_was_submitted_with(executor: snakepit.Executor) -> None:
    for name in ("a", "b", "ä session"):
        assert executor.options(session=name).submit(calls.session_id).result(LONG) == name


def test_thread_that_outlives_its_call_has_no_session(make: Make, gate: Gates, log: Log) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    # In a thread of the call's own it is not the session of what runs there next.
    view = executor.options(session="a")
    view.submit(calls.look_from_a_thread, gate("go"), log).result(LONG)
    held = executor.options(session="b").submit(calls.hold_session, started, release)
    started.wait()
    gate("go").open()
    wait_until(lambda: log.lines(), "the thread to look")
    release.open()
    assert held.result(LONG) == "b"
    assert log.lines() == ["None"]


def test_contexts_are_forgotten_by_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Line:
        cached = ask = None

        def __init__(self, _lane: Any, key: int) -> None:
            self.key = key

    monkeypatch.setattr(session, "WorkerLine", Line)
    monkeypatch.setattr(session, "MOST_CONTEXTS", 4)
    monkeypatch.setattr(session, "_contexts", {})
    lane: Any = None

    def look(number: int) -> None:
        for key in range(number, number + 4000):
            line: Any = session.context_of(lane, key)._line
            assert line.key == key

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(8, look)
    finally:
        sys.setswitchinterval(before)
    assert len(session._contexts) == 4


def test_chunks_and_attempts_have_the_session(executor: snakepit.Executor) -> None:
    view = executor.options(session="s")
    assert list(view.map(calls.run, ["list_variables"] * 3)) == [[], [], []]
    retried = executor.options(session="s", retry=snakepit.RetryPolicy(max_attempts=2))
    assert retried.submit(calls.session_id).result(LONG) == "s"


def test_name_of_a_session_is_forgotten_after_its_calls(executor: snakepit.Executor) -> None:
    view = executor.options(session="for a while")
    key = int(terms.session_key("for a while"))
    future = view.submit(calls.session_id)
    del view
    assert future.result(LONG) == "for a while"
    del future
    wait_until(lambda: terms.session_name(key) is None, "the name to be forgotten")


def test_tasks_of_a_session_have_none_of_themselves(make: Make) -> None:
    executor = make(1)
    view = executor.options(session="s")
    assert view.submit(calls.nested_session).result(LONG) == (False, True)


def test_metadata(executor: snakepit.Executor) -> None:
    executor.session_store.create_session("m", metadata={"user": "ada"})
    assert executor.options(session="m").submit(calls.metadata).result(LONG) == {"user": "ada"}


@pytest.mark.processes
def test_context_cannot_be_returned(view: Any) -> None:
    with pytest.raises(errors.EncodeError, match="send the session's id"):
        view.submit(snakepit.current_session).result(LONG)


# -- variables -------------------------------------------------------------------------------------


def test_variables_are_shared_with_the_owner(executor: snakepit.Executor) -> None:
    view = executor.options(session="s")
    assert view.submit(calls.run, "register_variable", "x", "integer", 5).result(LONG) == 1
    session = executor.session("s")
    assert session.get_variable("x") == 5
    session.set_variable("x", 6)
    assert view.submit(calls.run, "get_variable", "x").result(LONG) == 6
    assert view.submit(calls.run, "set_variable", "x", 7).result(LONG) == 3
    assert session.read_variable("x") == (7, 3)
    assert view.submit(calls.run, "read_variable", "x").result(LONG) == (7, 3)
    view.submit(calls.run, "delete_variable", "x").result(LONG)
    with pytest.raises(errors.VariableNotFoundError):
        session.get_variable("x")


def test_sessions_do_not_see_each_other(view: Any, executor: snakepit.Executor) -> None:
    other = executor.options(session="other")
    with pytest.raises(errors.VariableNotFoundError):
        other.submit(calls.run, "get_variable", "x").result(LONG)
    other.submit(calls.run, "register_variable", "x", "string", "mine").result(LONG)
    assert view.submit(calls.run, "get_variable", "x").result(LONG) == 1


def test_several_at_once(view: Any, executor: snakepit.Executor) -> None:
    view.submit(calls.run, "register_variable", "y", "string", "a").result(LONG)
    got = view.submit(calls.run, "get_variables", ["x", "y"]).result(LONG)
    assert got == {"x": 1, "y": "a"}
    versions = view.submit(calls.run, "set_variables", {"x": 2, "y": "b"}).result(LONG)
    assert versions == {"x": 2, "y": 2}
    with pytest.raises(errors.VariableError):
        view.submit(calls.run, "set_variables", {"x": 3, "y": 4}).result(LONG)
    assert executor.session("s").get_variables("*") == {"x": 2, "y": "b"}
    listed = view.submit(calls.run, "list_variables", "x*").result(LONG)
    assert [(v.name, v.type, v.value, v.version) for v in listed] == [("x", "integer", 2, 2)]


def test_errors_of_the_store_arrive(view: Any) -> None:
    with pytest.raises(errors.VariableNotFoundError) as missing:
        view.submit(calls.run, "get_variable", "nothing").result(LONG)
    assert missing.value.details["session"] == "s"
    with pytest.raises(errors.VariableError):
        view.submit(calls.run, "set_variable", "x", "text").result(LONG)
    with pytest.raises(errors.VersionConflictError) as conflict:
        view.submit(calls.run, "compare_and_set_variable", "x", 7, 2).result(LONG)
    assert conflict.value.details["actual"] == 1


def test_an_update_returns_the_value_that_is_kept(view: Any, executor: snakepit.Executor) -> None:
    session = executor.session("s")
    session.register_variable("rate", "float", 1.0)
    session.register_variable("unit", "embedding", [1.0, 0.0], {"normalise": True})
    for rate in (
        view.submit(calls.update_to, "rate", 3).result(LONG),
        session.get_variable("rate"),
    ):
        assert type(rate) is float
        assert rate == 3
    unit = view.submit(calls.update_to, "unit", [3.0, 4.0]).result(LONG)
    assert np.allclose(unit, [0.6, 0.8])
    assert np.array_equal(unit, session.get_variable("unit"))
    assert view.submit(calls.update_to, "x", 2**70).result(LONG) == 2**70
    with pytest.raises(errors.VariableError):
        view.submit(calls.update_to, "x", 1.5).result(LONG)


def test_updates_of_many_callers_lose_none(view: Any, executor: snakepit.Executor) -> None:
    futures = [view.submit(calls.increment, "x", 50) for _ in range(4)]
    futures += [view.submit(calls.increment_in_threads, "x", 4, 25)]
    for _ in range(50):
        executor.session("s").update_variable("x", lambda value: value + 1)
    results(futures)
    assert executor.session("s").get_variable("x") == 1 + 200 + 100 + 50


def test_arrays_travel(view: Any, executor: snakepit.Executor) -> None:
    array = np.arange(40_000, dtype=np.float64)
    executor.session("s").register_variable("array", "tensor", array)
    got = view.submit(calls.run, "get_variable", "array").result(LONG)
    assert np.array_equal(got, array)
    view.submit(calls.run, "set_variable", "array", array * 2).result(LONG)
    assert np.array_equal(executor.session("s").get_variable("array"), array * 2)
    text = "ü" * 100_000
    view.submit(calls.run, "register_variable", "text", "string", text).result(LONG)
    assert view.submit(calls.run, "get_variable", "text").result(LONG) == text


def test_programs(view: Any) -> None:
    view.submit(calls.run, "store_program", "p", {"steps": [1, 2]}).result(LONG)
    assert view.submit(calls.run, "get_program", "p").result(LONG) == {"steps": [1, 2]}
    assert view.submit(calls.run, "list_programs").result(LONG) == ["p"]
    view.submit(calls.run, "delete_program", "p").result(LONG)
    with pytest.raises(errors.ProgramNotFoundError):
        view.submit(calls.run, "get_program", "p").result(LONG)


def test_session_that_ended_is_another_one_then(view: Any, executor: snakepit.Executor) -> None:
    assert view.submit(calls.run, "get_variable", "x").result(LONG) == 1
    executor.session_store.delete_session("s")
    with pytest.raises(errors.VariableNotFoundError):
        view.submit(calls.run, "get_variable", "x").result(LONG)


def test_store_of_the_users_own_is_used_and_stays_open(make: Make) -> None:
    with snakepit.SessionStore() as store:
        first, second = make(1, session_store=store), make(1, session_store=store)
        assert first.session_store is store
        view = first.options(session="s")
        view.submit(calls.run, "register_variable", "x", "integer", 5).result(LONG)
        other = second.options(session="s")
        assert other.submit(calls.run, "get_variable", "x").result(LONG) == 5
        view.submit(calls.run, "set_variable", "x", 6).result(LONG)
        assert other.submit(calls.run, "get_variable", "x").result(LONG) == 6
        first.shutdown()
        second.shutdown()
        assert store.get_session("s").get_variable("x") == 6


def test_store_in_a_file_serves_workers(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with snakepit.SessionStore(backend=path) as store:
        executor = make(1, session_store=store)
        view = executor.options(session="s")
        view.submit(calls.run, "register_variable", "x", "integer", 5).result(LONG)
        view.submit(calls.increment, "x", 5).result(LONG)
        executor.shutdown()
    with snakepit.SessionStore(backend=path) as store:
        executor = make(1, session_store=store)
        view = executor.options(session="s")
        assert view.submit(calls.run, "get_variable", "x").result(LONG) == 10


def test_wrong_store_is_refused() -> None:
    with pytest.raises(TypeError, match="session_store must be"):
        snakepit.Executor(1, session_store={})  # type: ignore[arg-type]


def test_sessions_of_a_pool_end_with_it(make: Make) -> None:
    executor = make(1)
    executor.session("s").register_variable("x", "integer", 1)
    executor.options(session="s").submit(calls.run, "get_variable", "x").result(LONG)
    executor.shutdown()
    wait_until(lambda: executor._pool.desk._closed, "the pool to be gone")
    with pytest.raises(errors.PoolShutdownError):
        executor.session("s")


# -- the cache -------------------------------------------------------------------------------------


@pytest.mark.processes
def test_variable_that_nobody_changes_is_asked_for_once(make: Make) -> None:
    executor = make(1)
    executor.session("s").register_variable("x", "integer", 1)
    view = executor.options(session="s")
    assert view.submit(calls.asked_for, "x", 100).result(LONG) == 0


@pytest.mark.processes
def test_change_by_the_owner_is_seen_at_once(make: Make) -> None:
    executor = make(1)
    session = executor.session("s")
    session.register_variable("x", "integer", 0)
    view = executor.options(session="s")
    for value in range(1, 50):
        session.set_variable("x", value)
        assert view.submit(calls.run, "get_variable", "x").result(LONG) == value


@pytest.mark.processes
def test_change_by_another_worker_is_seen_at_once(view: Any, log: Log) -> None:
    reading = view.submit(calls.read_until, "x", 2, log)
    wait_until(log.lines, "the reader")
    view.submit(calls.run, "set_variable", "x", 2).result(LONG)
    assert reading.result(LONG) >= 1


@pytest.mark.processes
def test_what_a_call_does_to_its_copy_stays_there(make: Make) -> None:
    executor = make(1)
    executor.session("s").register_variable("v", "embedding", [1.0, 2.0, 3.0])
    view = executor.options(session="s")
    view.submit(calls.run, "store_program", "p", []).result(LONG)
    spoiled = view.submit(calls.spoil_copy, "v")
    value = spoiled.exception(LONG)
    # Arrays of the store may arrive read-only; then there is nothing to spoil.
    if value is None:
        assert list(spoiled.result(0)) == [1.0, 2.0, 3.0]


def test_cache_ttl_is_checked(view: Any) -> None:
    with pytest.raises(ValueError, match="cache_ttl"):
        view.submit(_set_ttl, -1).result(LONG)


def _set_ttl(seconds: Any) -> None:
    calls.here().cache_ttl = seconds


# -- watching --------------------------------------------------------------------------------------


def test_watch_gives_changes(view: Any, gate: Gates, executor: snakepit.Executor) -> None:
    started = gate("started")
    future = view.submit(calls.watch_and_collect, "x", 1, started)
    started.wait()
    executor.session("s").set_variable("x", 5)
    assert future.result(LONG) == [(5, 2)]


def test_watch_ends_with_the_variable(view: Any, gate: Gates, executor: snakepit.Executor) -> None:
    started = gate("started")
    future = view.submit(calls.watch_to_the_end, "x", started)
    started.wait()
    executor.session("s").delete_variable("x")
    assert future.result(LONG) == []


def test_watch_by_callback(view: Any, gate: Gates, executor: snakepit.Executor) -> None:
    started = gate("started")
    future = view.submit(calls.watch_by_callback, "x", 9, started)
    started.wait()
    for value in (7, 8, 9):
        executor.session("s").set_variable("x", value)
    assert future.result(LONG)[-1] == 9


def test_callback_that_raises_is_detached(
    view: Any, gate: Gates, executor: snakepit.Executor
) -> None:
    started = gate("started")
    future = view.submit(calls.watch_that_raises, "x", started)
    started.wait()
    executor.session("s").set_variable("x", 5)
    assert future.result(LONG)


# -- many, late, and interrupted -------------------------------------------------------------------


@pytest.mark.processes
def test_more_threads_than_mail_slots_may_ask(view: Any, executor: snakepit.Executor) -> None:
    futures = [view.submit(calls.increment_in_threads, "x", 60, 3) for _ in range(2)]
    results(futures, 120)
    assert executor.session("s").get_variable("x") == 1 + 360
    assert free_mail(executor)


@pytest.mark.processes
def test_threads_read_while_one_forgets(view: Any, executor: snakepit.Executor) -> None:
    # Without the GIL, what one thread finds another may let go of at that instant.
    view.submit(calls.read_and_forget_in_threads, "x", 3, 3000).result(LONG)


@pytest.mark.processes
def test_asking_works_while_nobody_waits(view: Any, log: Log) -> None:
    # No caller helps: the collector's thread answers.
    done = threading.Event()
    future = view.submit(calls.run_uncached, "get_variable", "x")
    future.add_done_callback(lambda _: done.set())
    assert done.wait(LONG)
    assert future.result(0) == 1


@pytest.mark.processes
def test_interrupt_ends_the_wait_and_loses_no_slot(
    view: Any, log: Log, executor: snakepit.Executor
) -> None:
    for _ in range(8):
        before = len(log.lines())
        future = view.submit(calls.ask_until_interrupted, log)
        wait_until(lambda before=before: len(log.lines()) > before, "the task to ask")  # type: ignore[misc]
        future.stop()
        with pytest.raises(errors.TaskStoppedError):
            future.result(LONG)
        wait_until(
            lambda before=before: len(log.lines()) > before + 1,  # type: ignore[misc]
            "the interrupted task to ask again",
        )
    lines = log.lines()
    pids = {line for line in lines if line.isdigit()}
    assert len(pids) <= 2, "a worker was replaced, though its task ended when it was interrupted"
    assert lines.count("interrupted, x is 1") == 8
    wait_until(lambda: free_mail(executor), "the slots of the questions")


@pytest.mark.processes
def test_deadline_in_the_middle_of_a_question(executor: snakepit.Executor, log: Log) -> None:
    executor.session("s").register_variable("x", "integer", 1)
    late = executor.options(session="s", timeout=0.3)
    with pytest.raises(errors.TaskTimeoutError):
        late.submit(calls.ask_until_interrupted, log).result(LONG)
    wait_until(lambda: free_mail(executor), "the slot of the question")
    assert executor.submit(tasks.square, 3).result(LONG) == 9


@pytest.mark.processes
def test_forked_child_cannot_ask(make: Make) -> None:
    executor = make(1)
    executor.session("s").register_variable("x", "integer", 1)
    view = executor.options(session="s")
    assert view.submit(calls.ask_from_a_fork).result(LONG) == "ForkedPoolError"
    assert view.submit(calls.run, "read_variable", "x").result(LONG) == (1, 1)


@pytest.mark.processes
def test_unknown_topic_is_named(make: Make) -> None:
    executor = make(1)
    with pytest.raises(errors.SnakepitError, match="did you mean 'read'"):
        executor.options(session="s").submit(_ask, "raed").result(LONG)


def _ask(topic: str, *args: Any) -> Any:
    from snakepit.worker import context

    assert context._lane is not None
    return context._lane.ask(topic, *args)


@pytest.mark.processes
def test_slow_handlers_answer_too(make: Make) -> None:
    executor = make(1)
    pool: Any = executor._pool

    def slow(session: str | None, seconds: float) -> tuple[str | None, str]:
        time.sleep(seconds)
        return session, threading.current_thread().name

    pool.asks.slow_handlers["slow"] = slow
    session, thread = executor.options(session="s").submit(_ask, "slow", 0.01).result(LONG)
    assert session == "s"
    assert thread == "snakepit-default-tools"
    assert executor.submit(_ask, "slow", 0.0).result(LONG)[0] is None
    pool.asks.slow_handlers["bad"] = lambda session: 1 / 0
    with pytest.raises(ZeroDivisionError):
        executor.submit(_ask, "bad").result(LONG)


def test_shutdown_lets_calls_that_ask_end(make: Make, log: Log) -> None:
    executor = make(1)
    executor.session("s").register_variable("x", "integer", 1)
    future = executor.options(session="s").submit(calls.read_until, "x", 2, log)
    wait_until(log.lines, "the reader")
    session = executor.session("s")
    executor.shutdown(wait=False)
    session.set_variable("x", 2)
    assert future.result(LONG) >= 1


@pytest.mark.processes
def test_workers_can_be_ended_while_they_ask(make: Make, log: Log) -> None:
    executor = make(2)
    executor.session("s").register_variable("x", "integer", 1)
    futures = [executor.options(session="s").submit(calls.ask_for_ever) for _ in range(2)]
    wait_until(lambda: all(future.running() for future in futures), "the tasks to run")
    executor.kill_workers()
    for future in futures:
        assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
