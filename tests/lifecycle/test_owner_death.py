"""The owner's end: what runs in its workers may clean up, and then nothing is left."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.executor.tasks import Log
from tests.support import LONG, Script, is_running, start_script, wait_until

SOURCE = """
import os, sys, time
import snakepit

def note(line):
    descriptor = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{{line}}\\n".encode())
    os.close(descriptor)

class Busy(snakepit.Adapter):
    __thread_safe__ = True

    @classmethod
    def preload(cls):
        # A busy machine may need longer; workers that are spawned are told of the time before this.
        from snakepit.worker import orphan

        orphan.GRACE = 2.0

    def teardown(self):
        note("teardown")

    @snakepit.tool
    def dawdle(self):
        note("started")
        try:
            while True:
                time.sleep(0.002)
        finally:
            note("cleaned up")

    @snakepit.tool
    def asleep(self):
        note("started")
        try:
            time.sleep(600)
        finally:
            note("cleaned up")

    @snakepit.tool(streaming=True)
    def endless(self):
        note("started")
        try:
            while True:
                yield 1
        finally:
            note("cleaned up")

    @snakepit.tool(streaming=True)
    def slow(self):
        note("started")
        try:
            while True:
                yield 1
                time.sleep(0.01)
        finally:
            note("cleaned up")

    @snakepit.tool
    def stubborn(self):
        note("started")
        while True:
            try:
                while True:
                    time.sleep(0.01)
            except BaseException:
                note("goes on")

    @snakepit.tool
    def stuck_in_c(self):
        note("started")
        sum(range(10**13))

    @snakepit.tool
    def idle(self):
        note("started")

if __name__ == "__main__":
    pool = snakepit.Pool(Busy, **{options!r})
    pool.await_ready(60)
    if {tool!r} in ("endless", "slow"):
        stream = pool.stream({tool!r})
        next(stream)
    elif {tool!r} == "idle":
        pool.execute("idle")
    else:
        call = pool.submit({tool!r})
    print("ready", flush=True)
    time.sleep(600)
"""


def owner_of(directory: Path, tool: str, **options: Any) -> tuple[Script, Log]:
    """Start a program whose worker runs `tool`, and wait until it does."""
    log = Log(directory / "log")
    options = {"pool_size": 1, "thread_safety": None, **options}
    source = SOURCE.format(log=str(log.path), tool=tool, options=options)
    script = start_script(source, directory)
    assert script.read_line() == "ready"
    wait_until(lambda: "started" in log.lines())
    return script, log


@pytest.mark.parametrize("tool", ["dawdle", "asleep", "endless", "slow"])
@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_calls_clean_up_when_their_owner_is_killed(tmp_path: Path, method: str, tool: str) -> None:
    script, log = owner_of(tmp_path, tool, start_method=method)
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left()
    assert log.lines() == ["started", "cleaned up", "teardown"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_generator_is_closed_when_its_owner_ends_by_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    script, log = owner_of(tmp_path, "slow")
    script.process.send_signal(number)
    script.process.wait(LONG)
    script.expect_nothing_left()
    assert log.lines() == ["started", "cleaned up", "teardown"]


@pytest.mark.parametrize("tool", ["dawdle", "slow"])
def test_threads_of_a_worker_clean_up_when_their_owner_is_killed(tmp_path: Path, tool: str) -> None:
    script, log = owner_of(tmp_path, tool, profile="thread", threads_per_worker=2)
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left()
    assert log.lines() == ["started", "cleaned up", "teardown"]


@pytest.mark.parametrize("profile", ["process", "thread"])
def test_idle_workers_run_teardown_when_their_owner_is_killed(tmp_path: Path, profile: str) -> None:
    threads = {"threads_per_worker": 2} if profile == "thread" else {}
    script, log = owner_of(tmp_path, "idle", profile=profile, **threads)
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left()
    assert log.lines() == ["started", "teardown"]


@pytest.mark.parametrize("tool", ["stubborn", "stuck_in_c"])
@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_what_does_not_end_is_ended_with_its_owner(tmp_path: Path, method: str, tool: str) -> None:
    script, log = owner_of(tmp_path, tool, start_method=method)
    script.process.kill()
    script.process.wait(LONG)
    script.expect_nothing_left()
    assert "cleaned up" not in log.lines()


FORKER = """
import os, subprocess, sys, time
import snakepit
from snakepit.lifecycle.autopsy import OomWatch

def fork_before(function):
    # What another thread may do at any time.
    def fork_too(*args, **options):
        if not children:
            child = os.fork()
            if child == 0:
                time.sleep(600)
            children.append(child)
        return function(*args, **options)
    return fork_too

children = []
if __name__ == "__main__":
    if "{instant}" == "lifeline opened":
        OomWatch.start = fork_before(OomWatch.start)
    else:
        subprocess.Popen = fork_before(subprocess.Popen)
    executor = snakepit.Executor(2, start_method="{method}")
    executor.wait_ready(60)
    executor.submit(time.sleep, 600)
    print(*children, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("method", "instant"),
    [
        ("template", "lifeline opened"),
        ("spawn", "lifeline opened"),
        ("forkserver", "lifeline opened"),
        ("template", "socket opened"),
    ],
)
def test_a_child_forked_while_the_pool_starts_keeps_nothing_of_it(
    tmp_path: Path, method: str, instant: str
) -> None:
    source = FORKER.replace("{method}", method).replace("{instant}", instant)
    script = start_script(source, tmp_path)
    try:
        child = int(script.read_line())
        script.process.kill()
        script.process.wait(LONG)
        wait_until(lambda: set(script.processes()) == {child}, "all others to end")
    finally:
        script.stop()
        script.finish()


def test_a_child_forked_past_python_does_not_keep_the_template_from_its_end(
    tmp_path: Path,
) -> None:
    """It ends what is left of its workers, as it does when it is told to end."""
    source = """
        import ctypes, os, signal, subprocess, sys
        import snakepit

        def leave_daemon():
            # What nobody can be said to have started: see snakepit.worker.keeper.
            code = (
                "import subprocess; child = subprocess.Popen("
                "['sleep', '600'], start_new_session=True, env={}, "
                "stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
                "print(child.pid)"
            )
            command = [sys.executable, "-c", code]
            return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

        if __name__ == "__main__":
            with snakepit.Executor(1) as executor:
                daemon = executor.submit(leave_daemon).result(60)
                child = ctypes.PyDLL(None).fork()
                if child == 0:
                    signal.pause()
            print(daemon, flush=True)
            sys.stdin.read()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        """
    script = start_script(source, tmp_path, stdin=subprocess.PIPE)
    try:
        daemon = int(script.read_line())
        assert not is_running(daemon)
    finally:
        script.finish(stdin="")
