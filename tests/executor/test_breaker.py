"""Circuit breakers: by themselves under a clock that stands still, and around calls of pools."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import LONG, wait_until

from . import tasks


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail_times(breaker: snakepit.CircuitBreaker, count: int) -> None:
    for _ in range(count):
        breaker.settle(breaker.admit(), ValueError())


def expect_refusal(breaker: snakepit.CircuitBreaker) -> errors.CircuitOpenError:
    with pytest.raises(errors.CircuitOpenError) as info:
        breaker.admit()
    return info.value


# By itself


def test_opens_after_failures_in_a_row(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(3, 30, clock=clock)
    fail_times(breaker, 2)
    breaker.settle(breaker.admit(), None)
    fail_times(breaker, 2)
    assert breaker.state == "closed"
    fail_times(breaker, 1)
    assert breaker.state == "open"
    assert breaker.retry_after == 30


def test_open_breaker_says_until_when(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, name="mail", clock=clock)
    fail_times(breaker, 1)
    clock.now += 10
    error = expect_refusal(breaker)
    assert error.retry_after == 20
    assert error.details == {"breaker": "mail", "failures": 1, "retry_after": 20}
    assert "mail" in str(error) and "20 s" in str(error)
    assert isinstance(error, RuntimeError)
    assert pickle.loads(pickle.dumps(error)).retry_after == 20


def test_probe_that_succeeds_closes_it(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(2, 30, clock=clock)
    fail_times(breaker, 2)
    clock.now += 30
    assert breaker.state == "half-open"
    permit = breaker.admit()
    refused = expect_refusal(breaker)
    assert refused.retry_after == 0 and "probe" in str(refused)
    breaker.settle(permit, None)
    assert breaker.state == "closed"
    fail_times(breaker, 1)
    assert breaker.state == "closed"


def test_probe_that_fails_opens_it_again_for_the_whole_time(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(2, 30, clock=clock)
    fail_times(breaker, 2)
    clock.now += 45
    breaker.settle(breaker.admit(), ValueError())
    assert breaker.state == "open"
    assert breaker.retry_after == 30


def test_all_probes_have_to_succeed(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, probes=2, clock=clock)
    fail_times(breaker, 1)
    clock.now += 30
    first, second = breaker.admit(), breaker.admit()
    expect_refusal(breaker)
    breaker.settle(first, None)
    assert breaker.state == "half-open"
    expect_refusal(breaker)
    breaker.settle(second, None)
    assert breaker.state == "closed"


def test_cancelled_probe_gives_its_place_to_another(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, clock=clock)
    fail_times(breaker, 1)
    clock.now += 30
    breaker.settle(breaker.admit(), CancelledError())
    assert breaker.state == "half-open"
    breaker.settle(breaker.admit(), None)
    assert breaker.state == "closed"


def test_calls_admitted_before_it_opened_say_nothing_later(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, clock=clock)
    early, other = breaker.admit(), breaker.admit()
    fail_times(breaker, 1)
    breaker.settle(early, None)
    assert breaker.state == "open"
    clock.now += 30
    breaker.settle(other, ValueError())
    assert breaker.state == "half-open"


def test_what_never_reached_a_worker_counts_as_neither(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(2, clock=clock)
    fail_times(breaker, 1)
    for error in (CancelledError(), errors.EncodeError(), errors.PoolShutdownError()):
        breaker.settle(breaker.admit(), error)
    assert breaker.state == "closed"
    fail_times(breaker, 1)
    assert breaker.state == "open"


def test_only_named_errors_are_failures(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, failure_on=OSError, clock=clock)
    breaker.settle(breaker.admit(), ValueError())
    assert breaker.state == "closed"
    breaker.settle(breaker.admit(), ConnectionError())
    assert breaker.state == "open"


def test_reset_closes_it(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, clock=clock)
    fail_times(breaker, 1)
    assert "open" in repr(breaker)
    breaker.reset()
    breaker.settle(breaker.admit(), None)
    assert breaker.state == "closed"


def test_threads_get_no_more_probes_than_there_are(clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, probes=3, clock=clock)
    fail_times(breaker, 1)
    clock.now += 30
    together = threading.Barrier(8)
    admitted: list[int] = []

    def ask() -> None:
        together.wait(LONG)
        for _ in range(50):
            try:
                admitted.append(breaker.admit())
            except errors.CircuitOpenError:
                continue

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(admitted) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"failures": 0},
        {"failures": 1.5},
        {"probes": 0},
        {"probes": True},
        {"reset_timeout": -1},
        {"reset_timeout": "30s"},
        {"reset_timeout": float("inf")},
        {"failure_on": ()},
        {"failure_on": "OSError"},
    ],
    ids=str,
)
def test_senseless_breaker_is_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        snakepit.CircuitBreaker(**bad)


# Around the calls of a pool


def test_refused_calls_do_not_run(
    executor: snakepit.Executor, log: tasks.Log, clock: Clock
) -> None:
    breaker = snakepit.CircuitBreaker(2, 30, clock=clock)
    view = executor.options(breaker=breaker)
    for _ in range(2):
        assert isinstance(view.submit(tasks.fail, ValueError()).exception(LONG), ValueError)
    refused = view.submit(tasks.record, log, "ran")
    assert isinstance(refused.exception(LONG), errors.CircuitOpenError)
    assert refused.done() and not refused.cancelled()
    # Calls that do not go through it are free.
    assert executor.submit(tasks.square, 3).result(LONG) == 9
    clock.now += 31
    assert view.submit(tasks.record, log, "probe").result(LONG) == "probe"
    assert breaker.state == "closed"
    assert log.lines() == ["probe"]


@pytest.mark.processes
def test_crashes_count_as_failures(executor: snakepit.Executor, clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(2, clock=clock)
    for _ in range(2):
        assert executor.options(breaker=breaker).submit(tasks.exit_process).exception(LONG)
    assert breaker.state == "open"


def test_a_call_that_was_late_in_the_queue_counts_as_neither(
    make: Make, gate: Any, clock: Clock
) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    held = executor.submit(tasks.hold, started, release)
    started.wait()
    breaker = snakepit.CircuitBreaker(failures=1, clock=clock)
    late = executor.options(breaker=breaker, timeout=0.05).submit(tasks.square, 2)
    assert isinstance(late.exception(60), errors.TaskTimeoutError)
    assert breaker.state == "closed"
    release.open()
    held.result(60)


def test_each_attempt_counts_and_an_open_breaker_ends_the_retries(
    executor: snakepit.Executor, clock: Clock
) -> None:
    breaker = snakepit.CircuitBreaker(2, clock=clock)
    view = executor.options(breaker=breaker, retry=snakepit.RetryPolicy(10, backoff=0.0))
    error = view.submit(tasks.fail, ValueError("down")).exception(LONG)
    assert isinstance(error, errors.CircuitOpenError)
    assert isinstance(error.__cause__, ValueError)


def test_cancelled_call_gives_its_permit_back(make: Make, gate: Any, clock: Clock) -> None:
    executor = make(1)
    breaker = snakepit.CircuitBreaker(1, 30, clock=clock)
    fail_times(breaker, 1)
    clock.now += 31
    release = gate("release")
    started = gate("started")
    held = executor.submit(tasks.hold, started, release)
    wait_until(started.is_open, "the worker to be busy")
    view = executor.options(breaker=breaker)
    probe = view.submit(tasks.square, 3)
    assert isinstance(view.submit(tasks.square, 3).exception(LONG), errors.CircuitOpenError)
    assert probe.cancel()
    release.open()
    held.result(LONG)
    assert view.submit(tasks.square, 3).result(LONG) == 9
    assert breaker.state == "closed"


@pytest.mark.processes
def test_unpicklable_probe_gives_its_permit_back(executor: snakepit.Executor, clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, 30, clock=clock)
    fail_times(breaker, 1)
    clock.now += 31
    view = executor.options(breaker=breaker)
    assert isinstance(
        view.submit(tasks.identity, threading.Lock()).exception(LONG), errors.EncodeError
    )
    assert view.submit(tasks.square, 3).result(LONG) == 9


def test_one_breaker_guards_several_executors(clock: Clock, tmp_path: Path) -> None:
    breaker = snakepit.CircuitBreaker(2, clock=clock)
    with (
        snakepit.Executor(1, profile="local") as first,
        snakepit.Executor(1, profile="local") as second,
    ):
        assert first.options(breaker=breaker).submit(tasks.fail, OSError()).exception(LONG)
        assert second.options(breaker=breaker).submit(tasks.fail, OSError()).exception(LONG)
        refused = first.options(breaker=breaker).submit(tasks.square, 2).exception(LONG)
    assert isinstance(refused, errors.CircuitOpenError)


def test_map_raises_the_refusal_in_its_place(executor: snakepit.Executor, clock: Clock) -> None:
    breaker = snakepit.CircuitBreaker(1, clock=clock)
    fail_times(breaker, 1)
    with pytest.raises(errors.CircuitOpenError):
        list(executor.options(breaker=breaker).map(tasks.square, range(3)))
