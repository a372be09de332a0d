"""Whatever a task starts ends with its worker, in whichever session it hides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import snakepit
from tests.support import LONG, is_running, new_executor, run_clean, start_script, wait_until

METHODS = ["template", "spawn", "forkserver", "fork"]


def start_child(new_session: bool) -> tuple[int, int]:
    child = subprocess.Popen(["sleep", "600"], start_new_session=new_session)
    return os.getpid(), child.pid


def start_daemon(path: str) -> int:
    """Start a process whose parent ends at once: it has a session of its own, and a new parent."""
    code = (
        "import os, subprocess; "
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        f"print(child.pid, file=open({path!r}, 'w'), flush=True)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, start_new_session=True)
    with open(path) as file:
        return int(file.read())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", METHODS)
def test_children_end_with_a_worker_that_is_killed(method: str) -> None:
    with new_executor(method, 1) as executor:
        for new_session in (False, True):
            _, child = executor.submit(start_child, new_session).result(LONG)
            assert is_running(child)
            with pytest.raises(snakepit.errors.WorkerCrashedError):
                executor.submit(die).result(LONG)
            wait_until(lambda child=child: not is_running(child), "the child to end")  # type: ignore[misc]


@pytest.mark.parametrize("method", ["template", "fork"])
def test_a_daemon_of_a_killed_worker_ends_and_that_of_another_goes_on(
    method: str, tmp_path: Path
) -> None:
    with new_executor(method, 1) as one, new_executor(method, 1) as two:
        dying = one.submit(start_daemon, str(tmp_path / "one")).result(LONG)
        staying = two.submit(start_daemon, str(tmp_path / "two")).result(LONG)
        with pytest.raises(snakepit.errors.WorkerCrashedError):
            one.submit(die).result(LONG)
        wait_until(lambda: not is_running(dying), "the daemon to end")
        assert is_running(staying)
    wait_until(lambda: not is_running(staying), "the other daemon to end")


@pytest.mark.parametrize("method", METHODS)
def test_children_end_with_the_pool(method: str) -> None:
    with new_executor(method, 1) as executor:
        children = [executor.submit(start_child, new).result(LONG)[1] for new in (False, True)]
    wait_until(lambda: not any(map(is_running, children)), "the children to end")


def test_what_a_task_leaves_in_the_background_becomes_no_zombie(tmp_path: Path) -> None:
    with snakepit.Executor(1) as executor:
        path = tmp_path / "pid"
        executor.submit(os.system, f"sleep 0.01 & echo $! > {path}").result(LONG)
        pid = int(path.read_text())
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the zombie to be waited for")


OWNER = """
import os, subprocess, time
import psutil
import snakepit

