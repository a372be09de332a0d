"""The caller's own death, and its signals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import LONG, Script, run_script, start_script, wait_until

HEAD = """
import os, signal, sys, threading, time
import snakepit

def sleep_long(path):
    open(path, "w").close()
    time.sleep(600)

def spin(path):
    open(path, "w").close()
    while True:
        pass

def stuck_in_c(path):
    open(path, "w").close()
    sum(range(10**13))

def ignore_signals(path):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    spin(path)

def start(executor, task, count=2):
    futures = [executor.submit(task, f"started-{n}") for n in range(count)]
    while not all(os.path.exists(f"started-{n}") for n in range(count)):
        time.sleep(0.005)
    return futures

if __name__ == "__main__":
    executor = snakepit.Executor(2, start_method={method!r})
"""

TASKS = ["sleep_long", "spin", "stuck_in_c", "ignore_signals"]
METHODS = ["template", "spawn", "forkserver", "fork"]


def program(method: str, *lines: str) -> str:
    return HEAD.replace("{method!r}", repr(method)) + "".join(f"    {line}\n" for line in lines)


def running(tmp_path: Path, task: str, method: str = "template", *lines: str) -> Script:
    """Start a program both of whose workers run `task`, and wait until they do."""
    script = start_script(
        program(method, f"futures = start(executor, {task})", "print('ready', flush=True)", *lines),
        tmp_path,
    )
    assert script.read_line() == "ready"
    return script


# Deaths without a word


@pytest.mark.parametrize("method", METHODS)
def test_no_worker_outlives_a_killed_caller(tmp_path: Path, method: str) -> None:
    script = running(tmp_path, "sleep_long", method, "time.sleep(600)")
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=8)
    script.finish()


@pytest.mark.parametrize("task", TASKS[1:])
def test_no_busy_worker_outlives_a_killed_caller(tmp_path: Path, task: str) -> None:
    script = running(tmp_path, task, "template", "time.sleep(600)")
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=8)
    script.finish()


def test_no_idle_worker_outlives_a_killed_caller(tmp_path: Path) -> None:
    source = program(
        "template", "executor.wait_ready(60)", "print('ready', flush=True)", "time.sleep(600)"
    )
    script = start_script(source, tmp_path)
    assert script.read_line() == "ready"
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=8)
    script.finish()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_caller_killed_while_workers_start(tmp_path: Path, delay: float) -> None:
    source = program(
        "template", "executor.submit(pow, 2, 3)", "print('ready', flush=True)", "time.sleep(600)"
    )
    script = start_script(source, tmp_path)
    assert script.read_line() == "ready"
    time.sleep(delay)
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=8)
    script.finish()


def test_sigterm_ends_caller_and_workers(tmp_path: Path) -> None:
    script = running(tmp_path, "sleep_long", "template", "time.sleep(600)")
    script.process.terminate()
    outcome = script.finish()
    assert outcome.returncode == -signal.SIGTERM
    assert "Traceback" not in outcome.stderr
    script.expect_nothing_left(timeout=8)


@pytest.mark.parametrize("method", METHODS)
def test_no_worker_outlives_os_exit(tmp_path: Path, method: str) -> None:
    script = running(tmp_path, "sleep_long", method, "os._exit(5)")
    outcome = script.finish()
    assert (outcome.returncode, outcome.stderr) == (5, "")
    script.expect_nothing_left(timeout=8)


def test_no_worker_outlives_a_segfault_of_the_caller(tmp_path: Path) -> None:
    script = running(
        tmp_path, "spin", "template", "import ctypes, faulthandler", "ctypes.string_at(0)"
    )
    assert script.finish().returncode == -signal.SIGSEGV
    script.expect_nothing_left(timeout=8)


def test_forked_child_outlives_its_parent(tmp_path: Path) -> None:
    """All that the caller has started ends with it although a fork of it lives on."""
    source = program(
        "template",
        "executor.wait_ready(60)",
        "workers = executor.worker_pids()",
        "sys.stdout.flush()",
        "child = os.fork()",
        "if child == 0:",
        "    os.setsid()",
        "    time.sleep(600)",
        "print(child, *workers, flush=True)",
        "time.sleep(600)",
    )
    script = start_script(source, tmp_path, flags=["-W", "ignore"])
    child, *workers = map(int, script.read_line().split())
    assert len(workers) == 2
    assert {child, *workers} < set(script.processes())
    script.process.kill()
    script.process.wait(LONG)
    try:
        wait_until(lambda: set(script.processes()) == {child}, "all others to end")
    finally:
        script.stop()
    script.expect_nothing_left()
    script.finish()


# Ctrl-C: see also test_ctrl_c.py


def interrupt(script: Script) -> None:
    os.killpg(script.process.pid, signal.SIGINT)


@pytest.mark.parametrize("task", TASKS[1:])
def test_interrupt_ends_busy_workers(tmp_path: Path, task: str) -> None:
    script = running(tmp_path, task, "template", "with executor:", "    futures[0].result()")
    interrupt(script)
    outcome = script.finish(timeout=30)
    assert outcome.returncode == -signal.SIGINT, outcome
    assert outcome.stderr.count("Traceback") == 1, outcome.stderr
    script.expect_nothing_left(timeout=8)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_interrupt_with_every_start_method(tmp_path: Path, method: str) -> None:
    script = running(tmp_path, "sleep_long", method, "futures[0].result()")
    interrupt(script)
    outcome = script.finish(timeout=30)
    assert outcome.returncode == -signal.SIGINT, outcome
    assert outcome.stderr.count("Traceback") == 1, outcome.stderr
    script.expect_nothing_left(timeout=8)


def test_interrupt_that_is_caught_leaves_the_pool_usable(tmp_path: Path) -> None:
    source = program(
        "template",
        "futures = start(executor, sleep_long)",
        "try:",
        "    print('ready', flush=True)",
        "    futures[0].result()",
        "except KeyboardInterrupt:",
        "    print('caught', flush=True)",
        "for future in futures:",
        "    future.stop()",
        "print(executor.submit(pow, 2, 3).result(60), flush=True)",
        "executor.shutdown()",
    )
    script = start_script(source, tmp_path)
    assert script.read_line() == "ready"
    interrupt(script)
    outcome = script.finish()
    assert (outcome.returncode, outcome.lines, outcome.stderr) == (0, ["caught", "8"], "")
    script.expect_nothing_left()


def test_interrupt_while_the_workers_start(tmp_path: Path) -> None:
    for delay in (0.0, 0.05, 0.15):
        source = program(
            "template",
            "print('ready', flush=True)",
            "for n in range(1000):",
            "    executor.submit(time.sleep, 1)",
            "executor.shutdown()",
        )
        script = start_script(source, tmp_path)
        assert script.read_line() == "ready"
        time.sleep(delay)
        interrupt(script)
        outcome = script.finish(timeout=30)
        assert outcome.returncode == -signal.SIGINT, outcome
        assert outcome.stderr.count("Traceback") == 1, outcome.stderr
        script.expect_nothing_left(timeout=8)


def test_scripts_that_fail_are_reported(tmp_path: Path) -> None:
    outcome = run_script("import sys; print('out'); sys.exit('err')", tmp_path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "out\n", "err\n")
