"""The faults that programs may make in their tests; in a debug build, a few kills a point."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import snakepit
from snakepit import errors, testing
from tests.executor import tasks
from tests.faults import protocol
from tests.support import LONG, wait_until


def test_killed_worker_fails_its_task_and_is_replaced() -> None:
    with snakepit.Executor(1) as executor:
        executor.wait_ready(LONG)
        future = executor.submit(tasks.sleep_and_return, LONG)
        wait_until(future.running, "the task to run")
        pid = testing.kill_worker(executor)
        error = future.exception(LONG)
        assert isinstance(error, errors.WorkerCrashedError)
        assert (error.details["pid"], error.details["signal"]) == (pid, "SIGKILL")
        assert executor.submit(os.getpid).result(LONG) != pid


def test_suspended_worker_goes_on_after_the_block() -> None:
    with snakepit.Executor(1, heartbeat_interval=None) as executor:
        executor.wait_ready(LONG)
        with testing.suspend_worker(executor) as pid:
            state = Path(f"/proc/{pid}/stat")
            wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", "a stop")
            future = executor.submit(os.getpid)
        assert future.result(LONG) == pid


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, "exit"])
def test_crash_ends_the_worker(how: int | str) -> None:
    with snakepit.Executor(1) as executor:
        assert isinstance(
            executor.submit(testing.crash, how).exception(LONG), errors.WorkerCrashedError
        )


def test_worker_that_is_no_worker_is_refused() -> None:
    with snakepit.Executor(1) as executor:
        executor.wait_ready(LONG)
        with pytest.raises(ValueError, match="not a ready worker"):
            testing.kill_worker(executor, os.getpid())


def test_clock_that_jumps_harms_no_deadline() -> None:
    with snakepit.Executor(1) as executor:
        executor.wait_ready(LONG)
        view = executor.options(timeout=LONG)
        for seconds in (1e6, -1e6):
            now = time.time()
            with testing.jump_clock(seconds):
                assert abs(time.time() - now - seconds) < LONG
                assert view.submit(tasks.square, 3).result(LONG) == 9


def test_points_have_names() -> None:
    assert {"lane.claimed", "publish.done", "chunk.tailed", "read.freed", "burial.swept"} <= set(
        testing.point_names()
    )


@pytest.mark.skipif(testing.have_points(), reason="a debug build has them")
def test_release_build_says_that_it_has_no_points() -> None:
    with pytest.raises(RuntimeError, match="SNAKEPIT_DEBUG=1"):
        testing.ProtocolPoints()


@pytest.mark.slow
@pytest.mark.skipif(not testing.have_points(), reason="needs a build with SNAKEPIT_DEBUG=1")
@pytest.mark.parametrize("point", testing.point_names())
def test_deaths_at_a_point_lose_nothing_else(point: str) -> None:
    held, said = protocol.run_apart(point, 2, 1)
    assert held, said


@pytest.mark.slow
@pytest.mark.skipif(not testing.have_points(), reason="needs a build with SNAKEPIT_DEBUG=1")
@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGSTOP])
@pytest.mark.parametrize("point", ["lane.claimed", "arena.locked", "place.queued", "chunk.tailed"])
def test_other_ends_at_a_point_lose_nothing_else(point: str, sig: signal.Signals) -> None:
    held, said = protocol.run_apart(point, 4, 1, sig)
    assert held, said
