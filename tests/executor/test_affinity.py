"""Strict sessions: calls that run in the worker that knows their session, or not at all."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import LONG, expect_nothing_held, new_executor, results, send_signal, wait_until

from . import tasks

pytestmark = pytest.mark.processes

MEMORY: dict[str, int] = {}
"""What sessions leave in the worker that runs `count_up`."""


def count_up(session: str) -> tuple[int, int]:
    """Return how often a worker was called for a session, and its pid."""
    MEMORY[session] = MEMORY.get(session, 0) + 1
    return MEMORY[session], os.getpid()


def strict(executor: snakepit.Executor, session: str, **terms: Any) -> Any:
    return executor.options(session=session, affinity="strict_queue", **terms)


def hasty(executor: snakepit.Executor, session: str, **terms: Any) -> Any:
    return executor.options(session=session, affinity="strict_fail_fast", **terms)


def home(executor: snakepit.Executor, session: str) -> int:
    """Begin a session and return the pid of its worker."""
    pid: int = strict(executor, session).submit(os.getpid).result(LONG)
    return pid


# Where calls run


@pytest.mark.parametrize("begin", [strict, hasty])
def test_calls_of_a_session_run_in_one_worker(make: Make, begin: Any) -> None:
    executor = make(3)
    executor.wait_ready(LONG)
    view = begin(executor, "a")
    seen = [view.submit(count_up, "a").result(LONG) for _ in range(100)]
    assert [count for count, _ in seen] == list(range(1, 101))
    assert len({pid for _, pid in seen}) == 1


def test_the_first_calls_of_sessions_run_beside_a_long_call(make: Make, gate: Any) -> None:
    # They are offered to the worker whose answer came last, which is the one that has the long call
    # by then, or the other, which may doze.
    executor = make(2)
    for number in range(30):
        for each in range(20):
            home(executor, f"{number}-{each}")
        started, release = gate(f"started-{number}"), gate(f"release-{number}")
        held = executor.submit(tasks.hold, started, release)
        views = [strict(executor, f"new-{number}"), executor.options(session=f"hint-{number}")]
        pids = [view.submit(os.getpid) for view in views]
        results([*pids, executor.submit(os.getpid)])
        assert not held.done()
        release.open()
        held.result(LONG)


def test_calls_submitted_before_the_worker_is_known_run_in_it_in_order(make: Make) -> None:
    executor = make(3)
    futures = [strict(executor, "a").submit(count_up, "a") for _ in range(3000)]
    seen = results(futures)
    assert [count for count, _ in seen] == list(range(1, 3001))
    assert len({pid for _, pid in seen}) == 1
    expect_nothing_held(executor._pool)


def test_ten_thousand_sessions_keep_their_workers(make: Make) -> None:
    executor = make(2)
    executor.wait_ready(LONG)
    views = {name: strict(executor, name) for name in map(str, range(10_000))}
    for turn in range(1, 3):
        futures = {name: view.submit(count_up, name) for name, view in views.items()}
        seen = {name: future.result(LONG) for name, future in futures.items()}
        assert {count for count, _ in seen.values()} == {turn}
        if turn == 1:
            first = {name: pid for name, (_, pid) in seen.items()}
    assert {name: pid for name, (_, pid) in seen.items()} == first
    assert len(set(first.values())) == 2
    expect_nothing_held(executor._pool)
    assert all(executor.forget_session(name) for name in views)
    assert not executor.forget_session("0")


def test_the_first_call_of_a_session_goes_to_who_is_free(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    busy = executor.submit(tasks.hold_pid, started, release)
    started.wait()
    pid = home(executor, "a")
    release.open()
    assert busy.result(LONG) != pid


def test_a_session_that_was_forgotten_while_calls_wait_begins_anew(make: Make, gate: Any) -> None:
    executor = make(2)
    executor.wait_ready(LONG)
    gates = [(gate(f"started-{n}"), gate(f"release-{n}")) for n in range(3)]
    busy = [executor.submit(tasks.hold_pid, *pair) for pair in gates[:2]]
    for started, _ in gates[:2]:
        started.wait()
    view = strict(executor, "a")
    first = view.submit(tasks.hold_pid, *gates[2])
    second = view.submit(os.getpid)
    assert executor.forget_session("a")
    for _, release in gates[:2]:
        release.open()
    gates[2][0].wait()
    # Those two belong together; what comes after them does not wait for their worker.
    third = view.submit(os.getpid).result(LONG)
    gates[2][1].open()
    assert second.result(LONG) == first.result(LONG) != third
    assert {third, first.result()} == {future.result(LONG) for future in busy}
    expect_nothing_held(executor._pool)


def test_a_busy_worker_is_waited_for_though_another_is_free(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    busy = view.submit(tasks.hold_pid, started, release)
    started.wait()
    waiting = [view.submit(os.getpid) for _ in range(100)]
    others = {executor.submit(os.getpid).result(LONG) for _ in range(50)}
    assert not any(future.done() for future in waiting)
    release.open()
    assert set(results(waiting)) == {busy.result(LONG)}
    assert busy.result() not in others


def test_fail_fast_does_not_wait_for_a_busy_worker(make: Make, gate: Any) -> None:
    executor = make(2)
    pid = home(executor, "a")
    started, release = gate("started"), gate("release")
    busy = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    error = hasty(executor, "a").submit(os.getpid).exception(LONG)
    assert isinstance(error, errors.WorkerBusyError)
    assert isinstance(error, BlockingIOError)
    assert "'a'" in str(error)
    assert error.details["session"] == "a"
    assert error.details["pool"] == "default"
    assert isinstance(error.details["worker"], int)
    assert executor.submit(os.getpid).result(LONG) != pid
    release.open()
    assert busy.result(LONG) == pid
    assert hasty(executor, "a").submit(os.getpid).result(LONG) == pid


def test_fail_fast_sees_a_worker_that_is_busy_with_calls_of_no_session(
    make: Make, gate: Any
) -> None:
    executor = make(1)
    home(executor, "a")
    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release)
    started.wait()
    wait_until(
        lambda: isinstance(
            hasty(executor, "a").submit(os.getpid).exception(LONG), errors.WorkerBusyError
        )
    )
    release.open()


def test_fail_fast_during_the_first_call_of_the_session(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    first = hasty(executor, "a").submit(tasks.hold, started, release, "done")
    started.wait()
    error = hasty(executor, "a").submit(os.getpid).exception(LONG)
    assert isinstance(error, errors.WorkerBusyError)
    release.open()
    assert first.result(LONG) == "done"


def test_a_flood_for_one_worker_holds_up_nobody_else(make: Make, gate: Any) -> None:
    """There are 1024 slots: one lane must not fill them."""
    executor = make(2)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    view.submit(tasks.hold, started, release)
    started.wait()
    flood = [view.submit(os.getpid) for _ in range(5000)]
    assert results([executor.submit(tasks.square, n) for n in range(3000)]) == [
        n * n for n in range(3000)
    ]
    assert home(executor, "b") != 0
    assert not any(future.done() for future in flood)
    release.open()
    assert len(set(results(flood))) == 1
    expect_nothing_held(executor._pool)


def test_strict_calls_and_others_share_a_worker_fairly(make: Make, gate: Any, log: Any) -> None:
    executor = make(1)
    home(executor, "a")
    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release)
    started.wait()
    view = strict(executor, "a")
    # Few enough to be all in slots: how soon others follow is the owner's matter.
    futures = [executor.submit(tasks.record, log, "any") for _ in range(10)]
    futures += [view.submit(tasks.record, log, "strict") for _ in range(10)]
    release.open()
    results(futures)
    assert 4 <= log.lines()[:10].count("strict") <= 6


def test_priorities_hold_among_strict_calls(make: Make, gate: Any, log: Any) -> None:
    executor = make(1)
    home(executor, "a")
    started, release = gate("started"), gate("release")
    strict(executor, "a").submit(tasks.hold, started, release)
    started.wait()
    for name in ("low", "normal", "high"):
        for _ in range(5):
            strict(executor, "a", priority=name).submit(tasks.record, log, name)
    release.open()
    executor.shutdown()
    # Every 16th choice of a worker starts at the lowest priority.
    order = [name for name in log.lines() if name != "low"]
    assert order == ["high"] * 5 + ["normal"] * 5


def test_map_in_a_session(make: Make) -> None:
    executor = make(3)
    pid = home(executor, "a")
    view = strict(executor, "a")
    assert set(view.map(lambda _: os.getpid(), range(500))) == {pid}
    assert set(view.map(lambda _: os.getpid(), range(50), chunksize=1)) == {pid}
    assert list(strict(executor, "b").map(tasks.square, range(100))) == [n * n for n in range(100)]


def test_tasks_of_strict_tasks_run_anywhere(make: Make) -> None:
    executor = make(2)
    assert strict(executor, "a").submit(tasks.nested_fibonacci, 7).result(LONG) == 13


# Waiting, cancelled


def test_the_deadline_counts_while_a_call_waits_for_its_worker(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    strict(executor, "a").submit(tasks.hold, started, release)
    started.wait()
    late = strict(executor, "a", timeout=0.05).submit(os.getpid)
    error = late.exception(LONG)
    assert isinstance(error, errors.TaskTimeoutError)
    assert "the worker of session 'a'" in str(error)
    assert error.details["phase"] == "queued"
    release.open()
    assert home(executor, "a")
    expect_nothing_held(executor._pool)


@pytest.mark.parametrize("count", [1, 5, 100])
def test_waiting_calls_can_be_cancelled(make: Make, gate: Any, log: Any, count: int) -> None:
    """In a slot as in the list behind, and while the session has no worker yet."""
    executor = make(1)
    for session in ("a", "b"):
        started, release = gate(f"started-{session}"), gate(f"release-{session}")
        holder = "a" if session == "a" else "other"
        strict(executor, holder).submit(tasks.hold, started, release)
        started.wait()
        view = strict(executor, session)
        futures = [view.submit(tasks.record, log, f"{session}{n}") for n in range(2 * count)]
        assert all(future.cancel() for future in futures[::2])
        release.open()
        results(futures[1::2])
        assert all(future.cancelled() for future in futures[::2])
    wanted = [f"{session}{n}" for session in "ab" for n in range(1, 2 * count, 2)]
    assert log.lines() == wanted
    expect_nothing_held(executor._pool)


def test_cancelled_calls_leave_room_for_others(make: Make, gate: Any) -> None:
    """A worker's ring has few cells, and those of cancelled calls stay in it."""
    executor = make(1)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    view.submit(tasks.hold, started, release)
    started.wait()
    kept = []
    for _ in range(100):
        assert view.submit(tasks.square, 2).cancel()
        kept.append(view.submit(tasks.square, 3))
        assert view.submit(tasks.square, 2).cancel()
    release.open()
    assert results(kept) == [9] * 100
    expect_nothing_held(executor._pool)


