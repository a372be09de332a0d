"""Sessions that move: their worker goes, by a crash or in order, and they go on elsewhere."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit._core import moving
from tests.executor.tasks import Gate, Log
from tests.pools.adapters import Counter
from tests.pools.conftest import WITH_PROCESSES
from tests.pools.movers import Forgetful, Leaving, Ledger, OnlySnapshot
from tests.support import LONG, expect_nothing_held, results, send_signal, wait_until

# For what the bindings do alike whatever their lanes belong to.
in_processes = pytest.mark.parametrize("new", ["process"], indirect=True)

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


@pytest.fixture(params=WITH_PROCESSES)
def new(request: pytest.FixtureRequest, new_pool: NewPool) -> NewPool:
    """Return a function that makes a pool of ledgers whose calls are strict."""

    def make(**options: Any) -> snakepit.Pool:
        # However many calls wait on a busy machine, none is refused or late for that.
        patient = {"timeout": math.inf, "queue_timeout": math.inf, "max_queue_size": math.inf}
        strict = {"affinity": "strict_queue", **patient}
        options = {**WITH_PROCESSES[request.param], **strict, **options}
        pool = new_pool(**{"adapter": Ledger, **options})
        pool.await_ready(LONG)
        return pool

    return make


def append(pool: snakepit.Pool, session: str, item: Any) -> Any:
    return pool.execute("append", {"item": item}, session=session)


def where(pool: snakepit.Pool, session: str) -> int:
    pid: int = pool.execute("where", session=session)
    return pid


def kill(pool: snakepit.Pool, pid: int) -> None:
    """Kill a worker and wait until it is buried."""
    crashes = engine(pool).supervisor.crashes
    assert send_signal(pid)
    wait_until(lambda: engine(pool).supervisor.crashes > crashes, "the burial")


def engine(pool: snakepit.Pool) -> Any:
    return pool._engine


def worker_of(pool: snakepit.Pool, pid: int) -> int:
    return next(int(worker["id"]) for worker in pool.list_workers() if worker["pid"] == pid)


def keep_running(pool: snakepit.Pool, gates: Gates, session: str, item: Any) -> tuple[Any, Gate]:
    """Have a call of a session run until the gate that is returned is opened."""
    started, release = gates(f"started-{session}"), gates(f"release-{session}")
    arguments = {"item": item, "started": started, "release": release}
    future = pool.submit("append_and_hold", arguments, session=session)
    started.wait()
    return future, release


# A crash


def test_a_session_goes_on_elsewhere_when_its_idle_worker_dies(new: NewPool, log: Log) -> None:
    pool = new(adapter_args={"log": log})
    append(pool, "a", 1)
    pid = where(pool, "a")
    kill(pool, pid)
    assert append(pool, "a", 2) == [1, 2]
    assert where(pool, "a") != pid
    assert [line for line in log.lines() if "restore" in line] == ["restore a"]
    assert pool.get_stats()["sessions_moved"] == 1
    expect_nothing_held(engine(pool))


def test_the_call_that_runs_in_a_crash_fails_and_leaves_nothing(new: NewPool, gates: Gates) -> None:
    pool = new()
    append(pool, "a", 1)
    started = gates("started")
    running = pool.submit(
        "append_and_hold",
        {"item": 2, "started": started, "release": gates("release")},
        session="a",
    )
    started.wait()
    pid = next(worker["pid"] for worker in pool.list_workers() if worker["busy"])
    waiting = [pool.submit("append", {"item": n}, session="a") for n in range(3, 103)]
    assert send_signal(pid)
    assert isinstance(running.exception(LONG), errors.WorkerCrashedError)
    # What had not begun runs in the new worker, in order.
    assert results(waiting)[-1] == [1, *range(3, 103)]
    assert [value[-1] for value in results(waiting)] == list(range(3, 103))
    expect_nothing_held(engine(pool))


@in_processes
def test_a_first_call_that_kills_its_worker_has_not_been(new: NewPool) -> None:
    pool = new()
    doomed = pool.submit("append_and_die", {"item": 1}, session="a")
    waiting = [pool.submit("append", {"item": n}, session="a") for n in (2, 3)]
    assert isinstance(doomed.exception(LONG), errors.WorkerCrashedError)
    assert results(waiting) == [[2], [2, 3]]
    expect_nothing_held(engine(pool))


@in_processes
def test_what_a_failed_or_a_stopped_call_did_is_kept(new: NewPool, gates: Gates) -> None:
    pool = new()
    with pytest.raises(ValueError, match="1"):
        pool.execute("append_and_fail", {"item": 1}, session="a")
    started = gates("started")
    future = pool.submit("append_and_dawdle", {"item": 2, "started": started}, session="a")
    started.wait()
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(LONG)
    assert append(pool, "a", 3) == [1, 2, 3]
    kill(pool, where(pool, "a"))
    assert append(pool, "a", 4) == [1, 2, 3, 4]


@in_processes
def test_a_late_answer_counts_though_nobody_waits_for_it(new: NewPool, gates: Gates) -> None:
    pool = new()
    started, release = gates("started"), gates("release")
    arguments = {"item": 1, "started": started, "release": release}
    pid = where(pool, "a")
    future = pool.submit("append_and_hold", arguments, session="a", timeout=0.2)
    started.wait()
    assert isinstance(future.exception(LONG), errors.TaskTimeoutError)
    release.open()
    assert append(pool, "a", 2)[-1] == 2
    if pid == where(pool, "a"):
        kill(pool, pid)
    assert append(pool, "a", 3)[-2:] == [2, 3]


@in_processes
def test_a_stream_leaves_its_state(new: NewPool) -> None:
    pool = new()
    assert list(pool.stream("append_each", {"items": [1, 2]}, session="a")) == [1, 2]
    stream = pool.stream("append_each", {"items": list(range(3, 1000))}, session="a")
    assert next(stream) == 3
    stream.close()
    seen = append(pool, "a", "end")
    kill(pool, where(pool, "a"))
    assert append(pool, "a", "again") == [*seen, "again"]


@in_processes
def test_fail_fast_after_a_crash(new: NewPool, gates: Gates) -> None:
    pool = new(affinity="strict_fail_fast")
    append(pool, "a", 1)
    pid = where(pool, "a")
    running, _ = keep_running(pool, gates, "a", 2)
    with pytest.raises(errors.WorkerBusyError):
        append(pool, "a", 3)
    kill(pool, pid)
    assert isinstance(running.exception(LONG), errors.WorkerCrashedError)
    assert append(pool, "a", 3) == [1, 3]


def test_a_storm_of_kills_neither_loses_nor_doubles_anything(new: NewPool) -> None:
    """A call that has succeeded has left its mark once, in order; one that has failed, none."""
    pool = new()
    ended = threading.Event()
    generator = random.Random(3)
    marks: dict[str, list[int]] = {}
    last: dict[str, list[int]] = {}
    numbers = itertools.count()
    failed = []

    def use(session: str) -> None:
        mine = marks[session] = []
        while not ended.is_set():
            batch = [next(numbers) for _ in range(4)]
            futures = [pool.submit("append", {"item": n}, session=session) for n in batch]
            for number, future in zip(batch, futures, strict=True):
                error = future.exception(LONG)
                if error is None:
                    mine.append(number)
                    last[session] = future.result()
                else:
                    failed.append(error)

    threads = [threading.Thread(target=use, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        storm, most = time.monotonic() + 2, time.monotonic() + LONG
        while time.monotonic() < storm or (
            pool.get_stats()["sessions_moved"] <= 3 and time.monotonic() < most
        ):
            pids = engine(pool).worker_pids()
            if pids:
                send_signal(generator.choice(pids))
            time.sleep(0.05)
            if generator.random() < 0.3:
                pool.recycle_worker(wait=False)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert all(isinstance(error, errors.WorkerCrashedError) for error in failed), failed
    assert last == marks
    assert pool.get_stats()["sessions_moved"] > 3
    expect_nothing_held(engine(pool))


# An orderly end


@pytest.mark.parametrize("every", [1, None, "1h"])
def test_recycling_by_hand_takes_all_of_the_state_along(new: NewPool, every: Any) -> None:
    pool = new(snapshot_every=every)
    for turn in range(1, 4):
        for name in ("a", "b", "c"):
            assert append(pool, name, turn) == list(range(1, turn + 1))
            assert append(pool, name, turn) == [*range(1, turn + 1), turn]
            assert pool.execute("drop_last", session=name) == list(range(1, turn + 1))
        pool.recycle_worker(timeout=LONG)
    expect_nothing_held(engine(pool))


@in_processes
def test_a_session_goes_on_when_the_last_call_before_is_cancelled(
    new: NewPool, gates: Gates
) -> None:
    pool = new()
    other, release = keep_running(pool, gates, "other", 0)
    home = where(pool, "a")
    assert where(pool, "busy") == home
    release.open()
    other.result(LONG)
    held, release = keep_running(pool, gates, "busy", 0)
    # More than a worker is given at a time: what comes behind them waits in a list.
    before = [pool.submit("append", {"item": n}, session="busy") for n in range(50)]
    last = pool.submit("append", {"item": 1}, session="a")
    worker = worker_of(pool, home)
    engine(pool).roster.retire(worker)
    after = pool.submit("append", {"item": 2}, session="a")
    wait_until(lambda: engine(pool).scheduler.counts()["sleeping"] >= 1, "a sleeping worker")
    assert last.cancel()
    assert after.result(LONG) == [2]
    release.open()
    assert held.result(LONG) and results(before)
    expect_nothing_held(engine(pool))


def test_recycling_while_calls_are_queued(new: NewPool, gates: Gates) -> None:
    pool = new(snapshot_every=None)
    first, release = keep_running(pool, gates, "a", 0)
    futures = [pool.submit("append", {"item": n}, session="a") for n in range(1, 100)]
    pool.recycle_worker(wait=False)
    wait_until(lambda: any(worker["due"] for worker in pool.list_workers()), "the order")
    futures += [pool.submit("append", {"item": n}, session="a") for n in range(100, 200)]
    release.open()
    assert results(futures)[-1] == list(range(200))
    wait_until(lambda: pool.get_stats()["recycled"]["manual"] >= 2, "the replacement")
    assert append(pool, "a", 200) == list(range(201))
    assert where(pool, "a") != first.result(LONG)


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("requests", {"worker_max_requests": 25}),
        ("requests", {"worker_max_requests": 25, "snapshot_every": 7}),
        ("age", {"worker_ttl": "150ms"}),
    ],
)
def test_sessions_survive_every_kind_of_recycling(
    new: NewPool, reason: str, options: dict[str, Any]
) -> None:
    pool = new(**options)
    turn = 0
    while turn < 20 or pool.get_stats()["recycled"][reason] < 3:
        for name in ("a", "b", "c", "d"):
            assert append(pool, name, turn) == list(range(turn + 1))
        turn += 1
        assert turn < 20_000
    assert engine(pool).supervisor.crashes == 0


def test_a_thousand_sessions_move_with_one_worker(new: NewPool) -> None:
    pool = new()
    names = [f"session-{n}" for n in range(1000)]
    results([pool.submit("append", {"item": name}, session=name) for name in names])
    pids = dict(
        zip(names, results([pool.submit("where", session=name) for name in names]), strict=True)
    )
    pid = pids[names[0]]
    moved = sum(each == pid for each in pids.values())
    assert moved > 0
    pool.recycle_worker(worker_of(pool, pid), timeout=LONG)
    futures = [pool.submit("append", {"item": 2}, session=name) for name in names]
    assert results(futures) == [[name, 2] for name in names]
    assert pool.get_stats()["sessions_moved"] == moved
    expect_nothing_held(engine(pool))


def test_a_megabyte_of_array_moves(new: NewPool) -> None:
    pytest.importorskip("numpy")
    pool = new()
    pid = pool.execute("keep_array", {"size": 1_000_000, "value": 2}, session="a")
    assert pool.get_stats()["snapshot_bytes"] > 1_000_000
    kill(pool, pid)
    total, there = pool.execute("sum_array", session="a")
    assert total == 3_000_000
    assert there != pid
    assert pool.move_session("a") != worker_of(pool, there)
    assert pool.execute("sum_array", session="a")[0] == 4_000_000


@in_processes
def test_a_crash_costs_what_came_after_the_last_snapshot(
    new: NewPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = new(snapshot_every=2)
    for turn in range(5):
        append(pool, "a", turn)
    kill(pool, pool.list_workers()[0]["pid"])
    kill(pool, pool.list_workers()[0]["pid"])
    assert append(pool, "a", 9) == [0, 1, 2, 3, 9]
    assert "session 'a' goes on from its snapshot after call 4" in caplog.text


# What goes wrong


def expect_lost(pool: snakepit.Pool, session: str, why: str) -> None:
    for _ in range(2):
        with pytest.raises(errors.AdapterError, match=why) as caught:
            append(pool, session, 0)
        assert f"session {session!r}" in str(caught.value)
        assert caught.value.details["session"] == session
        assert caught.value.details["step"] == "snapshot"
    assert pool.forget_session(session)
    assert append(pool, session, 1) == [1]


def test_a_snapshot_that_fails_costs_no_answer_but_the_session(new: NewPool) -> None:
    pool = new()
    append(pool, "a", 1)
    pid = pool.execute("let_snapshots_fail", session="a")
    assert append(pool, "a", 2) == [1, 2]
    kill(pool, pid)
    expect_lost(pool, "a", "OSError: no room on the device")
    expect_nothing_held(engine(pool))


@in_processes
def test_a_snapshot_that_fails_and_then_does_not(new: NewPool) -> None:
    pool = new()
    pid = pool.execute("let_snapshots_fail", session="a")
    append(pool, "a", 1)
    pool.execute("let_snapshots_fail", {"fail": False}, session="a")
    kill(pool, pid)
    assert append(pool, "a", 2) == [1, 2]


@in_processes
def test_a_state_that_cannot_be_pickled(new: NewPool) -> None:
    pool = new()
    pid = pool.execute("keep_a_lock", session="a")
    with pytest.raises(errors.AdapterError, match="cannot pickle"):
        pool.snapshot_session("a", timeout=LONG)
    with pytest.raises(errors.AdapterError, match="session 'a'"):
        pool.move_session("a", timeout=LONG)
    # It stays, and goes on there.
    assert where(pool, "a") == pid
    kill(pool, pid)
    expect_lost(pool, "a", "cannot pickle")


@in_processes
def test_a_restore_that_fails_loses_nothing(new: NewPool, gates: Gates) -> None:
    fault = gates("fault")
    pool = new(adapter_args={"fault": fault})
    append(pool, "a", 1)
    kill(pool, where(pool, "a"))
    fault.open()
    for _ in range(2):
        with pytest.raises(
            errors.AdapterError, match=r"restore\(\) of session 'a' raised"
        ) as caught:
            append(pool, "a", 2)
        assert "ConnectionError: the database is away" in str(caught.value)
        assert caught.value.details["step"] == "restore"
    fault.path.unlink()
    assert append(pool, "a", 2) == [1, 2]


@in_processes
def test_exit_in_snapshot_or_restore_is_an_error_like_any_other(new: NewPool, gates: Gates) -> None:
    fault = gates("fault")
    pool = new(adapter=Leaving, adapter_args={"fault": fault})
    append(pool, "a", 1)
    pid = pool.execute("let_snapshots_fail", session="a")
    assert append(pool, "a", 2) == [1, 2]
    with pytest.raises(errors.AdapterError, match="SystemExit: no room on the device"):
        pool.snapshot_session("a", timeout=LONG)
    pool.execute("let_snapshots_fail", {"fail": False}, session="a")
    kill(pool, pid)
    fault.open()
    with pytest.raises(errors.AdapterError, match=r"restore\(\).* SystemExit: the database is"):
        append(pool, "a", 3)
    fault.path.unlink()
    assert append(pool, "a", 3) == [1, 2, 3]


@in_processes
def test_states_are_kept_within_a_budget(new: NewPool) -> None:
    pool = new(snapshot_memory_mb=0.02)
    append(pool, "a", "x" * 15_000)
    assert append(pool, "b", "x" * 15_000)
    assert 15_000 < pool.get_stats()["snapshot_bytes"] < 20_000
    kill(pool, where(pool, "b"))
    expect_lost(pool, "b", "snapshot_memory_mb")
    pool.forget_session("a")
    assert pool.get_stats()["snapshot_bytes"] < 1000


@in_processes
def test_a_session_without_room_is_not_saved_and_says_so(new: NewPool) -> None:
    pool = new(snapshot_memory_mb=0.02)
    append(pool, "a", "x" * 15_000)
    append(pool, "b", 1)
    append(pool, "b", "x" * 15_000)
    home = where(pool, "b")
    for ask in (pool.snapshot_session, pool.move_session):
        with pytest.raises(errors.AdapterError, match=r"'b' .* not saved.*snapshot_memory_mb"):
            ask("b", timeout=LONG)
    assert where(pool, "b") == home
    # With room again, what was refused before is taken.
    pool.forget_session("a")
    assert pool.snapshot_session("b", timeout=LONG) > 15_000
    pool.move_session("b", timeout=LONG)
    assert where(pool, "b") != home
    assert append(pool, "b", 2) == [1, "x" * 15_000, 2]


@in_processes
def test_what_had_no_room_is_saved_when_its_worker_leaves(new: NewPool) -> None:
    pool = new(snapshot_memory_mb=0.02)
    append(pool, "a", "x" * 15_000)
    append(pool, "b", "x" * 15_000)
    pool.forget_session("a")
    pool.recycle_worker(timeout=LONG)
    assert append(pool, "b", 2) == ["x" * 15_000, 2]


@in_processes
def test_a_worker_that_leaves_saves_no_sessions_that_are_over(new: NewPool, log: Log) -> None:
    pool = new(snapshot_every=None, adapter_args={"log": log})
    for name in ("ended", "forgotten", "alive"):
        append(pool, name, 1)
    pool.session_store.delete_session("ended")
    pool.forget_session("forgotten")
    pool.recycle_worker(timeout=LONG)
    assert append(pool, "alive", 2) == [1, 2]
    assert [line for line in log.lines() if "snapshot" in line] == ["snapshot alive"]


def test_a_worker_forgets_the_sessions_that_are_over(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Ledger, pool_size=1, affinity="strict_queue")
    append(pool, "alive", 1)
    for number in range(500):
        append(pool, f"s{number}", 1)
        pool.session_store.delete_session(f"s{number}")
    assert pool.execute("known", session="alive") < 100
    assert append(pool, "alive", 2) == [1, 2]


# Calls of host tools, which call the pool


def ask_by(pool: snakepit.Pool, session: str, tool: Callable[..., Any]) -> None:
    pool.register_tool(session, "ask", tool)


@in_processes
@pytest.mark.parametrize("every", [1, None])
def test_a_host_tool_calls_its_own_session(new: NewPool, every: int | None) -> None:
    pool = new(pool_size=1, snapshot_every=every)
    ask_by(pool, "a", lambda: len(append(pool, "a", "in")))
    assert pool.execute("consult", {"item": 1}, session="a") == [1, "in", 2]
    assert append(pool, "a", 3) == [1, "in", 2, 3]
    pool.snapshot_session("a", timeout=LONG)
    kill(pool, where(pool, "a"))
    assert append(pool, "a", 4) == [1, "in", 2, 3, 4]
    expect_nothing_held(engine(pool))


@in_processes
@pytest.mark.parametrize("every", [1, None])
def test_a_host_tool_calls_a_session_that_is_new_or_is_not(new: NewPool, every: Any) -> None:
    pool = new(pool_size=1, snapshot_every=every)
    append(pool, "old", 1)
    ask_by(pool, "a", lambda: [append(pool, name, 2) for name in ("old", "new", "new")])
    found = [[1, 2], [2], [2, 2]]
    assert pool.execute("consult", {"item": 1}, session="a") == [1, found]
    assert append(pool, "new", 3) == [2, 2, 3]
    assert append(pool, "old", 3) == [1, 2, 3]
    if every is None:
        for name in ("a", "new", "old"):
            pool.snapshot_session(name, timeout=LONG)
    kill(pool, where(pool, "a"))
    assert append(pool, "new", 4) == [2, 2, 3, 4]
    assert append(pool, "old", 4) == [1, 2, 3, 4]
    assert append(pool, "a", 4) == [1, found, 4]
    expect_nothing_held(engine(pool))


@pytest.mark.parametrize(
    "profile", [{"profile": "process"}, {"profile": "thread", "threads_per_worker": 1}]
)
def test_host_tools_call_sessions_at_any_depth(new_pool: NewPool, profile: dict[str, Any]) -> None:
    pool = new_pool(adapter=Ledger, pool_size=1, affinity="strict_queue", **profile)

    def ask(depth: int) -> Any:
        if depth == 0:
            return "end"
        session = "ab"[depth % 2]
        return len(pool.execute("consult", {"item": depth, "values": [depth - 1]}, session=session))

    for session in "ab":
        ask_by(pool, session, ask)
    assert ask(4)
    assert append(pool, "a", 0)[:2] == [4, 2]
    kill(pool, where(pool, "a"))
    assert append(pool, "b", 0) == [3, 1, "end", 3, 0]
    expect_nothing_held(engine(pool))


@in_processes
def test_what_a_lent_call_did_outlives_the_call_below_it(new: NewPool) -> None:
    pool = new(pool_size=1)
    ask_by(pool, "a", lambda: [append(pool, name, 2) for name in ("a", "b")])
    with pytest.raises(errors.WorkerCrashedError):
        pool.execute("consult_and_die", {"item": 1}, session="a")
    assert append(pool, "a", 3) == [1, 2, 3]
    assert append(pool, "b", 3) == [2, 3]


@in_processes
def test_a_session_is_saved_for_a_host_tool(new: NewPool) -> None:
    pool = new(pool_size=1, snapshot_every=None)
    ask_by(pool, "a", lambda: pool.snapshot_session("a", timeout=LONG))
    with pytest.raises(errors.WorkerCrashedError):
        pool.execute("consult_and_die", {"item": "x" * 1000}, session="a")
    assert append(pool, "a", 2) == ["x" * 1000, 2]


@in_processes
def test_a_stream_is_lent(new: NewPool) -> None:
    pool = new(pool_size=1)
    ask_by(pool, "a", lambda: list(pool.stream("append_each", {"items": [2, 3]}, session="a")))
    assert pool.execute("consult", {"item": 1}, session="a") == [1, 2, 3, [2, 3]]
    kill(pool, where(pool, "a"))
    assert append(pool, "a", 4) == [1, 2, 3, [2, 3], 4]


@in_processes
def test_a_session_goes_on_elsewhere_only_after_a_lent_call_of_it(
    new: NewPool, gates: Gates
) -> None:
    pool = new()
    home = where(pool, "a")
    other = next(name for name in map(str, itertools.count()) if where(pool, name) == home)
    resumed: list[Any] = []
    resume = engine(pool).asks.handlers["resume_session"]

    def resume_noted(*arguments: Any) -> Any:
        resumed.append(resume(*arguments))
        return resumed[-1]

    ask_by(pool, "a", lambda: keep_running(pool, gates, other, 1)[0].result(LONG))
    outer = pool.submit("consult", {"item": 0}, session="a")
    gates(f"started-{other}").wait()
    engine(pool).asks.handlers["resume_session"] = resume_noted
    engine(pool).roster.retire(worker_of(pool, home))
    later = pool.submit("append", {"item": 2}, session=other)
    wait_until(lambda: None in resumed, "another worker to ask")
    gates(f"release-{other}").open()
    assert later.result(LONG) == [1, 2]
    assert outer.result(LONG) == [0, home]
    expect_nothing_held(engine(pool))


# On request


def test_a_session_moves_there_and_back(new: NewPool) -> None:
    """What the first worker remembers of it is not what it goes on with."""
    pool = new()
    append(pool, "a", 1)
    home = worker_of(pool, where(pool, "a"))
    away = pool.move_session("a", timeout=LONG)
    assert away != home
    assert append(pool, "a", 2) == [1, 2]
    assert worker_of(pool, where(pool, "a")) == away
    assert pool.move_session("a", home, timeout=LONG) == home
    assert append(pool, "a", 3) == [1, 2, 3]
    assert worker_of(pool, where(pool, "a")) == home
    expect_nothing_held(engine(pool))


@pytest.mark.parametrize("every", [1, None])
def test_calls_before_a_move_end_and_calls_after_it_go_along(
    new: NewPool, gates: Gates, every: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()

    hold_session = moving.hold_session

    def hold(*arguments: Any) -> int:
        lane = hold_session(*arguments)
        held.set()
        return lane

    monkeypatch.setattr(moving, "hold_session", hold)
    pool = new(snapshot_every=every)
    first, release = keep_running(pool, gates, "a", 0)
    low = [pool.submit("append", {"item": n}, session="a", priority="low") for n in range(1, 50)]
    moved: list[int] = []
    mover = threading.Thread(target=lambda: moved.append(pool.move_session("a", timeout=LONG)))
    mover.start()
    assert held.wait(LONG)
    # Of a higher priority than those before the move, which they do not overtake all the same.
    later = [pool.submit("append", {"item": 50}, session="a") for _ in range(2)]
    with pytest.raises(errors.WorkerBusyError):
        pool.execute("where", session="a", affinity="strict_fail_fast")
    release.open()
    mover.join(LONG)
    assert results(low)[-1][:1] == [0]
    assert len(results(later)[-1]) == 50 + len(later)
    assert worker_of(pool, where(pool, "a")) == moved[0]
    assert where(pool, "a") != first.result(LONG)
    expect_nothing_held(engine(pool))


@in_processes
def test_a_move_that_takes_too_long_is_given_up(new: NewPool, gates: Gates) -> None:
    pool = new()
    first, release = keep_running(pool, gates, "a", 0)
    with pytest.raises(TimeoutError):
        pool.move_session("a", timeout=0.1)
    with pytest.raises(TimeoutError):
        pool.snapshot_session("a", timeout=0.1)
    queued = pool.submit("append", {"item": 1}, session="a")
    release.open()
    assert queued.result(LONG) == [0, 1]
    assert where(pool, "a") == first.result(LONG)
    expect_nothing_held(engine(pool))


def test_a_move_away_from_a_worker_that_dies(new: NewPool, gates: Gates) -> None:
    pool = new()
    append(pool, "a", 1)
    started = gates("started")
    arguments = {"item": 2, "started": started, "release": gates("release")}
    running = pool.submit("append_and_hold", arguments, session="a")
    started.wait()
    pid = next(worker["pid"] for worker in pool.list_workers() if worker["busy"])
    moved: list[int] = []
    mover = threading.Thread(target=lambda: moved.append(pool.move_session("a", timeout=LONG)))
    mover.start()
    assert send_signal(pid)
    mover.join(LONG)
    assert isinstance(running.exception(LONG), errors.WorkerCrashedError)
    assert append(pool, "a", 3) == [1, 3]
    assert len(moved) == 1
    expect_nothing_held(engine(pool))


@in_processes
def test_a_snapshot_on_request(new: NewPool, log: Log) -> None:
    pool = new(snapshot_every=None, adapter_args={"log": log})
    append(pool, "a", "x" * 1000)
    assert log.lines() == []
    assert pool.snapshot_session("a", timeout=LONG) > 1000
    assert log.lines() == ["snapshot a"]
    append(pool, "a", 2)
    kill(pool, where(pool, "a"))
    assert append(pool, "a", 3) == ["x" * 1000, 3]


@in_processes
def test_bad_requests(new: NewPool) -> None:
    pool = new()
    for ask in (pool.move_session, pool.snapshot_session):
        with pytest.raises(errors.SessionNotFoundError, match="'nobody'"):
            ask("nobody")
        with pytest.raises(TypeError, match="session"):
            ask(3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout"):
            ask("nobody", timeout=0)
    append(pool, "a", 1)
    home = worker_of(pool, where(pool, "a"))
    for worker in (home, 999):
        with pytest.raises(ValueError, match=f"cannot be moved to worker {worker}"):
            pool.move_session("a", worker)
    assert append(pool, "a", 2) == [1, 2]


def test_there_has_to_be_another_worker(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Ledger, pool_size=1, affinity="strict_queue")
    append(pool, "a", 1)
    with pytest.raises(errors.SessionWorkerUnavailableError, match="no other worker"):
        pool.move_session("a")
    assert append(pool, "a", 2) == [1, 2]


# What does not move


def test_in_one_process_nothing_moves(new_pool: NewPool, log: Log) -> None:
    pool = new_pool("local", Ledger, affinity="strict_queue", adapter_args={"log": log})
    assert append(pool, "a", 1) == [1]
    assert append(pool, "a", 2) == [1, 2]
    for ask in (pool.move_session, pool.snapshot_session):
        with pytest.raises(ValueError, match="one process"):
            ask("a")
    assert log.lines() == []


def test_other_adapters_lose_their_sessions_as_before(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Counter, pool_size=1, affinity="strict_queue")
    pid = pool.execute("pid", session="a")
    with pytest.raises(ValueError, match=r"Counter has no snapshot\(\) and restore\(\)"):
        pool.move_session("a")
    kill(pool, pid)
    with pytest.raises(errors.SessionWorkerUnavailableError):
        pool.execute("pid", session="a")


def test_sessions_by_hint_have_no_snapshots(new_pool: NewPool, log: Log) -> None:
    pool = new_pool(adapter=Ledger, adapter_args={"log": log})
    append(pool, "a", 1)
    pool.recycle_worker(timeout=LONG)
    assert append(pool, "a", 2) == [2]
    assert log.lines() == []
    with pytest.raises(errors.SessionNotFoundError):
        pool.snapshot_session("a")


def test_an_adapter_needs_both_hooks(new_pool: NewPool) -> None:
    with pytest.raises(errors.AdapterError, match=r"OnlySnapshot has snapshot\(\) and no restore"):
        new_pool(adapter=OnlySnapshot)
    pool = new_pool(adapter=Forgetful, affinity="strict_queue")
    assert pool.execute("snapshot", session="a") == "of nothing"


def test_a_session_that_ends_in_the_store_ends_here(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Ledger, affinity="strict_queue")
    pool.session("a")
    append(pool, "a", 1)
    pool.session_store.delete_session("a")
    assert pool.get_stats()["snapshot_bytes"] == 0
    kill(pool, pool.list_workers()[0]["pid"])
    kill(pool, pool.list_workers()[0]["pid"])
    assert append(pool, "a", 2) == [2]


@pytest.mark.parametrize("by", ["session_store", "expiry"])
def test_a_session_of_the_same_id_begins_anew_before_the_end_is_heard_of(
    new_pool: NewPool, by: str
) -> None:
    seen: list[Any] = []

    def succeed(session: str) -> None:
        seen.append(append(pool, session, 2))

    now = 0.0
    with snakepit.SessionStore(clock=lambda: now) as store:
        store.on_end(succeed)  # before the pool hears of it
        pool = new_pool(adapter=Ledger, pool_size=2, affinity="strict_queue", session_store=store)
        append(pool, "a", 1)
        kill(pool, where(pool, "a"))
        if by == "expiry":
            now += 10_000
            store.cleanup_expired_sessions()
        else:
            store.delete_session("a")
        assert seen == [[2]]
        # What the successor has stays, though the end of the other was heard of after its call.
        kill(pool, where(pool, "a"))
        assert append(pool, "a", 3) == [2, 3]
        store.delete_session("a")
        pool.stop()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"snapshot_every": 0}, ValueError),
        ({"snapshot_every": 1.5}, TypeError),
        ({"snapshot_every": "5"}, ValueError),
        ({"snapshot_memory_mb": -1}, ValueError),
        ({"snapshot_memory_mb": None}, TypeError),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        snakepit.Pool(Ledger, **options)


def test_session_moves_when_its_thread_leaves_a_worker_that_goes_on(
    new_pool: NewPool, gate: Gates
) -> None:
    pool = new_pool(
        adapter=Ledger, pool_size=1, profile="thread", threads_per_worker=2,
        affinity="strict_queue", snapshot_every=None,
    )  # fmt: skip
    pool.await_ready(LONG)
    # Both at once, so that each has a thread of its own.
    moving_on, let_go = keep_running(pool, gate, "moves", 0)
    staying, release = keep_running(pool, gate, "stays", 0)
    let_go.open()
    home = moving_on.result(LONG)
    worker = worker_of(pool, home)
    engine(pool).recycle(None, False, None)
    wait_until(lambda: engine(pool).roster.serving(worker) == 1, "the first exchange")
    assert append(pool, "moves", 1) == [0, 1]
    assert where(pool, "moves") != home
    assert not staying.done()
    release.open()
    assert staying.result(LONG) == home
    assert append(pool, "stays", 1) == [0, 1]
