"""Grace times, cancelling by session, and cancel() of what runs."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import wait_until

from . import tasks
from .test_options import expect_capacity
from .test_stop import wait_for_error

HURRIED = {"flag": 0.01, "interrupt": 0.05, "terminate": 0.05}


@pytest.mark.parametrize("field", ["flag", "interrupt", "terminate"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), 1e9])
def test_refuses_grace_times_that_make_no_sense(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        snakepit.Graces(**{field: value})
    with pytest.raises(ValueError, match=field):
        snakepit.Executor(1, stop_grace={field: value})


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (-0.1, "not -0.1; 0 goes on to the next step at once"),
        (float("nan"), "not nan; 0 goes on to the next step at once"),
        (float("inf"), "not inf; to let a call run to its end.* do not stop it: leave out timeout"),
        ("2d", r"not 172800.0; to let a call run to its end.* do not stop it"),
    ],
)
def test_grace_time_that_is_refused_says_what_to_do(value: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"flag must be from 0 to 86400 seconds .*{remedy}"):
        snakepit.Graces(flag=value)


@pytest.mark.parametrize("value", [b"1s", True, None])
def test_refuses_grace_times_that_are_no_numbers(value: Any) -> None:
    with pytest.raises(TypeError, match="seconds"):
        snakepit.Graces(flag=value)


@pytest.mark.parametrize("value", ["1 fortnight", "1", "-1s", "2d"])
def test_refuses_grace_times_in_text_that_make_no_sense(value: Any) -> None:
    with pytest.raises(ValueError, match="stop_grace: flag"):
        snakepit.Executor(1, stop_grace={"flag": value})


def test_grace_times_may_be_text(make: Make) -> None:
    times: Any = {"flag": "0s", "interrupt": "500ms", "terminate": "2s"}
    assert snakepit.Graces(**times) == snakepit.Graces(0.0, 0.5, 2.0)
    make(1, stop_grace=times)


def test_refuses_unknown_grace_times() -> None:
    with pytest.raises(ValueError, match="did you mean 'interrupt'"):
        snakepit.Executor(1, stop_grace={"interupt": 1.0})
    with pytest.raises(TypeError, match="Graces"):
        snakepit.Executor(1, stop_grace=3.0)  # type: ignore[arg-type]


def test_cancel_under_cancel_running_stops_what_runs(make: Make, gate: Any) -> None:
    executor = make(2, cancel_running=True, stop_grace=HURRIED)
    started = gate("started")
    future = executor.submit(tasks.spin, started)
    started.wait()
    assert future.cancel() is True
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(60)
    expect_capacity(executor, gate)


@pytest.mark.parametrize("terms", [{}, {"idempotent": True}])
def test_stop_under_cancel_running_says_that_it_was_stopped(
    make: Make, gate: Any, terms: dict[str, Any]
) -> None:
    executor = make(2, cancel_running=True, stop_grace=HURRIED)
    started = gate("started")
    future = executor.options(**terms).submit(tasks.spin, started)
    started.wait()
    assert future.stop() is True
    with pytest.raises(errors.TaskStoppedError, match="stopped"):
        future.result(60)
    assert not future.cancelled()
    expect_capacity(executor, gate)


def test_a_view_may_say_otherwise(make: Make, gate: Any) -> None:
    executor = make(1, cancel_running=True)
    started, release = gate("started"), gate("release")
    future = executor.options(cancel_running=False).submit(tasks.hold, started, release, "kept")
    started.wait()
    assert future.cancel() is False
    release.open()
    assert future.result(60) == "kept"


def test_leaving_a_map_under_cancel_running_stops_its_chunks(make: Make, gate: Any) -> None:
    executor = make(2, cancel_running=True, stop_grace=HURRIED)
    started = gate("started")

    def work(number: int) -> int:
        if number:
            tasks.spin(started)
        return number

    values = executor.map(work, [0, 1], chunksize=1)
    assert next(values) == 0
    started.wait()
    values.close()  # type: ignore[attr-defined]
    expect_capacity(executor, gate)


def test_shutdown_that_cancels_spares_what_runs(make: Make, gate: Any) -> None:
    executor = make(1, cancel_running=True)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release, "kept")
    started.wait()
    queued = executor.submit(tasks.square, 1)
    executor.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled() and not running.done()
    release.open()
    assert running.result(60) == "kept"


def test_cancelling_a_session_stops_all_of_it_and_nothing_else(make: Make, gate: Any) -> None:
    executor = make(2, stop_grace=HURRIED)
    doors = [gate("started-0"), gate("started-1")]
    release = gate("release")
    running = executor.options(session="a").submit(tasks.spin, doors[0])
    other = executor.options(session="b").submit(tasks.hold, doors[1], release, "kept")
    for door in doors:
        door.wait()
    view = executor.options(session="a")
    queued = [view.submit(tasks.hold, gate(f"never-{n}"), release) for n in range(30)]
    unrelated = executor.submit(tasks.square, 3)
    # Those in the queue cannot start: the only free worker comes with the end of `running`.
    assert executor.cancel(session="a") == 31
    assert isinstance(wait_for_error(running), errors.TaskStoppedError)
    for future in queued:
        assert isinstance(wait_for_error(future), CancelledError)
    release.open()
    assert other.result(60) == "kept" and unrelated.result(60) == 9
    assert executor.cancel(session="a") == 0
    assert executor.cancel(session="unknown") == 0


def test_a_session_is_named_by_a_string(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError, match="session"):
        executor.cancel(session=7)  # type: ignore[arg-type]


@pytest.mark.processes
def test_stopping_while_workers_are_replaced(make: Make, gate: Any) -> None:
    executor = make(2, stop_grace={"flag": 0.0, "interrupt": 0.0})
    for number in range(8):
        doors = [gate(f"started-{number}-{n}") for n in range(2)]
        futures = [executor.submit(tasks.spin, door) for door in doors]
        for door in doors:
            door.wait()
        threads = [threading.Thread(target=future.stop) for future in futures]
        for thread in threads:
            thread.start()
        queued = executor.submit(tasks.square, number)
        queued.stop()
        for thread in threads:
            thread.join()
        for future in futures:
            assert isinstance(wait_for_error(future), errors.TaskStoppedError)
        error = wait_for_error(queued)
        assert error is None or isinstance(error, CancelledError)
    expect_capacity(executor, gate)


def test_deadlines_of_calls_that_are_done_do_not_pile_up(make: Make, kind: str) -> None:
    executor = make(1)
    view = executor.options(timeout=3600)
    for _ in range(30):
        for future in [view.submit(tasks.square, n) for n in range(100)]:
            future.result(60)
    pool: Any = executor._pool
    deadlines = pool.deadlines._deadlines if kind == "local" else pool._deadlines
    assert len(deadlines._heap) <= 1100


def test_timers_of_deadlines_do_not_pile_up(make: Make, gate: Any, kind: str) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    executor.submit(tasks.hold, started, release)
    started.wait()
    far = executor.options(timeout=3600).submit(tasks.square, 3)
    near = executor.options(timeout=0.001)
    for n in range(300):
        assert isinstance(near.submit(tasks.square, n).exception(60), errors.TaskTimeoutError)
    pool: Any = executor._pool
    timers = pool.timekeeper._notes if kind == "local" else pool.supervisor._timers
    assert len(timers) < 30
    release.open()
    assert far.result(60) == 9


def test_the_next_deadline_is_not_delayed_by_later_ones(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release)
    started.wait()
    late = [executor.options(timeout=timeout).submit(tasks.square, 1) for timeout in (60, 0.05)]
    wait_until(late[1].done, "the nearer deadline")
    assert isinstance(late[1].exception(0), errors.TaskTimeoutError)
    assert late[1].exception(0).details["phase"] == "queued"  # type: ignore[union-attr]
    assert not late[0].done()
    release.open()
    running.result(60)
    assert late[0].result(60) == 1


class SlowToLoad:
    """Takes for ever to be loaded."""

    def __init__(self, started: tasks.Gate) -> None:
        self.started = started

    def __reduce__(self) -> Any:
        return tasks.sleep_long, (self.started,)


@pytest.mark.processes
def test_timeout_error_names_the_phase(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=HURRIED)
    executor.wait_ready(60)
    started = gate("started")
    while True:
        future = executor.options(timeout=0.3).submit(tasks.identity, SlowToLoad(started))
        error = future.exception(60)
        assert isinstance(error, errors.TaskTimeoutError)
        if error.details["phase"] != "queued":
            break
    assert error.details["phase"] == "decoding" and "decoding" in str(error)
    expect_capacity(executor, gate, workers=1)
