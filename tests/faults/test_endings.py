"""The caller's own death, its signals, and its forks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support import LONG, Script, run_clean, run_script, start_script, wait_until

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


# Ctrl-C

PLACES = {
    "result": ["futures[0].result()"],
    "result with a timeout": ["futures[0].result(500)"],
    "wait": ["import concurrent.futures", "concurrent.futures.wait(futures)"],
    "as_completed": ["import concurrent.futures", "list(concurrent.futures.as_completed(futures))"],
    "map": ["list(executor.map(time.sleep, [600] * 50))"],
    "sleep": ["time.sleep(600)"],
    "shutdown": ["executor.shutdown()"],
    "block": ["with executor:", "    futures[0].result()"],
    "end of a block": ["with executor:", "    pass"],
    "end of the program": ["pass"],
}


def interrupt(script: Script) -> None:
    os.killpg(script.process.pid, signal.SIGINT)


@pytest.mark.parametrize("place", PLACES)
def test_interrupt_ends_everything_at_once(tmp_path: Path, place: str) -> None:
    lines = PLACES[place]
    script = running(tmp_path, "sleep_long", "template", *lines)
    time.sleep(0.3)  # let it reach its place; any other place must do as well
    interrupt(script)
    outcome = script.finish(timeout=30)
    # The interpreter ignores what is raised once it ends.
    expected = (0,) if place == "end of the program" else (-signal.SIGINT, 1, 130)
    assert outcome.returncode in expected, outcome
    assert outcome.stderr.count("Traceback") <= 2, outcome.stderr
    assert "KeyboardInterrupt" in outcome.stderr
    for word in ("Process-", "worker", "BrokenPipe", "EOFError", "Exception ignored"):
        frames = [line for line in outcome.stderr.splitlines() if not line.startswith("  ")]
        assert not any(word in line for line in frames), outcome.stderr
    script.expect_nothing_left(timeout=8)


@pytest.mark.parametrize("task", TASKS[1:])
def test_interrupt_ends_busy_workers(tmp_path: Path, task: str) -> None:
    script = running(tmp_path, task, "template", "with executor:", "    futures[0].result()")
    interrupt(script)
    outcome = script.finish(timeout=30)
    assert outcome.returncode in (-signal.SIGINT, 1, 130), outcome
    script.expect_nothing_left(timeout=8)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_interrupt_with_every_start_method(tmp_path: Path, method: str) -> None:
    script = running(tmp_path, "sleep_long", method, "futures[0].result()")
    interrupt(script)
    outcome = script.finish(timeout=30)
    assert outcome.returncode in (-signal.SIGINT, 1, 130), outcome
    assert outcome.stderr.count("Traceback") <= 2, outcome.stderr
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
        assert outcome.returncode in (-signal.SIGINT, 1, 130), outcome
        script.expect_nothing_left(timeout=8)


# Forks of the caller

FORK = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import snakepit

def in_child(function):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            function()
            status = 0
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

executor = snakepit.Executor(2)
print(executor.submit(pow, 2, 3).result(60))
"""


