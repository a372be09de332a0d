"""Shutting an executor down in every way, within the interpreter."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import is_running, new_executor, results, wait_until

from . import tasks


def expect_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(is_running(pid) for pid in pids), "the workers to end")


@pytest.mark.all_kinds
def test_submit_after_shutdown_is_refused(executor: snakepit.Executor) -> None:
    executor.submit(tasks.square, 1).result(60)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown") as caught:
        executor.submit(pow, 2, 5)
    assert isinstance(caught.value, errors.PoolShutdownError)


@pytest.mark.parametrize("started", [False, True])
def test_wait_ready_after_shutdown_is_refused(make: Make, started: bool) -> None:
    executor = make(1, name="spent")
    if started:
        executor.submit(tasks.square, 1).result(60)
    executor.shutdown()
    for timeout in (None, 60):
        with pytest.raises(errors.PoolShutdownError, match="'spent'") as caught:
            executor.wait_ready(timeout)
        assert caught.value.details == {"pool": "spent"}


def test_shutdown_rouses_who_waits_for_readiness(make: Make, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    executor = make(1, initializer=tasks.hold, initargs=(started, release))
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            executor.wait_ready()
        except BaseException as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    started.wait()
    executor.shutdown(wait=False)
    waiting.join(60)
    release.open()
    assert [type(error) for error in caught] == [errors.PoolShutdownError]
    executor.shutdown()


def test_shutdown_waits_for_all_tasks(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.sleep_and_return, 0.01, n) for n in range(50)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == list(range(50))


def test_shutdown_twice_and_in_a_with_block(kind: str) -> None:
    with new_executor(kind) as executor:
        future = executor.submit(tasks.square, 4)
        executor.shutdown()
        executor.shutdown(wait=False)
        executor.shutdown(cancel_futures=True)
    assert future.result(0) == 16


def test_with_block_waits_and_ends_the_workers(kind: str) -> None:
    with new_executor(kind) as executor:
        got = executor.map(abs, range(-5, 5))
        executor.wait_ready(60)
        pids = executor.worker_pids()
    expect_gone(pids)
    assert list(got) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_with_block_that_raises_waits_as_well(kind: str, log: tasks.Log) -> None:
    with pytest.raises(LookupError), new_executor(kind) as executor:
        for number in range(10):
            executor.submit(tasks.record, log, number)
        raise LookupError
    assert len(log.lines()) == 10


@pytest.mark.all_kinds
def test_shutdown_without_waiting_lets_the_work_end(kind: str, gate: Any) -> None:
    executor = new_executor(kind)
    executor.wait_ready(60)
    pids = executor.worker_pids()
    release = gate("release")
    futures = [executor.submit(tasks.pid_after, release) for _ in range(6)]
    executor.shutdown(wait=False)
    assert not all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)
    release.open()
    results(futures)
    del executor
    expect_gone(pids)


def test_shutdown_without_waiting_before_the_workers_are_up(kind: str) -> None:
    executor = new_executor(kind)
    futures = [executor.submit(tasks.square, n) for n in range(20)]
    executor.shutdown(wait=False)
    assert results(futures) == [n * n for n in range(20)]


def test_second_shutdown_waits_if_the_first_did_not(kind: str, gate: Any) -> None:
    executor = new_executor(kind)
    release = gate("release")
    futures = [executor.submit(tasks.pid_after, release) for _ in range(4)]
    executor.shutdown(wait=False)
    threading.Timer(0.05, release.open).start()
    executor.shutdown(wait=True)
    assert all(future.done() for future in futures)


@pytest.mark.all_kinds
def test_shutdown_can_cancel_what_is_queued(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release, "ran") for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.square, n) for n in range(50)]
    threading.Timer(0.05, release.open).start()
    executor.shutdown(wait=True, cancel_futures=True)
    assert [future.result(0) for future in running] == ["ran", "ran"]
    assert all(future.cancelled() for future in queued)
    with pytest.raises(CancelledError):
        queued[0].result(0)


def test_cancelling_shutdown_without_waiting(kind: str, gate: Any) -> None:
    executor = new_executor(kind)
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release, "ran") for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.square, n) for n in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    wait_until(lambda: all(future.done() for future in queued), "the queued futures to settle")
    assert all(future.cancelled() for future in queued)
    release.open()
    assert results(running) == ["ran", "ran"]


def test_callbacks_of_tasks_cancelled_by_the_shutdown_run(
    executor: snakepit.Executor, gate: Any
) -> None:
    release = gate("release")
    futures = [executor.submit(tasks.pid_after, release) for _ in range(10)]
    seen: list[bool] = []
    for future in futures:
        future.add_done_callback(lambda f: seen.append(f.cancelled()))
    # Those that run end once the last has been cancelled.
    futures[-1].add_done_callback(lambda _: release.open())
    executor.shutdown(cancel_futures=True)
    assert len(seen) == 10
    assert seen.count(True) >= 6


def test_shutdown_right_after_a_cancel(kind: str) -> None:
    for _ in range(10):
        executor = new_executor(kind, 1)
        executor.submit(int).result(60)
        executor.submit(int).cancel()
        executor.shutdown(wait=True)


def test_shutdown_while_the_workers_start(kind: str) -> None:
    for _ in range(5):
        executor = new_executor(kind)
        executor.submit(int)
        executor.shutdown(wait=True)


def test_shutdown_by_several_threads(executor: snakepit.Executor) -> None:
    futures = [executor.submit(tasks.sleep_and_return, 0.005, n) for n in range(30)]
    threads = [threading.Thread(target=executor.shutdown) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [future.result(0) for future in futures] == list(range(30))


def test_shutdown_races_with_submits(kind: str) -> None:
    """Whatever was accepted runs; whatever was not was refused aloud."""
    executor = new_executor(kind)
    executor.submit(int).result(60)
    accepted: list[Any] = []
    refused: list[BaseException] = []

    def work() -> None:
        for number in range(10_000):
            try:
                accepted.append(executor.submit(tasks.identity, number))
            except RuntimeError as error:
                refused.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(accepted) > 20, "some submits")
    executor.shutdown(wait=True)
    for thread in threads:
        thread.join()
    assert all(future.done() for future in accepted)
    assert all(future.exception(0) is None for future in accepted)
    assert all(isinstance(error, errors.PoolShutdownError) for error in refused)


def test_shutdown_by_a_callback(kind: str) -> None:
    executor = new_executor(kind)
    called = threading.Event()

    def callback(_: Any) -> None:
        executor.shutdown(wait=False)
        called.set()

    executor.submit(tasks.square, 1).add_done_callback(callback)
    assert called.wait(60)
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)


@pytest.mark.processes
def test_waiting_shutdown_by_a_callback_does_not_hang(kind: str) -> None:
    executor = new_executor(kind)
    called = threading.Event()

    def callback(_: Any) -> None:
        try:
            executor.shutdown(wait=True)
        finally:
            called.set()

    executor.submit(tasks.square, 1).add_done_callback(callback)
    assert called.wait(60)
    executor.shutdown(wait=True)


def test_shutdown_can_be_interrupted_and_repeated(executor: snakepit.Executor, gate: Any) -> None:
    """A signal handler that raises gets out of shutdown(), and nothing is broken by it."""

    class Interrupt(Exception):
        pass

    def handler(_signal: int, _frame: Any) -> None:
        raise Interrupt

    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "value")
    started.wait()
    previous = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
    try:
        timer.start()
        with pytest.raises(Interrupt):
            executor.shutdown(wait=True)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, previous)
    release.open()
    assert future.result(60) == "value"
    executor.shutdown(wait=True)


def test_result_can_be_interrupted(executor: snakepit.Executor, gate: Any) -> None:
    class Interrupt(Exception):
        pass

    def handler(_signal: int, _frame: Any) -> None:
        raise Interrupt

    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "value")
    started.wait()
    previous = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    try:
        for timeout in (None, 60):
            timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
            timer.start()
            with pytest.raises(Interrupt):
                future.result(timeout)
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert executor.submit(tasks.square, 3).result(60) == 9
    release.open()
    assert future.result(60) == "value"


# Executors that nobody shuts down


@pytest.mark.all_kinds
def test_dropped_executor_finishes_and_ends(kind: str) -> None:
    executor = new_executor(kind)
    executor.wait_ready(60)
    pids = executor.worker_pids()
    futures = [executor.submit(tasks.sleep_and_return, 0.01, n) for n in range(20)]
    del executor
    gc.collect()
    assert results(futures) == list(range(20))
    expect_gone(pids)


def test_dropped_executor_does_not_wait_for_the_garbage_collector(kind: str) -> None:
    """No cycle holds it: the last reference ends it."""
    executor = new_executor(kind)
    executor.submit(tasks.square, 2).result(60)
    reference = weakref.ref(executor)
    gc.disable()
    try:
        del executor
        deadline = time.monotonic() + 30
        while reference() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert reference() is None
    finally:
        gc.enable()


def test_dropped_executor_whose_results_are_read_later(kind: str) -> None:
    got = new_executor(kind).map(abs, range(-5, 5))
    gc.collect()
    assert list(got) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


def test_executor_that_was_never_used_is_dropped(kind: str) -> None:
    for _ in range(10):
        new_executor(kind)
    gc.collect()


# Ending the workers by force


@pytest.mark.processes
@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_the_workers_breaks_running_and_queued_work(
    make: Make, gate: Any, method: str
) -> None:
    executor = make(2)
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.sleep_long, door) for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.square, n) for n in range(10)]
    pids = executor.worker_pids()
    getattr(executor, method)()
    for future in running:
        assert isinstance(future.exception(60), BrokenExecutor)
    for waiting in queued:
        assert waiting.cancelled() or isinstance(waiting.exception(60), BrokenExecutor)
    expect_gone(pids)
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)
    getattr(executor, method)()
    executor.shutdown()


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_ending_idle_workers(make: Make, method: str) -> None:
    executor = make(2)
    executor.submit(tasks.square, 1).result(60)
    getattr(executor, method)()
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 1)


@pytest.mark.processes
def test_killing_workers_that_ignore_sigterm(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    future = executor.submit(tasks.spin_ignoring_sigterm, started)
    started.wait()
    pids = executor.worker_pids()
    executor.kill_workers()
    assert isinstance(future.exception(60), BrokenExecutor)
    expect_gone(pids)
