"""Stopping tasks of threads: asked, interrupted, left behind; never another's matter."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle.deadlines import Timekeeper
from tests.support import results, wait_for_interrupt_in, wait_until

from . import tasks
from .test_options import expect_capacity
from .test_stop import wait_for_error

PATIENT = {"flag": 0.01, "interrupt": 60.0}
HURRIED = {"flag": 0.01, "interrupt": 0.02}


def local(max_workers: int = 1, **options: Any) -> snakepit.Executor:
    return snakepit.Executor(max_workers, profile="local", **options)


def until_asked(started: tasks.Gate) -> str:
    started.open()
    while not snakepit.cancelled():
        pass
    return "saw the flag"


def test_a_cooperative_task_sees_the_flag(gate: Any) -> None:
    with local(stop_grace={"flag": 60.0}) as executor:
        started = gate("started")
        future = executor.submit(until_asked, started)
        started.wait()
        assert future.stop()
        assert future.result(60) == "saw the flag"
        assert executor.submit(snakepit.cancelled).result(60) is False
    assert snakepit.cancelled() is False


def test_python_code_is_interrupted_and_the_thread_stays(gate: Any) -> None:
    with local(stop_grace=PATIENT) as executor:
        thread = executor.submit(threading.get_ident).result(60)
        started = gate("started")
        future = executor.submit(tasks.spin, started)
        started.wait()
        assert future.stop()
        error = wait_for_error(future)
        assert isinstance(error, errors.TaskStoppedError)
        assert isinstance(error.__cause__, snakepit.TaskInterrupt)
        assert executor.submit(threading.get_ident).result(60) == thread


def blocked(started: threading.Event, release: threading.Event) -> None:
    started.set()
    release.wait()


def test_a_thread_that_goes_on_is_left_behind_and_replaced(gate: Any) -> None:
    started, release = threading.Event(), threading.Event()
    with local(stop_grace=HURRIED) as executor:
        future = executor.submit(blocked, started, release)
        assert started.wait(60)
        assert future.stop()
        error = wait_for_error(future)
        assert isinstance(error, errors.TaskStoppedError)
        assert "left behind" in str(error) and "replaced" in str(error)
        assert error.details["left_behind"] is True
        expect_capacity(executor, gate, workers=1)
        assert executor.stats().ready == 1 and executor.stats().busy == 0
    # Shutdown did not wait for it; it ends with its task.
    release.set()


def test_shutdown_does_not_wait_for_a_task_that_is_being_given_up() -> None:
    started, release = threading.Event(), threading.Event()
    executor = local(stop_grace=HURRIED)
    future = executor.submit(blocked, started, release)
    assert started.wait(60)
    future.stop()
    executor.shutdown(wait=True)
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    release.set()


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_gives_running_tasks_up(method: str) -> None:
    started, release = threading.Event(), threading.Event()
    executor = local(stop_grace=HURRIED)
    running = executor.submit(blocked, started, release)
    queued = executor.submit(tasks.square, 1)
    assert started.wait(60)
    getattr(executor, method)()
    assert isinstance(wait_for_error(running), errors.TaskStoppedError)
    assert queued.cancelled()
    executor.shutdown(wait=True)
    release.set()


def late_error(executor: snakepit.Executor, work: Any, *args: Any) -> errors.TaskTimeoutError:
    """Run a call that ends too late, and return its error; not one that never came to run."""
    while True:
        error = executor.options(timeout=0.1).submit(work, *args).exception(60)
        assert isinstance(error, errors.TaskTimeoutError)
        if error.details["phase"] != "queued":
            return error


@pytest.mark.parametrize("stuck", [False, True], ids=["interrupted", "left behind"])
def test_a_late_task_fails_at_its_deadline_and_its_thread_is_seen_to_after_that(
    gate: Any, stuck: bool, caplog: pytest.LogCaptureFixture
) -> None:
    started, release = threading.Event(), threading.Event()
    with local(stop_grace=HURRIED if stuck else PATIENT) as executor:
        if stuck:
            error = late_error(executor, blocked, started, release)
        else:
            error = late_error(executor, tasks.spin, gate("started"))
        assert "is being stopped" in str(error) and "left behind" not in str(error)
        name = "tests.executor.test_stop_threads.blocked" if stuck else "tests.executor.tasks.spin"
        assert f"the task ('{name}') of pool 'default' did not end within" in str(error)
        assert error.details["timeout"] == 0.1 and error.details["ran"] > 0
        assert error.details["pool"] == "default" and error.details["function"] == name
        expect_capacity(executor, gate, workers=1)
        if stuck:
            wait_until(lambda: "left behind" in caplog.text, "the log")
        wait_until(lambda: executor.stats().busy == 0, "the thread to be seen to")
        stats = executor.stats()
        assert stats.submitted == stats.completed + stats.failed + stats.cancelled
    release.set()


def hold(started: tasks.Gate, release: tasks.Gate) -> None:
    started.open()
    release.wait()


def test_a_late_task_need_not_end_for_its_error(gate: Any) -> None:
    with local(stop_grace={"flag": 60.0}) as executor:
        started = gate("started")
        release = gate("release")
        error = late_error(executor, hold, started, release)
        assert error.details["phase"] == "running" and error.details["ran"] < 30
        # It has failed, and has its thread still.
        assert executor.stats().busy == 1
        failed = executor.stats().failed
        release.open()
        wait_until(lambda: executor.stats().busy == 0, "the task to end")
        wait_until(lambda: executor.stats().failed == failed, "the counters")
        assert executor.stats().completed == 0, "a late call counts as failed, also if it returns"


def test_killing_the_workers_hurries_what_was_late(gate: Any) -> None:
    started, release = threading.Event(), threading.Event()
    executor = local(stop_grace={"flag": 60.0})
    late_error(executor, blocked, started, release)
    executor.kill_workers()
    executor.shutdown(wait=True)
    release.set()


def test_a_late_task_that_returns_when_asked_is_late_all_the_same(gate: Any) -> None:
    with local(stop_grace={"flag": 60.0}) as executor:
        late_error(executor, until_asked, gate("started"))
        wait_until(lambda: executor.stats().busy == 0, "the task to end")
        assert executor.stats().completed == 0


def test_a_call_that_never_ran_in_time_counts_as_failed() -> None:
    started, release = threading.Event(), threading.Event()
    with local() as executor:
        running = executor.submit(blocked, started, release)
        assert started.wait(60)
        late = executor.options(timeout=0.05).submit(tasks.square, 1)
        error = wait_for_error(late)
        assert isinstance(error, errors.TaskTimeoutError) and error.details["phase"] == "queued"
        assert "the task ('tests.executor.tasks.square') of pool 'default' did not" in str(error)
        stats = executor.stats()
        assert (stats.failed, stats.cancelled) == (1, 0)
        release.set()
        running.result(60)


def test_cancel_running_reads_as_cancelled_at_once(gate: Any) -> None:
    started, release = threading.Event(), threading.Event()
    with local(stop_grace=HURRIED, cancel_running=True) as executor:
        future = executor.submit(blocked, started, release)
        assert started.wait(60)
        assert future.cancel() and future.cancelled()
        expect_capacity(executor, gate, workers=1)
    release.set()


def test_a_task_interrupted_at_a_lock_of_another_pool_lets_go_of_it() -> None:
    taken, never = threading.Event(), threading.Event()
    with local() as executor, local() as other:

        def submit() -> None:
            wait_for_interrupt_in(Timekeeper.at, taken)
            other.options(timeout=60).submit(tasks.square, 3)

        future = executor.submit(submit)
        assert taken.wait(60)
        assert future.stop()
        assert isinstance(future.exception(60), errors.TaskStoppedError)
        late = other.options(timeout=0.1).submit(never.wait)
        assert isinstance(late.exception(60), errors.TaskTimeoutError)
        never.set()


def test_no_other_task_of_the_thread_is_interrupted() -> None:
    """Interrupts race with the ends of short tasks; what follows on the thread is spared."""
    with local(stop_grace={"flag": 0.0, "interrupt": 60.0}) as executor:
        thread = executor.submit(threading.get_ident).result(60)
        for number in range(500):
            stopped = executor.submit(sum, list(range(number % 100)))
            spared = [executor.submit(count_up, 50 * n) for n in range(4)]
            while not stopped.running() and not stopped.done():
                pass
            stopped.stop()
            error = wait_for_error(stopped)
            assert error is None or isinstance(error, errors.TaskStoppedError), error
            assert results(spared) == [50 * n for n in range(4)]
        assert executor.submit(threading.get_ident).result(60) == thread


def test_python_tasks_of_many_threads_are_interrupted_alone(gate: Any) -> None:
    with local(4, stop_grace={"flag": 0.0, "interrupt": 60.0}) as executor:
        for number in range(50):
            spared = [executor.submit(count_up, 2000) for _ in range(3)]
            started = gate(f"started-{number}")
            stopped = executor.submit(tasks.spin, started)
            started.wait()
            stopped.stop()
            assert isinstance(wait_for_error(stopped), errors.TaskStoppedError)
            assert results(spared) == [2000] * 3


def count_up(most: int) -> int:
    number = 0
    while number < most:
        number += 1
    return number


def wait_for_inner(started: tasks.Gate) -> str:
    inner = snakepit.current_pool().submit(tasks.spin, started)
    inner.result()
    return "went on"


def test_a_task_that_runs_another_is_interrupted_with_it(gate: Any) -> None:
    with local(stop_grace=PATIENT) as executor:
        started = gate("started")
        outer = executor.submit(wait_for_inner, started)
        started.wait()
        assert outer.stop()
        assert isinstance(wait_for_error(outer), errors.TaskStoppedError)
        assert executor.submit(tasks.square, 3).result(60) == 9


def go_on_after_inner(started: tasks.Gate, inner: list[Any]) -> str:
    inner.append(snakepit.current_pool().submit(tasks.spin, started))
    error = inner[0].exception()
    assert isinstance(error, errors.TaskStoppedError)
    return "went on"


def test_stopping_an_inner_task_spares_the_one_that_waits(gate: Any) -> None:
    inner: list[Any] = []
    with local(stop_grace=PATIENT) as executor:
        started = gate("started")
        outer = executor.submit(go_on_after_inner, started, inner)
        started.wait()
        assert inner[0].stop()
        assert outer.result(60) == "went on"


def test_an_inner_task_that_goes_on_keeps_its_thread(gate: Any) -> None:
    started, release = threading.Event(), threading.Event()
    inner: list[Any] = []

    def outer() -> str:
        inner.append(snakepit.current_pool().submit(blocked, started, release))
        error = inner[0].exception()
        assert isinstance(error, errors.TaskStoppedError)
        return str(error)

    with local(stop_grace=HURRIED) as executor:
        future = executor.submit(outer)
        assert started.wait(60)
        inner[0].stop()
        assert isinstance(wait_for_error(inner[0]), errors.TaskStoppedError)
        release.set()
        assert "goes on inside" in future.result(60)
        expect_capacity(executor, gate, workers=1)


def test_a_substitute_that_is_left_behind_is_replaced(gate: Any) -> None:
    started, release = threading.Event(), threading.Event()
    inner: list[Any] = []

    def outer() -> list[int]:
        pool = snakepit.current_pool()
        inner.append(pool.submit(blocked, started, release))
        others = [pool.submit(tasks.square, n) for n in range(3)]
        wait([*inner, *others])
        return [other.result() for other in others]

    with local(stop_grace=HURRIED) as executor:
        future = executor.submit(outer)
        assert started.wait(60)
        inner[0].stop()
        assert future.result(60) == [0, 1, 4]
    release.set()


def test_cancelling_an_inner_task_starts_no_thread_for_it() -> None:
    def outer() -> list[str]:
        future = snakepit.current_pool().submit(tasks.square, 3)
        assert future.cancel()
        return [thread.name for thread in threading.enumerate() if "substitute" in thread.name]

    with local() as executor:
        assert executor.submit(outer).result(60) == []


def test_a_local_task_that_waits_for_other_workers_shields_them(gate: Any) -> None:
    """It settles what it finds while it waits; an interrupt of its own is none of theirs."""
    grace = {"flag": 0.0, "interrupt": 60.0}
    with local(stop_grace=grace) as executor, snakepit.Executor(2) as far:
        far.wait_ready(60)

        def work(started: tasks.Gate) -> None:
            started.open()
            while True:
                far.submit(tasks.square, 3).result()

        for number in range(20):
            started = gate(f"started-{number}")
            future = executor.submit(work, started)
            started.wait()
            others = [far.submit(tasks.capture, n) for n in range(20)]
            future.stop()
            assert isinstance(wait_for_error(future), errors.TaskStoppedError)
            assert results(others) == [((n,), {}) for n in range(20)]


def test_callbacks_that_block_hold_up_no_deadline(gate: Any) -> None:
    blocking, release = threading.Event(), threading.Event()

    def block(_future: Any) -> None:
        blocking.set()
        release.wait()

    for profile in ("local", "process"):
        blocking.clear()
        release.clear()
        with snakepit.Executor(1, profile=profile) as executor:
            hold = gate(f"release-{profile}")
            started = gate(f"started-{profile}")
            running = executor.submit(tasks.hold, started, hold)
            started.wait()
            first = executor.options(timeout=0.05).submit(tasks.square, 1)
            first.add_done_callback(block)
            assert blocking.wait(60)
            second = executor.options(timeout=0.05).submit(tasks.square, 1)
            wait_until(second.done, "the second deadline")
            hold.open()
            running.result(60)
            release.set()
