"""Workers that die: only the task that ran on them fails, and the pool goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from concurrent.futures import BrokenExecutor
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.executor import tasks
from tests.executor.test_options import expect_capacity
from tests.support import is_running, own_processes, results, send_signal, wait_until

pytestmark = pytest.mark.processes


def expect_crash(future: snakepit.Future[Any]) -> errors.WorkerCrashedError:
    error = future.exception(60)
    assert isinstance(error, errors.WorkerCrashedError)
    assert isinstance(error, BrokenExecutor)
    return error


@pytest.mark.all_kinds
@pytest.mark.parametrize(
    ("task", "word"),
    [
        (tasks.kill_self, "SIGKILL"),
        (tasks.crash, "SIGSEGV"),
        (tasks.exit_process, "1"),
    ],
    ids=["killed", "segfault", "exit"],
)
def test_crash_fails_only_the_running_task(
    executor: snakepit.Executor, gate: Any, task: Any, word: str
) -> None:
    futures = [executor.submit(tasks.square, n) for n in range(50)]
    crashed = executor.submit(task)
    futures += [executor.submit(tasks.square, n) for n in range(50)]
    error = expect_crash(crashed)
    assert word in str(error)
    assert results(futures) == [n * n for n in range(50)] * 2
    expect_capacity(executor, gate)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL]
)
def test_error_names_the_signal(executor: snakepit.Executor, number: signal.Signals) -> None:
    error = expect_crash(executor.submit(tasks.kill_self, number))
    assert number.name in str(error)
    assert error.details


def test_error_names_the_exit_status(executor: snakepit.Executor) -> None:
    assert "37" in str(expect_crash(executor.submit(tasks.exit_process, 37)))


def test_exit_status_zero_is_a_crash_too(executor: snakepit.Executor) -> None:
    expect_crash(executor.submit(tasks.exit_process, 0))
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_crash_again_and_again(executor: snakepit.Executor) -> None:
    for number in range(15):
        expect_crash(executor.submit(tasks.exit_process))
        assert executor.submit(tasks.square, number).result(60) == number * number


def test_many_crashes_queued_among_good_tasks(executor: snakepit.Executor, gate: Any) -> None:
    futures = [
        executor.submit(tasks.exit_process) if n % 10 == 3 else executor.submit(tasks.square, n)
        for n in range(200)
    ]
    for number, future in enumerate(futures):
        if number % 10 == 3:
            expect_crash(future)
        else:
            assert future.result(60) == number * number
    expect_capacity(executor, gate)


def test_crash_in_a_map_fails_at_its_place(executor: snakepit.Executor) -> None:
    got = executor.map(lambda n: os._exit(1) if n == 5 else n, range(10), chunksize=1)
    assert [next(got) for _ in range(5)] == list(range(5))
    with pytest.raises(errors.WorkerCrashedError):
        next(got)
    assert list(executor.map(tasks.square, range(20))) == [n * n for n in range(20)]


def test_crash_with_large_data_in_flight(executor: snakepit.Executor) -> None:
    data = "a" * 3_000_000
    futures = [executor.submit(tasks.crash_with, data) for _ in range(6)]
    for future in futures:
        expect_crash(future)
    assert executor.submit(len, data).result(60) == 3_000_000


def test_single_worker_is_replaced(make: Make) -> None:
    executor = make(1)
    first = executor.submit(os.getpid).result(60)
    expect_crash(executor.submit(tasks.kill_self))
    second = executor.submit(os.getpid).result(60)
    assert first != second
    wait_until(lambda: executor.worker_pids() == [second], "the readiness to be known")


def test_idle_worker_that_dies_is_replaced(executor: snakepit.Executor, gate: Any) -> None:
    executor.wait_ready(60)
    first = executor.worker_pids()
    assert send_signal(first[0])
    wait_until(lambda: first[0] not in executor.worker_pids(), "its death to be seen")
    assert results(executor.submit(tasks.square, n) for n in range(50)) == [
        n * n for n in range(50)
    ]
    expect_capacity(executor, gate)


def test_submit_right_after_the_death_of_an_idle_worker(executor: snakepit.Executor) -> None:
    """A task handed to a dead worker has not run: it goes to another."""
    executor.wait_ready(60)
    for number in range(10):
        pids = wait_until(executor.worker_pids, "a worker")
        assert executor.submit(os.getpid).result(60) > 0
        for pid in pids:
            send_signal(pid)
        future = executor.submit(tasks.square, number)
        error = future.exception(60)
        assert error is None or isinstance(error, errors.WorkerCrashedError)


def test_all_workers_die_at_once(make: Make, gate: Any) -> None:
    executor = make(3)
    executor.wait_ready(60)
    doors = [gate(f"started-{n}") for n in range(3)]
    running = [executor.submit(tasks.sleep_long, door) for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.square, n) for n in range(100)]
    for pid in executor.worker_pids():
        assert send_signal(pid)
    for future in running:
        expect_crash(future)
    assert results(queued) == [n * n for n in range(100)]
    expect_capacity(executor, gate, workers=3)


def test_worker_that_was_stopped_and_goes_on(executor: snakepit.Executor) -> None:
    executor.wait_ready(60)
    pids = executor.worker_pids()
    for pid in pids:
        assert send_signal(pid, signal.SIGSTOP)
    futures = [executor.submit(tasks.square, n) for n in range(20)]
    for pid in pids:
        assert send_signal(pid, signal.SIGCONT)
    assert results(futures) == [n * n for n in range(20)]


def test_death_between_tasks_of_a_busy_pool(make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(tasks.square, n) for n in range(3000)]
    for pid in wait_until(executor.worker_pids, "a worker"):
        send_signal(pid)
    failed = [future for future in futures if future.exception(60) is not None]
    assert len(failed) <= 2
    for number, future in enumerate(futures):
        if future not in failed:
            assert future.result(0) == number * number


def test_grandchildren_do_not_outlive_a_killed_worker_silently(
    executor: snakepit.Executor,
) -> None:
    """A worker leads a process group: what its task started ends with it."""
    import subprocess

    def work() -> int:
        return subprocess.Popen(["sleep", "300"]).pid

    child = executor.submit(work).result(60)
    assert is_running(child)
    executor.shutdown()
    wait_until(lambda: not is_running(child), "the grandchild to end")


def test_memory_error_is_the_tasks_own(make: Make) -> None:
    executor = make(1)

    def devour() -> int:
        limits = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), limits[1]))
        try:
            return len(bytearray(2 << 30))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    before = executor.submit(os.getpid).result(60)
    assert type(executor.submit(devour).exception(60)) is MemoryError
    assert executor.submit(os.getpid).result(60) == before


def test_memory_runs_out_while_arguments_arrive(make: Make) -> None:
    executor = make(1)

    def limit() -> None:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size + (32 << 20), hard))

    def lift() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    executor.submit(limit).result(60)
    error = executor.submit(len, [bytes(100_000) for _ in range(3000)]).exception(60)
    assert error is None or isinstance(error, (MemoryError, errors.SnakepitError))
    executor.submit(lift).result(60)
    assert executor.submit(len, np.zeros(1_000_000)).result(60) == 1_000_000


def test_deep_recursion_in_c_is_no_more_than_a_crash(executor: snakepit.Executor) -> None:
    def work() -> Any:
        import sys

        sys.setrecursionlimit(10**8)
        return tasks.recurse_forever()

    for _ in range(2):
        assert executor.submit(work).exception(60) is not None
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_thread_left_behind_by_a_task_crashes_the_worker_later(make: Make) -> None:
    executor = make(1)

    def work() -> int:
        threading.Timer(0.05, tasks.exit_process).start()
        return os.getpid()

    pid = executor.submit(work).result(60)
    wait_until(lambda: pid not in executor.worker_pids(), "the worker's end")
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_task_that_closes_descriptors(make: Make) -> None:
    """The standard streams and whatever the worker opened: a hostile task, not a hung pool."""
    executor = make(1)

    def work() -> None:
        os.closerange(0, 256)

    error = executor.submit(work).exception(60)
    assert error is None or isinstance(error, errors.SnakepitError)
    error = executor.submit(tasks.square, 3).exception(60)
    assert error is None or isinstance(error, errors.SnakepitError)
    wait_until(lambda: is_sound(executor), "a sound worker")


def is_sound(executor: snakepit.Executor) -> bool:
    """Whether the one worker takes and gives what is small and what needs shared memory."""
    calls: list[tuple[Any, Any]] = [
        (tasks.square, 3), (bytes, 1 << 20), (len, bytes(1 << 20)), (bytearray, 5 << 20)
    ]  # fmt: skip
    return all(executor.submit(call, arg).exception(60) is None for call, arg in calls)


def test_worker_that_lost_the_shared_memory_is_replaced(make: Make) -> None:
    executor = make(1)

    def work() -> int:
        # That alone: without its lifeline, say, a worker ends by itself.
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if "snakepit-arena" in os.readlink(f"/proc/self/fd/{number}"):
                    os.close(int(number))
        return os.getpid()

    pid = executor.submit(work).result(60)
    started = time.monotonic()
    error = executor.submit(bytearray, 5 << 20).exception(60)
    # No wait for memory, of which there is plenty.
    assert time.monotonic() - started < 25
    assert isinstance(error, errors.WorkerCrashedError)
    assert "closed its descriptor of the shared memory" in str(error)
    assert "closed its descriptor of the shared memory" in "".join(error.autopsy.stderr)
    assert is_sound(executor)
    assert pid not in executor.worker_pids()
    assert executor.stats().crashed == 1


def test_file_that_got_the_descriptor_of_the_shared_memory_is_spared(
    make: Make, tmp_path: Any
) -> None:
    executor = make(1)
    path = tmp_path / "precious"
    path.write_bytes(b"precious" * 1000)

    def work() -> None:
        os.closerange(3, 256)
        tasks.KEPT = [os.open(path, os.O_RDWR) for _ in range(60)]  # type: ignore[attr-defined]

    assert executor.submit(work).exception(60) is None
    for size in (1 << 16, 5 << 20):
        error = executor.submit(bytearray, size).exception(60)
        assert error is None or isinstance(error, errors.SnakepitError)
    assert path.read_bytes() == b"precious" * 1000
    assert is_sound(executor)


def test_template_that_dies_takes_nothing_with_it(gate: Any) -> None:
    """The process from which workers are forked is no single point of failure."""
    with snakepit.Executor(2, start_method="template") as executor:
        executor.wait_ready(60)
        workers = executor.worker_pids()
        others = [
            pid
            for pid, process in own_processes().items()
            if pid not in workers and any(c.pid in workers for c in process.children())
        ]
        if len(others) != 1:
            pytest.skip("there is no process between this one and its workers")
        assert send_signal(others[0])
        for number in range(5):
            error = executor.submit(tasks.square, number).exception(60)
            assert error is None or isinstance(error, errors.WorkerCrashedError)
        assert isinstance(
            executor.submit(tasks.exit_process).exception(60), errors.WorkerCrashedError
        )
        wait_until(
            lambda: executor.submit(tasks.square, 3).exception(60) is None, "the pool to recover"
        )
        expect_capacity(executor, gate)


def test_shutdown_with_a_crash_under_way(make: Make) -> None:
    executor = make(2)
    futures = [executor.submit(tasks.exit_process) for _ in range(4)]
    executor.shutdown(wait=True)
    for future in futures:
        assert future.done()
        expect_crash(future)


def test_crash_after_a_shutdown_without_waiting(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")

    def work() -> None:
        tasks.hold(started, release)
        os._exit(1)

    future = executor.submit(work)
    queued = [executor.submit(tasks.square, n) for n in range(5)]
    started.wait()
    executor.shutdown(wait=False)
    release.open()
    expect_crash(future)
    assert results(queued) == [n * n for n in range(5)]


def test_large_output_of_a_worker_blocks_nothing(tmp_path: Any) -> None:
    from tests.support import run_clean

    source = """
        import snakepit
        from tests.executor.tasks import print_lines
        with snakepit.Executor(2) as executor:
            assert executor.submit(print_lines, 50_000, 100).result(60) == 50_000
        print("end")
        """
    lines = run_clean(source, tmp_path)
    assert lines[-1] == "end"
    assert len([line for line in lines if line.endswith("xxx")]) == 50_000


def test_output_of_a_task_that_crashes_later_is_not_lost(tmp_path: Any) -> None:
    from tests.support import run_script

    source = """
        import os, snakepit
        def work():
            print("said before", flush=True)
            os._exit(1)
        with snakepit.Executor(1) as executor:
            print(type(executor.submit(work).exception(60)).__name__)
        """
    outcome = run_script(source, tmp_path)
    assert sorted(outcome.lines) == ["WorkerCrashedError", "said before"]
