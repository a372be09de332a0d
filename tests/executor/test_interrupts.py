"""TaskInterrupt: what it wakes, whom it spares, and what it never meets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import results, wait_until

from . import tasks
from .test_options import expect_capacity
from .test_stop import wait_for_error

# The rungs after the interrupt are out of reach: what a test sees, the interrupt did.
PATIENT = {"flag": 0.01, "interrupt": 60.0}
# Only force helps.
HURRIED = {"flag": 0.01, "interrupt": 0.02, "terminate": 0.05}


def read_socket(started: tasks.Gate) -> None:
    left, right = socket.socketpair()
    with left, right:
        started.open()
        left.recv(1)


def take_lock(started: tasks.Gate) -> None:
    lock = threading.Lock()
    with lock:
        started.open()
        lock.acquire()


def run_program(started: tasks.Gate) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    started.path.with_suffix(".pid").write_text(str(process.pid))
    started.open()
    process.wait()


def wait_in_a_nested_call(started: tasks.Gate) -> None:
    snakepit.current_pool().submit(tasks.sleep_long, started).result()


def hold_the_gil(started: tasks.Gate) -> None:
    from itertools import repeat

    started.open()
    sum(repeat(0))  # No bytecode, no look at signals, and it never frees the GIL.


def encode_for_ever(started: tasks.Gate) -> object:
    return SlowToPickle(started)


class SlowToPickle:
    """Takes for ever to be pickled."""

    def __init__(self, started: tasks.Gate) -> None:
        self.started = started

    def __reduce__(self) -> Any:
        tasks.sleep_long(self.started)


class SlowToLoad:
    """Takes for ever to be loaded."""

    def __init__(self, started: tasks.Gate) -> None:
        self.started = started

    def __reduce__(self) -> Any:
        return tasks.sleep_long, (self.started,)


@pytest.mark.processes
@pytest.mark.parametrize(
    "task",
    [
        tasks.sleep_long,
        tasks.spin,
        read_socket,
        take_lock,
        run_program,
        tasks.spin_ignoring_sigterm,
        wait_in_a_nested_call,
    ],
    ids=lambda task: task.__name__,
)
def test_interrupt_stops_the_task_and_spares_the_worker(make: Make, gate: Any, task: Any) -> None:
    executor = make(1, stop_grace=PATIENT)
    pid = executor.submit(os.getpid).result(60)
    started = gate("started")
    future = executor.submit(task, started)
    started.wait()
    assert future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    assert executor.submit(os.getpid).result(60) == pid


@pytest.mark.processes
@pytest.mark.parametrize("grace", [PATIENT, HURRIED], ids=["by interrupt", "by force"])
def test_no_process_of_a_stopped_task_stays(make: Make, gate: Any, grace: Any) -> None:
    executor = make(1, stop_grace=grace)
    started = gate("started")

    def work() -> None:
        # Out of the worker's process group, and with a child of its own.
        child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
        process = subprocess.Popen(
            [sys.executable, "-c", child], start_new_session=True, stdin=subprocess.PIPE
        )
        while not psutil.Process(process.pid).children():
            time.sleep(0.005)
        family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children())]
        started.path.with_suffix(".pids").write_text(" ".join(map(str, family)))
        started.open()
        if grace is HURRIED:
            hold_the_gil(started)
        process.wait()

    future = executor.submit(work)
    started.wait()
    family = [int(pid) for pid in Path(f"{started.path}.pids").read_text().split()]
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    wait_until(lambda: not any(map(psutil.pid_exists, family)), "the task's processes to end")
    assert executor.submit(tasks.square, 3).result(60) == 9


def start_helper() -> None:
    tasks.HELPER = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def helper_is_alive() -> bool:
    return bool(tasks.HELPER.poll() is None)


@pytest.mark.processes
def test_what_the_initializer_started_stays(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=PATIENT, initializer=start_helper)
    started = gate("started")
    future = executor.submit(tasks.sleep_long, started)
    started.wait()
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    assert executor.submit(helper_is_alive).result(60)


@pytest.mark.processes
@pytest.mark.parametrize(
    "task", [hold_the_gil, tasks.swallow_everything, encode_for_ever], ids=lambda t: t.__name__
)
def test_force_ends_what_no_interrupt_can(make: Make, gate: Any, task: Any) -> None:
    executor = make(1, stop_grace=HURRIED)
    pid = executor.submit(os.getpid).result(60)
    started = gate("started")
    future = executor.submit(task, started)
    started.wait()
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    assert executor.submit(os.getpid).result(60) != pid
    assert executor.stats().crashed == 0


@pytest.mark.processes
def test_stop_while_the_arguments_are_decoded(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=HURRIED)
    started = gate("started")
    future = executor.submit(tasks.identity, SlowToLoad(started))
    started.wait()
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    expect_capacity(executor, gate, workers=1)


class LoadsAtGate:
    """Is loaded only once a gate is open."""

    def __init__(self, started: tasks.Gate, release: tasks.Gate) -> None:
        self.gates = started, release

    def __reduce__(self) -> Any:
        return tasks.hold, self.gates


@pytest.mark.processes
def test_a_task_stopped_before_its_function_is_called_never_calls_it(
    make: Make, gate: Any, log: tasks.Log
) -> None:
    executor = make(1, stop_grace=PATIENT)
    pid = executor.submit(os.getpid).result(60)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.record, log, LoadsAtGate(started, release))
    started.wait()
    assert future.stop()
    # The supervisor's next turn is after the one that raises the flag.
    expect_turn(executor)
    release.open()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    assert log.lines() == []
    assert executor.submit(os.getpid).result(60) == pid


def expect_turn(executor: snakepit.Executor) -> None:
    """Wait until the supervisor has done what it was told before."""
    done = threading.Event()
    pool: Any = executor._pool
    pool.supervisor.tell(done.set)
    assert done.wait(60)


@pytest.mark.processes
def test_the_error_shows_where_the_task_was(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=PATIENT)
    started = gate("started")
    future = executor.submit(tasks.sleep_long, started)
    started.wait()
    future.stop()
    error = wait_for_error(future)
    assert isinstance(error, errors.TaskStoppedError)
    assert "sleep_long" in str(error.__cause__)
    assert error.details["pid"] in executor.worker_pids()


def clean_up(started: tasks.Gate, log: tasks.Log) -> str:
    try:
        tasks.sleep_long(started)
    except snakepit.TaskInterrupt:
        log.add("cleaned up")
        return "a value all the same"
    return "never interrupted"


def test_a_task_may_end_by_itself_when_interrupted(
    kind: str, make: Make, gate: Any, log: tasks.Log
) -> None:
    executor = make(1, stop_grace=PATIENT)
    started = gate("started")
    # What is left with a thread does not wake it from a system call.
    work = clean_up_spinning if kind in ("thread", "local") else clean_up
    future = executor.submit(work, started, log)
    started.wait()
    assert future.stop()
    assert future.result(60) == "a value all the same"
    assert log.lines() == ["cleaned up"]


def clean_up_spinning(started: tasks.Gate, log: tasks.Log) -> str:
    try:
        tasks.spin(started)
    except snakepit.TaskInterrupt:
        log.add("cleaned up")
        return "a value all the same"


@pytest.mark.processes
def test_an_interrupted_chunk_keeps_what_was_done(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=PATIENT)
    started = gate("started")

    def work(number: int) -> int:
        if number == 3:
            tasks.sleep_long(started)
        return number

    values = iter(executor.options(timeout=60, session="s").map(work, range(6), chunksize=6))
    got = []
    stopper = threading.Thread(target=lambda: (started.wait(), executor.cancel(session="s")))
    stopper.start()
    with pytest.raises(errors.TaskStoppedError):
        for value in values:
            got.append(value)
    stopper.join()
    assert got == [0, 1, 2]


@pytest.mark.processes
def test_a_late_chunk_is_interrupted(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=PATIENT)
    pid = executor.submit(os.getpid).result(60)
    started = gate("started")
    with pytest.raises(errors.TaskTimeoutError):
        list(executor.options(timeout=0.2).map(tasks.sleep_long, [started]))
    assert executor.submit(os.getpid).result(60) == pid


@pytest.mark.processes
def test_nobody_but_the_task_is_ever_interrupted(make: Make) -> None:
    """Stops race with the ends of short tasks; whoever is not stopped must not notice."""
    executor = make(1, stop_grace={"flag": 0.0, "interrupt": 60.0})
    pid = executor.submit(os.getpid).result(60)
    for number in range(300):
        stopped = executor.submit(tasks.sleep_and_return, 0.0001 * (number % 4), number)
        spared = [executor.submit(sum, range(300 * n)) for n in range(4)]
        wait_until(lambda task=stopped: not is_queued(task), "the task to start")  # type: ignore[misc]
        stopped.stop()
        error = wait_for_error(stopped)
        assert error is None or isinstance(error, errors.TaskStoppedError), error
        assert results(spared) == [sum(range(300 * n)) for n in range(4)]
    assert executor.submit(os.getpid).result(60) == pid


def is_queued(future: snakepit.Future[Any]) -> bool:
    return not future.running() and not future.done()


@pytest.mark.processes
def test_stop_races_with_the_end_by_force(make: Make) -> None:
    executor = make(2, stop_grace={"flag": 0.0, "interrupt": 0.0})
    for number in range(100):
        stopped = executor.submit(tasks.square, number)
        spared = [executor.submit(tasks.square, n) for n in range(5)]
        stopped.stop()
        error = wait_for_error(stopped)
        assert error is None or isinstance(error, CancelledError), error
        assert results(spared) == [n * n for n in range(5)]
    assert executor.stats().crashed == 0


@pytest.mark.processes
def test_two_stops_and_a_deadline_are_one_interrupt(make: Make, gate: Any, log: tasks.Log) -> None:
    executor = make(1, stop_grace=PATIENT)
    executor.wait_ready(60)
    started, release = gate("started"), gate("release")

    def work() -> str:
        while True:
            try:
                started.open()
                release.wait()
                return "released"
            except snakepit.TaskInterrupt:
                log.add("interrupted")

    while True:
        future = executor.options(timeout=0.3).submit(work)
        wait_until(
            lambda future=future: started.is_open() or future.done(),  # type: ignore[misc]
            "the task to start, or be late",
        )
        if started.is_open():
            break
    threads = [threading.Thread(target=future.stop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(wait_for_error(future), errors.TaskTimeoutError)
    wait_until(lambda: log.lines() != [], "the interrupt")
    release.open()
    assert executor.submit(tasks.square, 3).result(60) == 9
    assert log.lines() == ["interrupted"]


@pytest.mark.processes
def test_a_handler_of_the_task_s_own_only_costs_the_rung(make: Make, gate: Any) -> None:
    executor = make(1, stop_grace=HURRIED)
    started = gate("started")

    def work() -> None:
        import signal

        signal.signal(signal.SIGURG, signal.SIG_IGN)
        tasks.sleep_long(started)

    future = executor.submit(work)
    started.wait()
    future.stop()
    assert isinstance(wait_for_error(future), errors.TaskStoppedError)
    expect_capacity(executor, gate, workers=1)