def test_forked_child_that_leaves_at_once(tmp_path: Path) -> None:
    source = FORK + (
        "for n in range(5):\n"
        "    assert in_child(lambda: None) == 0\n"
        "    print(executor.submit(pow, 2, n).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "1", "2", "4", "8", "16"]


def test_forked_child_that_ends_as_programs_do(tmp_path: Path) -> None:
    """Its finalizers and exit handlers run, over the pool that is not its own."""
    source = FORK + (
        "for n in range(3):\n"
        "    sys.stdout.flush()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        sys.exit(0)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "    print(executor.submit(pow, 2, n).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "1", "2", "4"]


def test_forked_child_that_ends_while_a_worker_is_made_known(tmp_path: Path) -> None:
    """Forked when the worker runs and the pool has not noted it yet."""
    source = """
        import multiprocessing.util, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import snakepit
        from snakepit.lifecycle import supervisor

        def note(*args, make=supervisor.Worker):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    multiprocessing.util._exit_function()
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return make(*args)

        statuses = []
        supervisor.Worker = note
        if __name__ == "__main__":
            with snakepit.Executor(1) as executor:
                print(executor.submit(pow, 2, 3).result(60))
            print(statuses)
        """
    assert run_clean(source, tmp_path) == ["8", "[0]"]


def test_forked_child_that_drops_the_executor(tmp_path: Path) -> None:
    source = FORK + (
        "import gc\n"
        "def drop():\n"
        "    global executor\n"
        "    del executor\n"
        "    gc.collect()\n"
        "assert in_child(drop) == 0\n"
        "print(executor.submit(pow, 2, 5).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "32"]


@pytest.mark.parametrize(
    "use",
    [
        "executor.submit(pow, 2, 3)",
        "list(executor.map(abs, [1, 2]))",
        "executor.options(timeout=5).submit(pow, 2, 3)",
    ],
)
def test_using_the_pool_in_a_forked_child_is_refused(tmp_path: Path, use: str) -> None:
    source = FORK + (
        "def work():\n"
        "    try:\n"
        f"        {use}\n"
        "    except RuntimeError as error:\n"
        "        assert 'fork' in str(error), error\n"
        "        assert isinstance(error, snakepit.errors.SnakepitError)\n"
        "        print('refused')\n"
        "assert in_child(work) == 0\n"
        "print(executor.submit(pow, 2, 5).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "refused", "32"]


def test_shutting_the_pool_down_in_a_forked_child_harms_nothing(tmp_path: Path) -> None:
    source = FORK + (
        "def work():\n"
        "    try:\n"
        "        executor.shutdown(wait=True)\n"
        "    except RuntimeError:\n"
        "        pass\n"
        "assert in_child(work) == 0\n"
        "print(executor.submit(pow, 2, 5).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "32"]


def test_forked_child_may_have_a_pool_of_its_own(tmp_path: Path) -> None:
    source = FORK + (
        "import numpy\n"
        "print(int(executor.submit(numpy.full, 100_000, 2).result(60).sum()))\n"
        "def work():\n"
        "    with snakepit.Executor(2) as mine:\n"
        "        print(list(mine.map(abs, range(-3, 0))))\n"
        "        print(int(mine.submit(numpy.full, 100_000, 1).result(60).sum()))\n"
        "assert in_child(work) == 0\n"
        "print(int(executor.submit(numpy.full, 100_000, 3).result(60).sum()))\n"
        "executor.shutdown()\n"
    )
    lines = ["8", "200000", "[3, 2, 1]", "100000", "300000"]
    assert run_clean(source, tmp_path) == lines


def test_fork_while_tasks_run_and_results_arrive(tmp_path: Path) -> None:
    source = FORK + (
        "done = threading.Event()\n"
        "counts = [0]\n"
        "def work():\n"
        "    while not done.is_set():\n"
        "        assert executor.submit(pow, 2, 3).result(60) == 8\n"
        "        counts[0] += 1\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for n in range(20):\n"
        "    assert in_child(lambda: None) == 0\n"
        "    seen = counts[0]\n"
        "    while counts[0] == seen: time.sleep(0.001)\n"
        "done.set()\n"
        "for thread in threads: thread.join()\n"
        "executor.shutdown()\n"
        "print('end')\n"
    )
    assert run_clean(source, tmp_path) == ["8", "end"]


def test_results_taken_before_the_fork_are_readable_in_the_child(tmp_path: Path) -> None:
    source = FORK + (
        "import numpy\n"
        "array = executor.submit(numpy.full, 100_000, 2).result(60)\n"
        "future = executor.submit(pow, 3, 3)\n"
        "future.result(60)\n"
        "def work():\n"
        "    print(int(array.sum()), future.result(0))\n"
        "assert in_child(work) == 0\n"
        "del array\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "200000 27"]


def test_multiprocessing_beside_the_pool(tmp_path: Path) -> None:
    source = """
        import multiprocessing, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import snakepit
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with snakepit.Executor(2) as executor:
                    print(executor.submit(pow, 2, 3).result(60))
                    with multiprocessing.get_context(method).Pool(2) as pool:
                        print(pool.map(abs, [-1, -2]))
                    print(executor.submit(pow, 2, 4).result(60))
        """
    assert run_clean(source, tmp_path) == ["8", "[1, 2]", "16"] * 3


def test_forked_child_outlives_its_parent(tmp_path: Path) -> None:
    """Workers end with their caller although a fork of it still holds its descriptors."""
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
    script.process.kill()
    script.process.wait(LONG)
    try:
        wait_until(lambda: not set(workers) & set(script.processes()), "the workers to end", 8)
        assert child in script.processes()
    finally:
        script.stop()
    script.expect_nothing_left()
    script.finish()


def test_scripts_that_fail_are_reported(tmp_path: Path) -> None:
    outcome = run_script("import sys; print('out'); sys.exit('err')", tmp_path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "out\n", "err\n")
