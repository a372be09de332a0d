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
from tests.support import LONG, run_clean, wait_until


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


NEIGHBOUR = """
import time
import snakepit
from snakepit.testing import ProtocolPoints

def sleep_through(path):
    open(path, "w").close()
    time.sleep(600)

if __name__ == "__main__":
    with ProtocolPoints() as points:
        grace = {"flag": 0.0, "interrupt": 0.0, "terminate": 60.0}
        with snakepit.Executor(
            1, profile="thread", threads_per_worker=2, stop_grace=grace, heartbeat_interval=None
        ) as executor:
            stuck = executor.submit(sleep_through, "started")
            while not stuck.running():
                time.sleep(0.001)
            points.hold_at("publish.counted")
            neighbour = executor.submit(abs, -1)
            print(points.wait_fired("publish.counted", 1, 60))
            looks = []
            supervisor = executor._pool.supervisor
            ladder = supervisor.ladder
            lanes_of = ladder._lanes_of
            def look(worker, tasks):
                looks.append(worker)
                return lanes_of(worker, tasks)
            ladder._lanes_of = look
            stuck.stop()
            while len(looks) < 8 and not neighbour.done():
                time.sleep(0.001)
            points.disarm("publish.counted")
            print(neighbour.result(60))
            print(type(stuck.exception(60)).__name__)
"""


@pytest.mark.skipif(not testing.have_points(), reason="needs a build with SNAKEPIT_DEBUG=1")
def test_who_ends_beside_a_task_that_is_stopped_by_force_is_let_publish(tmp_path: Path) -> None:
    assert run_clean(NEIGHBOUR, tmp_path) == ["True", "1", "TaskStoppedError"]