def test_cancelling_a_session_reaches_its_waiting_calls(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    strict(executor, "a").submit(tasks.hold, started, release)
    started.wait()
    mine = [strict(executor, "a").submit(os.getpid) for _ in range(100)]
    other = [strict(executor, "b").submit(os.getpid) for _ in range(100)]
    release.open()
    stopped = executor.cancel(session="b")
    results(mine)
    # One may have been running, and have ended by itself.
    assert stopped - len([f for f in other if f.cancelled()]) in (0, 1)
    expect_nothing_held(executor._pool)


@pytest.mark.parametrize("cancel", [False, True])
def test_shutdown_settles_what_waits(make: Make, gate: Any, cancel: bool) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    first = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    waiting = [strict(executor, "a").submit(os.getpid) for _ in range(100)]
    undecided = [strict(executor, "b").submit(os.getpid) for _ in range(100)]
    executor.shutdown(wait=False, cancel_futures=cancel)
    release.open()
    executor.shutdown()
    assert first.result(LONG)
    if cancel:
        assert all(future.cancelled() for future in waiting)
    else:
        assert set(results(waiting)) == {first.result()}
    assert all(future.done() for future in undecided)


# Lost workers


def expect_lost(future: Any, session: str) -> None:
    error = future.exception(LONG)
    assert isinstance(error, errors.SessionWorkerUnavailableError), error
    assert isinstance(error, LookupError)
    assert f"forget_session('{session}')" in str(error)
    assert error.details["session"] == session
    assert error.details["pool"] == "default"
    assert isinstance(error.details["worker"], int)


def test_a_killed_worker_takes_its_sessions_with_it(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    running = view.submit(tasks.hold, started, release)
    started.wait()
    pid = next(w.pid for w in executor.lifecycle_stats().workers if w.state == "busy")
    waiting = [view.submit(os.getpid) for _ in range(100)]
    assert send_signal(pid)
    assert isinstance(running.exception(LONG), errors.WorkerCrashedError)
    for future in waiting:
        expect_lost(future, "a")
    # Also once the worker has a successor, and until somebody says so.
    executor.wait_ready(LONG)
    for begin in (strict, hasty):
        expect_lost(begin(executor, "a").submit(os.getpid), "a")
    assert executor.forget_session("a")
    assert home(executor, "a") != pid
    expect_nothing_held(executor._pool)


def test_a_session_whose_idle_worker_dies_is_lost_and_others_are_not(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    held = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    kept = home(executor, "b")
    release.open()
    assert held.result(LONG) != kept
    assert send_signal(held.result())
    wait_until(lambda: executor.lifecycle_stats().crashes == 1, "the burial")
    expect_lost(strict(executor, "a").submit(os.getpid), "a")
    assert home(executor, "b") == kept


def test_a_first_call_that_kills_its_worker_loses_the_session(make: Make, gate: Any) -> None:
    executor = make(1)
    view = strict(executor, "a")
    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release)
    started.wait()
    doomed = view.submit(tasks.kill_self)
    waiting = [view.submit(os.getpid) for _ in range(50)]
    release.open()
    assert isinstance(doomed.exception(LONG), errors.WorkerCrashedError)
    for future in waiting:
        expect_lost(future, "a")
    expect_nothing_held(executor._pool)


def test_a_crashed_call_is_not_tried_again_elsewhere(make: Make, log: Any) -> None:
    executor = make(2)
    home(executor, "a")
    view = strict(executor, "a", idempotent=True)

    def die(log: tasks.Log) -> None:
        log.add("ran")
        tasks.kill_self()

    future = view.submit(die, log)
    expect_lost(future, "a")
    assert isinstance(future.exception().__cause__, errors.WorkerCrashedError)
    assert log.lines() == ["ran"]


def test_a_retried_call_goes_to_the_same_worker(make: Make, log: Any) -> None:
    executor = make(3)
    pid = home(executor, "a")

    def stumble(log: tasks.Log) -> int:
        log.add(os.getpid())
        if len(log.lines()) < 3:
            raise ConnectionError
        return os.getpid()

    policy = snakepit.RetryPolicy(max_attempts=3, backoff=0.001)
    future = strict(executor, "a", retry=policy).submit(stumble, log)
    assert future.result(LONG) == pid
    assert log.lines() == [str(pid)] * 3


def test_a_busy_worker_can_be_tried_again_by_policy(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    busy = strict(executor, "a").submit(tasks.hold_pid, started, release)
    started.wait()
    policy = snakepit.RetryPolicy(
        max_attempts=1000, backoff=0.001, retry_on=(errors.WorkerBusyError,)
    )
    future = hasty(executor, "a", retry=policy).submit(os.getpid)
    wait_until(lambda: future.attempts >= 3, "more attempts")
    release.open()
    assert future.result(LONG) == busy.result(LONG)


def test_recycling_lets_strict_calls_end_first(make: Make, gate: Any) -> None:
    executor = make(2)
    # One that is still starting when a spare gets ready would not be offered the exchange.
    executor.wait_ready(LONG)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    first = view.submit(tasks.hold_pid, started, release)
    started.wait()
    waiting = [view.submit(os.getpid) for _ in range(200)]
    executor.recycle_worker(wait=False)
    # The other worker has nothing to do: it is replaced, and the spare for this one made ready.
    wait_until(lambda: executor.lifecycle_stats().recycled["manual"] >= 1, "a replacement")
    wait_until(lambda: view.submit(os.getpid).cancel() is False, "the order to leave")
    assert not any(future.done() for future in waiting)
    release.open()
    assert set(results(waiting)) == {first.result(LONG)}
    wait_until(lambda: executor.lifecycle_stats().recycled["manual"] >= 2, "the replacement")
    expect_lost(view.submit(os.getpid), "a")
    assert executor.forget_session("a")
    assert home(executor, "a") != first.result()
    expect_nothing_held(executor._pool)


def test_a_session_that_is_never_idle_does_not_keep_its_worker(make: Make) -> None:
    executor = make(1, worker_ttl="100ms")
    ended = threading.Event()

    def flood() -> None:
        view = strict(executor, "a")
        while not ended.is_set():
            view.submit(tasks.sleep_and_return, 0.001)
            time.sleep(0.001)

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: executor.lifecycle_stats().recycled["age"] >= 2, "replacements")
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert executor.lifecycle_stats().crashes == 0


def test_a_hard_limit_of_tasks_ends_a_session(make: Make) -> None:
    executor = make(1, max_tasks_per_child=10)
    futures = [strict(executor, "a").submit(os.getpid) for _ in range(50)]
    failed = [future for future in futures if future.exception(LONG) is not None]
    assert len(failed) == 40
    for future in failed:
        expect_lost(future, "a")
    assert executor.submit(tasks.square, 3).result(LONG) == 9


def test_lost_sessions_can_be_heard_of(make: Make) -> None:
    executor = make(1)
    pool: Any = executor._pool
    heard: list[tuple[int, int]] = []

    pool.affinity.on_session_lost = lambda key, lane: heard.append((key, lane))
    pid = home(executor, "a")
    assert home(executor, "b") == pid
    (worker,) = executor.lifecycle_stats().workers
    assert send_signal(pid)
    wait_until(lambda: len(heard) == 2, "both sessions")
    names = {executor.options(session=name)._terms.session for name in "ab"}
    assert {key for key, _ in heard} == names
    assert {lane for _, lane in heard} == {worker.id}


def test_forgetting_moves_what_comes_and_not_what_is_queued(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    view = strict(executor, "a")
    first = view.submit(tasks.hold_pid, started, release)
    started.wait()
    queued = [view.submit(os.getpid) for _ in range(50)]
    assert executor.forget_session("a")
    moved = view.submit(os.getpid).result(LONG)
    release.open()
    assert set(results(queued)) == {first.result(LONG)}
    assert moved != first.result()
    assert view.submit(os.getpid).result(LONG) == moved


def test_a_storm_of_kills_settles_every_strict_call(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(LONG)
    generator = random.Random(5)
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):
            pids = executor.worker_pids()
            if pids:
                send_signal(generator.choice(pids))

    killer = threading.Thread(target=kill)
    killer.start()
    futures: list[Any] = []
    try:
        until = time.monotonic() + 2
        while time.monotonic() < until:
            session = f"s{generator.randrange(20)}"
            begin = hasty if generator.random() < 0.2 else strict
            terms = {"timeout": 0.02} if generator.random() < 0.1 else {}
            call = begin(executor, session, **terms).submit
            if generator.random() < 0.1:
                futures.append(call(tasks.sleep_and_return, 0.005))
            futures.append(call(count_up, session))
            if generator.random() < 0.1:
                futures[-1].cancel()
            if generator.random() < 0.1:
                executor.forget_session(session)
            futures.append(executor.submit(tasks.square, 2))
            time.sleep(0.0005)
    finally:
        ended.set()
        killer.join()
    allowed = (
        errors.SessionWorkerUnavailableError, errors.WorkerBusyError, errors.WorkerCrashedError,
        errors.TaskTimeoutError,
    )  # fmt: skip
    kinds = set()
    for future in futures:
        try:
            error = future.exception(LONG)
        except CancelledError:
            continue
        assert error is None or isinstance(error, allowed), error
        kinds.add(type(error))
    assert {type(None), errors.SessionWorkerUnavailableError, errors.WorkerCrashedError} <= kinds
    expect_nothing_held(executor._pool)
    executor.wait_ready(LONG)
    assert results([executor.submit(tasks.square, n) for n in range(100)])


# Terms


def test_senseless_affinity_is_refused(make: Make) -> None:
    executor = make(1)
    with pytest.raises(ValueError, match="hint, strict_queue, strict_fail_fast"):
        executor.options(session="a", affinity="strict")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give session as well"):
        executor.options(affinity="strict_queue")
    with pytest.raises(TypeError, match="session must be a string"):
        executor.forget_session(7)  # type: ignore[arg-type]
    assert not executor.forget_session("never begun")


def test_a_call_that_cannot_be_pickled_begins_no_session(make: Make) -> None:
    executor = make(1)
    future = strict(executor, "a").submit(tasks.identity, threading.Lock())
    assert isinstance(future.exception(LONG), errors.EncodeError)
    assert not executor.forget_session("a")


def test_in_a_local_pool_every_thread_serves_every_session() -> None:
    with new_executor("local", 2) as executor:
        for begin in (strict, hasty):
            futures = [begin(executor, "a").submit(os.getpid) for _ in range(100)]
            assert set(results(futures)) == {os.getpid()}
        assert not executor.forget_session("a")


def test_a_view_uses_a_session_that_was_made_after_its_first_call(make: Make) -> None:
    executor = make(1)
    view = executor.options(session="a")
    view.submit(pow, 2, 3).result(LONG)  # of no session yet, nor is there a store
    session = executor.session("a")
    made = time.monotonic()
    wait_until(lambda: time.monotonic() > made, "the clock")
    view.submit(pow, 2, 3).result(LONG)
    assert time.monotonic() - session._rested() > made


def test_session_of_the_same_id_begins_anew_before_the_end_is_heard_of() -> None:
    pids: list[int] = []
    with snakepit.SessionStore() as store:
        store.on_end(lambda session: pids.append(home(executor, session)))  # before the pool's
        with new_executor("template", 2, session_store=store) as executor:
            executor.wait_ready(LONG)
            lost = home(executor, "a")
            assert send_signal(lost)
            wait_until(lambda: lost not in executor.worker_pids(), "the burial")
            assert store.delete_session("a")
            # The end of the other, heard of after it, has not taken its worker from it.
            (pid,) = pids
            assert home(executor, "a") == pid
            assert executor.forget_session("a")