def work(path):
    subprocess.Popen(["sleep", "600"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    open(path, "w").close()
    sum(range(10**13))

if __name__ == "__main__":
    executor = snakepit.Executor(2, start_method=METHOD)
    for n in range(2):
        executor.submit(work, f"started-{n}")
    while not all(os.path.exists(f"started-{n}") for n in range(2)):
        time.sleep(0.005)
    for pid in STOPPED:
        os.kill(pid, 19)
        while psutil.Process(pid).status() != "stopped":
            time.sleep(0.001)
    print("ready", flush=True)
    time.sleep(600)
"""


def expect_nothing_left_of_an_owner(tmp_path: Path, method: str, stopped: str = "[]") -> None:
    """Kill an owner, having stopped the processes `stopped`, and wait until all is gone."""
    source = OWNER.replace("METHOD", repr(method)).replace("STOPPED", stopped)
    script = start_script(source, tmp_path)
    assert script.read_line() == "ready"
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=20)
    script.finish()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_a_killed_owner_is_left(tmp_path: Path, method: str) -> None:
    expect_nothing_left_of_an_owner(tmp_path, method)


CROWD = """
import os, sys
pids = []
for _ in range(4200):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pids.append(pid)
print("ready", flush=True)
sys.stdin.read()
for pid in pids:
    os.waitpid(pid, 0)
"""


def test_nothing_of_a_killed_owner_is_left_among_thousands_of_processes(tmp_path: Path) -> None:
    # Older than the workers, and so before them in /proc; zombies, which cost least.
    crowd = subprocess.Popen(
        [sys.executable, "-ISc", CROWD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert crowd.stdout is not None and crowd.stdout.readline() == b"ready\n"
        expect_nothing_left_of_an_owner(tmp_path, "fork")
    finally:
        crowd.communicate()


@pytest.mark.parametrize(
    "stopped", ["executor.worker_pids()", "[executor._pool.template._process.pid]"]
)
def test_nothing_of_a_killed_owner_is_left_where_something_was_stopped(
    tmp_path: Path, stopped: str
) -> None:
    expect_nothing_left_of_an_owner(tmp_path, "template", stopped)


def test_an_owner_killed_while_the_template_imports_for_ever(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("open('importing', 'w').close()\nsum(range(10**13))\n")
    source = """
        import sys, time, snakepit
        sys.path.insert(0, ".")
        snakepit.Executor(1, preload=["endless"]).submit(int)
        time.sleep(600)
        """
    script = start_script(source, tmp_path)
    wait_until((tmp_path / "importing").exists, "the import to begin")
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left(timeout=20)
    script.finish()


def test_forced_ends_do_not_wait_for_an_endless_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text(
        f"open({str(tmp_path / 'on')!r}, 'w').close()\nsum(range(10**13))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    executor = snakepit.Executor(1, preload=["endless"])
    future = executor.submit(int)
    wait_until((tmp_path / "on").exists, "the import to begin")
    executor.kill_workers()
    executor.shutdown()
    assert future.cancelled()


def test_a_stopped_template_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakepit.lifecycle.template.ANSWER_PATIENCE", 0.3)
    executor = snakepit.Executor(1)
    assert executor.submit(pow, 2, 3).result(LONG) == 8
    template = executor._pool.template._process.pid  # type: ignore[union-attr]
    os.kill(template, signal.SIGSTOP)
    executor.shutdown()
    wait_until(lambda: not is_running(template), "the template to end")


def test_signal_handlers_may_use_the_pool_on_top_of_any_call(tmp_path: Path) -> None:
    source = """
        import signal, snakepit
        if __name__ == "__main__":
            seen = []
            def handler(number, frame):
                seen.append(executor.submit(pow, 2, 3))
                if not starting:
                    assert seen[-1].result(60) == 8
            signal.signal(signal.SIGALRM, handler)
            for delay in range(1, 7):
                executor = snakepit.Executor(1)
                starting = True
                signal.setitimer(signal.ITIMER_REAL, 0.0003 * delay)
                executor.submit(pow, 2, 3).result(60)
                starting = False
                for number in range(100):
                    signal.setitimer(signal.ITIMER_REAL, 0.00001 * number + 0.00001)
                    for _ in range(5):
                        assert executor.submit(pow, 2, 3).result(60) == 8
                signal.setitimer(signal.ITIMER_REAL, 0)
                assert {future.result(60) for future in seen} <= {8}
                executor.shutdown()
            print("end", len(seen) > 6)
        """
    assert run_clean(source, tmp_path) == ["end True"]


def test_a_signal_handler_may_end_the_pool_while_it_starts(tmp_path: Path) -> None:
    source = """
        import signal, snakepit
        if __name__ == "__main__":
            signal.signal(signal.SIGALRM, lambda *_: executor.shutdown(wait=False))
            for delay in range(1, 10):
                executor = snakepit.Executor(1)
                signal.setitimer(signal.ITIMER_REAL, 0.0002 * delay)
                try:
                    future = executor.submit(pow, 2, 3)
                except snakepit.errors.PoolShutdownError:
                    pass
                else:
                    assert future.result(60) == 8
                signal.setitimer(signal.ITIMER_REAL, 0)
                executor.shutdown()
            print("end")
        """
    assert run_clean(source, tmp_path) == ["end"]
