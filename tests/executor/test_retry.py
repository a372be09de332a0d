"""Calls that are tried again: policies, idempotent calls, and the one future for all attempts."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle.deadlines import Timekeeper
from tests.conftest import Make
from tests.support import LONG, new_executor, results, run_clean, wait_until

from . import tasks

AT_ONCE = snakepit.RetryPolicy(max_attempts=3, backoff=0.0)
NEVER = snakepit.RetryPolicy(max_attempts=3, backoff=3600.0, max_backoff=3600.0)


def fail_first(log: tasks.Log, times: int, value: Any = None, name: object = "call") -> Any:
    """Raise ValueError as often as `times` says, then return `value`; each attempt is logged."""
    log.add(name)
    if log.lines().count(str(name)) <= times:
        raise ValueError(f"{name}: not yet")
    return value


def die_first(log: tasks.Log, times: int, value: Any = None) -> Any:
    log.add(os.getpid())
    if len(log.lines()) <= times:
        os._exit(3)
    return value


def spoil_then_return(log: tasks.Log, array: Any) -> Any:
    """Overwrite the argument in the first attempt; return what the second one got."""
    log.add("attempt")
    if len(log.lines()) == 1:
        array[:] = 0
        raise ValueError("spoilt")
    return float(array.sum())


def fail_then_hold(log: tasks.Log, started: tasks.Gate, release: tasks.Gate) -> None:
    log.add("attempt")
    if len(log.lines()) == 1:
        raise ValueError("the first")
    started.open()
    release.wait()


def between_attempts(future: snakepit.Future[Any], log: tasks.Log, attempts: int = 1) -> None:
    """Wait until the call waits for its next attempt."""
    wait_until(
        lambda: len(log.lines()) == attempts and future._attempt is None,  # type: ignore[attr-defined]
        "the attempt to fail",
    )
    assert not future.done() and not future.running()


# What is retried


def test_failing_call_is_tried_again_and_the_future_stays(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    future = executor.options(retry=AT_ONCE).submit(fail_first, log, 2, "done")
    assert future.result(LONG) == "done"
    assert len(log.lines()) == 3


def test_last_error_is_raised_when_the_attempts_are_used_up(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    future = executor.options(retry=AT_ONCE).submit(fail_first, log, 99)
    error = future.exception(LONG)
    assert isinstance(error, ValueError)
    assert "attempt 3" in error.__notes__[0]
    assert len(log.lines()) == 3


def test_only_named_errors_are_retried(executor: snakepit.Executor, log: tasks.Log) -> None:
    policy = snakepit.RetryPolicy(backoff=0.0, retry_on=(KeyError, OSError))
    assert isinstance(
        executor.options(retry=policy).submit(fail_first, log, 1).exception(LONG), ValueError
    )
    assert len(log.lines()) == 1


def test_an_exit_of_the_task_is_not_an_error_to_retry(executor: snakepit.Executor) -> None:
    future = executor.options(retry=AT_ONCE).submit(tasks.fail, SystemExit(3))
    with pytest.raises(SystemExit):
        future.result(LONG)
    assert future.attempts == 1


@pytest.mark.processes
def test_crash_is_retried_only_where_it_is_named(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    future = executor.options(retry=AT_ONCE).submit(die_first, log, 1)
    assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
    assert len(log.lines()) == 1
    policy = snakepit.RetryPolicy(backoff=0.0, retry_on=errors.WorkerCrashedError)
    assert executor.options(retry=policy).submit(die_first, log, 3, "alive").result(LONG) == "alive"
    assert len(log.lines()) == 4


@pytest.mark.processes
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_idempotent_call_is_tried_once_more_in_another_worker(
    executor: snakepit.Executor, log: tasks.Log, size: int
) -> None:
    value = np.arange(size)
    future = executor.options(idempotent=True).submit(die_first, log, 1, value)
    assert np.array_equal(future.result(LONG), value)
    first, second = log.lines()
    assert first != second


@pytest.mark.processes
def test_idempotent_call_that_kills_twice_fails(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    future = executor.options(idempotent=True).submit(die_first, log, 99)
    assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
    assert len(log.lines()) == 2
    assert executor.submit(tasks.square, 3).result(LONG) == 9


def test_idempotent_call_that_raises_is_not_tried_again(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    assert executor.options(idempotent=True).submit(fail_first, log, 1).exception(LONG)
    assert len(log.lines()) == 1


@pytest.mark.processes
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_every_attempt_gets_the_arguments_as_they_were_submitted(
    executor: snakepit.Executor, log: tasks.Log, size: int
) -> None:
    array = np.ones(size)
    future = executor.options(retry=AT_ONCE).submit(spoil_then_return, log, array)
    array[:] = 7
    assert future.result(LONG) == size


def test_functions_by_value_are_retried(executor: snakepit.Executor, log: tasks.Log) -> None:
    view = executor.options(retry=AT_ONCE)
    base = 5
    assert view.submit(lambda: fail_first(log, 1, base)).result(LONG) == 5


def test_what_cannot_be_encoded_fails_without_an_attempt(make: Make) -> None:
    executor = make(1)
    nothing: Any = None
    future = executor.options(retry=AT_ONCE).submit(nothing)
    assert isinstance(future.exception(LONG), TypeError)


@pytest.mark.processes
def test_unpicklable_argument_is_the_error_of_the_future(executor: snakepit.Executor) -> None:
    future = executor.options(retry=AT_ONCE).submit(tasks.identity, threading.Lock())
    assert isinstance(future.exception(LONG), errors.EncodeError)


# Deadlines


def test_error_is_raised_at_once_when_the_deadline_leaves_no_room(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    future = executor.options(retry=NEVER, timeout=1000).submit(fail_first, log, 1)
    assert isinstance(future.exception(LONG), ValueError)
    assert len(log.lines()) == 1


def test_one_deadline_covers_all_attempts(
    executor: snakepit.Executor, log: tasks.Log, gate: Any
) -> None:
    release = gate("release")
    view = executor.options(retry=AT_ONCE, timeout=1.5)
    started = time.monotonic()
    future = view.submit(fail_then_hold, log, gate("started"), release)
    error = future.exception(LONG)
    assert time.monotonic() - started >= 1.4
    assert isinstance(error, errors.TaskTimeoutError)
    assert error.details["timeout"] == 1.5
    release.open()


# Cancelling and stopping


def test_cancel_between_attempts(executor: snakepit.Executor, log: tasks.Log) -> None:
    future = executor.options(retry=NEVER).submit(fail_first, log, 1)
    between_attempts(future, log)
    assert future.cancel() and future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(LONG)
    assert executor.submit(tasks.square, 4).result(LONG) == 16
    assert len(log.lines()) == 1


def test_stop_between_attempts(executor: snakepit.Executor, log: tasks.Log) -> None:
    future = executor.options(retry=NEVER).submit(fail_first, log, 1)
    between_attempts(future, log)
    assert future.stop()
    assert future.cancelled()


def test_session_is_cancelled_between_attempts(executor: snakepit.Executor, log: tasks.Log) -> None:
    future = executor.options(retry=NEVER, session="one").submit(fail_first, log, 1)
    between_attempts(future, log)
    assert executor.cancel(session="one") == 1
    assert future.cancelled()
    assert len(log.lines()) == 1


def test_queued_call_is_cancelled(make: Make, gate: Any, log: tasks.Log) -> None:
    executor = make(1)
    release = gate("release")
    held = executor.submit(tasks.hold, gate("started"), release)
    future = executor.options(retry=AT_ONCE).submit(fail_first, log, 0)
    assert future.cancel() and future.cancelled()
    release.open()
    held.result(LONG)
    assert executor.submit(tasks.square, 4).result(LONG) == 16
    assert log.lines() == []


@pytest.mark.processes
def test_running_attempt_is_stopped_and_not_retried(executor: snakepit.Executor, gate: Any) -> None:
    policy = snakepit.RetryPolicy(backoff=0.0, retry_on=(Exception, errors.WorkerCrashedError))
    view = executor.options(retry=policy, idempotent=True)
    started = gate("started")
    future = view.submit(tasks.sleep_long, started)
    wait_until(started.is_open, "the attempt to run")
    assert future.running()
    assert not future.cancel()
    assert future.stop()
    assert future.exception(LONG) is not None
    assert future.attempts == 1


@pytest.mark.processes
def test_cancel_running_ends_the_call(executor: snakepit.Executor, gate: Any) -> None:
    view = executor.options(retry=AT_ONCE, cancel_running=True)
    started = gate("started")
    future = view.submit(tasks.sleep_long, started)
    wait_until(started.is_open, "the attempt to run")
    assert future.cancel() and future.cancelled()
    assert executor.submit(tasks.square, 4).result(LONG) == 16


def test_attempts_and_cancels_race(make: Make, log: tasks.Log) -> None:
    executor = make(2)
    view = executor.options(retry=snakepit.RetryPolicy(5, backoff=0.0))
    for number in range(150):
        future = view.submit(fail_first, log, 99, None, number)
        if number % 3 == 0:
            wait_until(lambda n=number: str(n) in log.lines(), "an attempt")  # type: ignore[misc]
        cancelled = future.cancel()
        if cancelled:
            assert future.cancelled()
        else:
            try:
                assert isinstance(future.exception(LONG), ValueError)
            except concurrent.futures.CancelledError:
                pytest.fail("cancel() said False")


# Who waits


def test_callbacks_run_once(executor: snakepit.Executor, log: tasks.Log) -> None:
    seen: list[Any] = []
    settled = threading.Event()
    future = executor.options(retry=AT_ONCE).submit(fail_first, log, 2, "done")
    future.add_done_callback(seen.append)
    future.add_done_callback(lambda _: settled.set())
    assert settled.wait(LONG)
    future.result(LONG)
    assert seen == [future]


def test_wait_and_as_completed(executor: snakepit.Executor, log: tasks.Log) -> None:
    view = executor.options(retry=snakepit.RetryPolicy(3, backoff=0.01))
    futures = [view.submit(fail_first, log, n % 3, n, n) for n in range(12)]
    done, rest = concurrent.futures.wait(futures, LONG)
    assert len(done) == 12 and not rest
    futures = [view.submit(fail_first, log, n % 3, n, n) for n in range(20, 32)]
    got = sorted(f.result() for f in concurrent.futures.as_completed(futures, LONG))
    assert got == list(range(20, 32))


def test_result_times_out_between_attempts(executor: snakepit.Executor, log: tasks.Log) -> None:
    future = executor.options(retry=NEVER).submit(fail_first, log, 1)
    between_attempts(future, log)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    assert future.cancel()


def test_many_threads_submit_and_wait(make: Make, log: tasks.Log) -> None:
    executor = make(2)
    view = executor.options(retry=snakepit.RetryPolicy(3, backoff=(0.0, 0.005)))
    got: list[int] = []

    def work(base: int) -> None:
        for number in range(base, base + 15):
            got.append(view.submit(fail_first, log, number % 3, number, number).result(LONG))

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert sorted(got) == [100 * n + k for n in range(4) for k in range(15)]


def test_no_thread_sleeps_for_a_backoff(make: Make, tmp_path: Path) -> None:
    executor = make(2)
    executor.wait_ready(LONG)
    before = threading.active_count()
    logs = [tasks.Log(tmp_path / f"log-{n}") for n in range(20)]
    futures = [executor.options(retry=NEVER).submit(fail_first, log, 1) for log in logs]
    for future, log in zip(futures, logs, strict=True):
        between_attempts(future, log)
    assert threading.active_count() <= before + 1
    assert all(future.cancel() for future in futures)


# The end of the pool


def test_shutdown_waits_for_the_attempts_to_come(make: Make, log: tasks.Log) -> None:
    executor = make(1)
    policy = snakepit.RetryPolicy(3, backoff=0.1)
    future = executor.options(retry=policy).submit(fail_first, log, 2, "done")
    executor.shutdown(wait=True)
    assert future.done() and future.result() == "done"
    with pytest.raises(errors.PoolShutdownError):
        executor.options(retry=AT_ONCE).submit(tasks.square, 2)
    with pytest.raises(errors.PoolShutdownError):
        executor.submit(tasks.square, 2)


def test_closing_pool_takes_no_calls_while_one_waits_for_its_attempt(
    make: Make, log: tasks.Log
) -> None:
    executor = make(1)
    future = executor.options(retry=NEVER).submit(fail_first, log, 1)
    between_attempts(future, log)
    executor.shutdown(wait=False)
    for view in (executor, executor.options(retry=AT_ONCE)):
        with pytest.raises(errors.PoolShutdownError):
            view.submit(tasks.square, 2)
    assert future.cancel()


def test_shutdown_cancels_what_waits_for_an_attempt(make: Make, log: tasks.Log) -> None:
    executor = make(1)
    future = executor.options(retry=NEVER).submit(fail_first, log, 1)
    between_attempts(future, log)
    executor.shutdown(wait=True, cancel_futures=True)
    assert future.cancelled()


@pytest.mark.processes
def test_killed_workers_are_not_tried_again(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    future = executor.options(idempotent=True).submit(tasks.sleep_long, started)
    wait_until(started.is_open, "the attempt to run")
    executor.kill_workers()
    assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
    executor.shutdown(wait=True)


def test_callback_may_shut_the_pool_down(kind: str, log: tasks.Log) -> None:
    executor = new_executor(kind, 1)
    ended = threading.Event()

    def end(_: Any) -> None:
        executor.shutdown(wait=True)
        ended.set()

    future = executor.options(retry=AT_ONCE).submit(fail_first, log, 1, "done")
    future.add_done_callback(end)
    assert ended.wait(LONG)
    assert future.result() == "done"
    executor.shutdown(wait=True)


@pytest.mark.parametrize("profile", ["process", "local"])
def test_program_ends_after_its_retries(tmp_path: Path, profile: str) -> None:
    source = f"""
        import pathlib
        import snakepit

        def flaky(path):
            path = pathlib.Path(path)
            with path.open("a") as file:
                file.write("x")
            if len(path.read_text()) < 3:
                raise ValueError("not yet")
            print("at last", flush=True)

        executor = snakepit.Executor(1, profile={profile!r})
        policy = snakepit.RetryPolicy(3, backoff=0.1)
        executor.options(retry=policy).submit(flaky, {str(tmp_path / "count")!r})
        """
    assert run_clean(source, tmp_path) == ["at last"]


# map


@pytest.mark.parametrize("ordered", [True, False])
def test_map_retries_item_by_item(
    executor: snakepit.Executor, log: tasks.Log, ordered: bool
) -> None:
    def flaky(number: int) -> int:
        return int(fail_first(log, number % 3, number, number))

    got = list(executor.options(retry=AT_ONCE).map(flaky, range(9), ordered=ordered))
    assert (got if ordered else sorted(got)) == list(range(9))
    assert [log.lines().count(str(n)) for n in range(9)] == [1, 2, 3] * 3


def test_map_raises_what_the_last_attempt_raised(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    def flaky(number: int) -> int:
        return int(fail_first(log, 99 if number == 2 else 0, number, number))

    got = executor.options(retry=AT_ONCE).map(flaky, range(4))
    assert [next(got), next(got)] == [0, 1]
    with pytest.raises(ValueError):
        next(got)


def test_map_refuses_chunks_of_retried_calls(executor: snakepit.Executor) -> None:
    for view in (
        executor.options(retry=AT_ONCE),
        executor.options(breaker=snakepit.CircuitBreaker()),
    ):
        with pytest.raises(ValueError, match="one by one"):
            view.map(tasks.square, range(4), chunksize=2)


@pytest.mark.processes
def test_map_of_idempotent_calls_survives_a_crash(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    def fragile(number: int) -> int:
        if number == 30:
            die_first(log, 1)
        return number

    assert list(executor.options(idempotent=True).map(fragile, range(100))) == list(range(100))
    assert len(log.lines()) == 2


# Tasks of tasks


def test_task_of_a_local_pool_waits_for_retried_calls_of_its_own(tmp_path: Path) -> None:
    with snakepit.Executor(1, profile="local") as executor:
        policy = snakepit.RetryPolicy(3, backoff=0.01)

        def outer() -> list[int]:
            futures = [
                executor.options(retry=policy).submit(
                    fail_first, tasks.Log(tmp_path / f"{n}"), 2, n
                )
                for n in range(3)
            ]
            return results(futures)

        assert executor.submit(outer).result(LONG) == [0, 1, 2]


# The policy by itself


def test_backoff_follows_the_sequence_then_doubles_up_to_the_bound() -> None:
    policy = snakepit.RetryPolicy(10, backoff=(0.1, 0.5), max_backoff=3.0, jitter=0.0)
    assert [policy.delay(n) for n in range(1, 7)] == [0.1, 0.5, 1.0, 2.0, 3.0, 3.0]
    assert policy.delay(10_000) == 3.0
    default = snakepit.RetryPolicy(jitter=0)
    assert [default.delay(n) for n in range(1, 6)] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert default.delay(50) == 30.0


def test_jitter_spreads_and_keeps_the_bound() -> None:
    policy = snakepit.RetryPolicy(backoff=1.0, jitter=0.5, max_backoff=1.2)
    waits = {policy.delay(1) for _ in range(300)}
    assert len(waits) > 100
    assert min(waits) >= 0.5 and max(waits) <= 1.2


def test_policy_is_a_plain_value() -> None:
    assert snakepit.RetryPolicy() == snakepit.RetryPolicy()
    assert "max_attempts=3" in repr(snakepit.RetryPolicy())
    assert len({snakepit.RetryPolicy(), snakepit.RetryPolicy(4)}) == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"max_attempts": 0},
        {"max_attempts": True},
        {"max_attempts": 2.5},
        {"backoff": -1},
        {"backoff": ()},
        {"backoff": "0.1"},
        {"backoff": (0.1, float("nan"))},
        {"backoff": (0.1, "soon")},
        {"max_backoff": float("inf")},
        {"max_backoff": None},
        {"jitter": 1.5},
        {"jitter": -0.1},
        {"retry_on": ()},
        {"retry_on": "ValueError"},
        {"retry_on": (ValueError, 3)},
        {"retry_on": errors.TaskTimeoutError},
        {"retry_on": (OSError, errors.TaskStoppedError)},
    ],
    ids=str,
)
def test_senseless_policy_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        snakepit.RetryPolicy(**bad)


def test_options_refuse_what_is_no_policy(executor: snakepit.Executor) -> None:
    wrong: list[dict[str, Any]] = [{"retry": 3}, {"breaker": 5}, {"idempotent": 1}]
    for bad in wrong:
        with pytest.raises(TypeError, match=next(iter(bad))):
            executor.options(**bad)


# The thread of later attempts in a local pool


def test_notes_run_in_the_order_of_their_times_and_their_thread_ends() -> None:
    timers = Timekeeper("test-timers", lambda: None)
    order: list[int] = []
    over = threading.Event()
    timers.after(0.02, lambda: order.append(2))
    timers.after(0.0, lambda: order.append(1))
    timers.after(0.01, lambda: tasks.fail(ValueError("in a timer")))
    timers.after(0.03, over.set)
    assert over.wait(LONG)
    assert order == [1, 2]
    timers.after(3600, over.clear)
    timers.stop()
    wait_until(
        lambda: all(thread.name != "test-timers" for thread in threading.enumerate()), "its end"
    )
