"""Deaths, endings and noise around questions that workers ask."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors, testing
from tests.executor import tasks
from tests.sessions import calls
from tests.support import LONG, send_signal, wait_until


def check_nothing_lost(executor: snakepit.Executor) -> None:
    """Check that every slot is back and every worker at work."""
    counts = executor._pool.scheduler.counts  # type: ignore[union-attr]
    wait_until(lambda: counts()["free_mail"] == counts()["mail"], "the mail slots")
    wait_until(lambda: counts()["free_slots"] == counts()["slots"], "the slots")
    wait_until(lambda: executor.stats().ready == 2, "the workers")
    assert executor.submit(tasks.square, 3).result(LONG) == 9


@pytest.mark.parametrize("what", ["small", "large"])
def test_killed_askers_leave_nothing(what: str) -> None:
    """SIGKILL at random instants of workers that do nothing but ask."""
    generator = random.Random(5)
    asking = calls.ask_for_ever if what == "small" else calls.ask_large_for_ever
    held = None
    with snakepit.Executor(2, heartbeat_interval=None) as executor:
        executor.wait_ready(LONG)
        session = executor.session("s")
        session.register_variable("x", "integer", 1)
        session.register_variable("array", "tensor", np.zeros(30_000))
        view = executor.options(session="s")
        for _ in range(7):
            futures = [view.submit(asking) for _ in range(2)]
            wait_until(lambda f=futures: all(x.running() for x in f), "the tasks to run")  # type: ignore[misc]
            time.sleep(generator.uniform(0, 0.01))
            for pid in executor.worker_pids():
                send_signal(pid, signal.SIGKILL)
            for future in futures:
                assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
            check_nothing_lost(executor)
            usage = executor._pool._arena.usage  # type: ignore[union-attr]
            if held is None:
                held = usage()["held"]
            wait_until(lambda: usage()["held"] <= held, "the segments")  # noqa: B023


@pytest.mark.slow
def test_hundred_killed_askers() -> None:
    with snakepit.Executor(2, heartbeat_interval=None) as executor:
        executor.session("s").register_variable("x", "integer", 1)
        view = executor.options(session="s")
        for _ in range(100):
            future = view.submit(calls.ask_for_ever)
            wait_until(future.running, "the task to run")
            testing.kill_worker(executor, int(_pid_of(executor)))
            assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
        check_nothing_lost(executor)


def _pid_of(executor: snakepit.Executor) -> int:
    roster: Any = executor._pool.roster  # type: ignore[union-attr]
    lanes = [roster.lane_info(lane) for lane in range(executor._pool.lanes)]  # type: ignore[union-attr]
    return int(next(lane["pid"] for lane in lanes if lane["task"] is not None))


def test_interrupts_at_any_instant_lose_no_question() -> None:
    with snakepit.Executor(2) as executor:
        executor.session("s").register_variable("x", "integer", 1)
        view = executor.options(session="s")
        for turn in range(30):
            future = view.submit(calls.ask_for_ever)
            wait_until(future.running, "the task to run")
            time.sleep(turn * 0.0003)
            future.stop()
            with pytest.raises(errors.TaskStoppedError):
                future.result(LONG)
        check_nothing_lost(executor)
        assert executor.stats().restarted == 0


def test_killed_caller_of_a_tool_frees_the_tool() -> None:
    with snakepit.Executor(2) as executor:
        seen: list[int] = []

        def tool() -> Any:
            pid = _pid_of(executor)
            os.kill(pid, signal.SIGKILL)
            seen.append(pid)
            return np.zeros(30_000)

        executor.register_tool("s", "tool", tool)
        for _ in range(5):
            future = executor.options(session="s").submit(calls.call_tool, "tool")
            assert isinstance(future.exception(LONG), errors.WorkerCrashedError)
        assert len(seen) == 5
        check_nothing_lost(executor)


def test_workers_that_ask_end_with_the_owner(tmp_path: Any) -> None:
    """The owner dies by SIGKILL while its workers ask."""
    from tests.support import start_script

    log = tmp_path / "log"
    script = start_script(
        f"""
        import os, signal
        import snakepit
        from tests.executor.tasks import Log
        from tests.sessions import calls
        from tests.support import wait_until

        log = Log({str(log)!r})
        executor = snakepit.Executor(2)
        executor.session("s").register_variable("x", "integer", 1)
        for _ in range(2):
            executor.options(session="s").submit(calls.ask_until_interrupted, log)
        wait_until(lambda: len(log.lines()) == 2)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert script.finish().returncode == -signal.SIGKILL
    script.expect_nothing_left()
    assert len(log.read_text().splitlines()) == 2
