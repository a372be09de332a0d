"""Helpers of the tests: waiting, signalling, reading the process table, and running scripts."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import snakepit
from snakepit._core.interrupts import interrupt_owed
from snakepit.errors import StreamReadError
from snakepit.resources import usable_cpus

LONG = 60.0
"""Seconds after which a wait counts as a hang; nothing is expected to take that long."""

ROOT = Path(snakepit.__file__).resolve().parent.parent
"""The directory from which this run imports the package."""

RUN_VARIABLE = "SNAKEPIT_TEST_RUN"
SCRIPT_VARIABLE = "SNAKEPIT_TEST_SCRIPT"

KINDS: dict[str, dict[str, Any]] = {
    "template": {"start_method": "template"},
    "fork": {"start_method": "fork"},
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "thread": {"profile": "thread"},
    "local": {"profile": "local"},
}
"""What to pass to `Executor` for each kind of executor."""


def is_over(stream: snakepit.Stream[Any]) -> bool:
    """Whether a stream gives no chunk any more, and says so to a loop that begins."""
    nothing = object()
    if next(stream, nothing) is not nothing:
        return False
    with pytest.raises(StreamReadError, match=r"has ended.*call stream\(\) again"):
        iter(stream)
    return True


def need(package: str, reason: str) -> Any:
    """Import what the extra `test` installs; a test skips without it, but fails where CI is set.

    All that is installed there has wheels for each of its interpreters, or is plain Python.
    """
    if os.environ.get("CI"):
        return importlib.import_module(package)
    return pytest.importorskip(package, reason=reason)


def wait_until(condition: Callable[[], Any], what: str = "", timeout: float = LONG) -> Any:
    """Poll `condition` until it is true and return what it gave; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s for {what or condition!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return value


def wait_for_interrupt_in(function: Any, taken: threading.Event) -> None:
    """Have this thread wait for its interrupt when `function` has just taken a condition's lock.

    Sets `taken` there. An interrupt that the lock holds off is waited for no longer. Not by a
    profile function: Python 3.11 can loop for ever in a frame that one is set under.
    """
    pause = threading.Event()
    thread = threading.get_ident()
    original: Any = threading.Condition.__enter__

    def enter(condition: threading.Condition) -> Any:
        entered = original(condition)
        caller = sys._getframe(1)
        if threading.get_ident() == thread and caller.f_code is function.__code__:
            threading.Condition.__enter__ = original  # type: ignore[method-assign]
            taken.set()
            while not interrupt_owed():
                pause.wait(0.001)
        return entered

    threading.Condition.__enter__ = enter  # type: ignore[method-assign]


def results(futures: Iterable[Future[Any]], timeout: float = LONG) -> list[Any]:
    """Return the results of `futures` in their order, each waited for at most `timeout` s."""
    return [future.result(timeout) for future in futures]


def new_executor(kind: str, max_workers: int | None = 2, **options: Any) -> snakepit.Executor:
    """Make an executor of `kind` that no fixture holds: the test ends it itself.

    It runs `max_workers` calls at once. Of kind "thread", it does so on the threads of one worker.
    """
    options = {**KINDS[kind], **options}
    if kind == "thread" and "threads_per_worker" not in options:
        options["threads_per_worker"], max_workers = max_workers or usable_cpus(), 1
    return snakepit.Executor(max_workers, **options)


# The process table


def marked_processes(variable: str, value: str) -> dict[int, psutil.Process]:
    """Return the living processes that were started with `variable=value`, without this one."""
    mark = f"{variable}={value}".encode()
    return as_processes(pid for pid in all_pids() if is_marked(pid, mark) and pid != os.getpid())


def own_processes() -> dict[int, psutil.Process]:
    """Return what this test run started and still exists, reparented orphans included."""
    return as_processes(own_pids())


def own_pids() -> set[int]:
    """Return the pids of what this test run started, whether it runs or is a zombie.

    Every test asks several times, and psutil takes three times as long to answer.
    """
    mark = own_mark()
    own = {os.getpid()}
    parents: dict[int, int] = {}
    for pid in all_pids():
        # The name, in parentheses, may hold anything; the state and the parent follow it.
        fields = read_file(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        if fields:
            parents[pid] = int(fields[1])
        if is_marked(pid, mark):
            own.add(pid)
    # A zombie has no environment, and a child may have been given another.
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return own - {os.getpid()}


def own_mark() -> bytes:
    """Return what is in the environment of every process that this test run started."""
    return f"{RUN_VARIABLE}={os.environ[RUN_VARIABLE]}".encode()


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_marked(pid: int, mark: bytes) -> bool:
    return mark in read_file(f"/proc/{pid}/environ").split(b"\0")


def read_file(path: str) -> bytes:
    """Return what a file of /proc says at the moment; nothing if its process is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        content = os.read(descriptor, 1 << 17)
    except OSError:
        content = b""
    os.close(descriptor)
    return content


def as_processes(pids: Iterable[int]) -> dict[int, psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            found[pid] = psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def send_signal(pid: int, number: int = signal.SIGKILL) -> bool:
    """Signal `pid` if it is a process of this run; False if it is gone or a stranger's.

    A descriptor pins the process between the look and the signal, so that a pid which
    the kernel gave to somebody else meanwhile is never hit.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The others are not looked at: while a thread computes, each of hundreds of system calls
        # may cost the time until it lets go of the GIL.
        if not is_marked(pid, own_mark()):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """Whether `pid` exists and is more than a zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# Scripts


@dataclass
class Outcome:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.stdout.splitlines()


@dataclass
class Script:
    """A Python program in a process and session of its own; `stop` ends all it started."""

    process: subprocess.Popen[str]
    mark: str = field(repr=False)

    def processes(self) -> dict[int, psutil.Process]:
        """Return the living processes of the script, itself included."""
        return marked_processes(SCRIPT_VARIABLE, self.mark)

    def helpers(self) -> dict[int, psutil.Process]:
        """Return what the script started: templates, workers, trackers."""
        found = self.processes()
        found.pop(self.process.pid, None)
        return found

    def read_line(self) -> str:
        """Return the next line of standard output; fail if the script ends before."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate(timeout=LONG)
            pytest.fail(f"the script ended with {self.process.returncode}:\n{errors}")
        return line.rstrip("\n")

    def finish(self, timeout: float = LONG, stdin: str | None = None) -> Outcome:
        """Wait for the end and for every holder of its output, then return the outcome."""
        try:
            stdout, stderr = self.process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            state = self.process.poll()
            left = {pid: describe(process) for pid, process in self.processes().items()}
            self.stop()
            stdout, stderr = self.process.communicate(timeout=LONG)
            pytest.fail(
                f"the script (exit status {state}) or its output was open after {timeout:g} s; "
                f"processes: {left}\n--- stdout\n{stdout[-4000:]}\n--- stderr\n{stderr[-4000:]}"
            )
        return Outcome(self.process.returncode, stdout, stderr)

    def expect_nothing_left(self, timeout: float = 10.0) -> None:
        """Fail unless every process of the script is gone after at most `timeout` s."""
        deadline = time.monotonic() + timeout
        while (left := self.processes()) and time.monotonic() < deadline:
            psutil.wait_procs(list(left.values()), timeout=0.1)
        if left:
            lines = [describe(process) for process in left.values()]
            self.stop()
            pytest.fail("the script left behind: " + "; ".join(lines))

    def stop(self) -> None:
        """Kill whatever of the script is still there."""
        for process in self.processes().values():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def describe(process: psutil.Process) -> str:
    """Return one line about a process, whatever its state."""
    try:
        with process.oneshot():
            command = " ".join(process.cmdline())[-160:]
            return f"pid {process.pid} ({process.status()}, parent {process.ppid()}): {command}"
    except psutil.Error as error:
        return f"pid {process.pid} ({type(error).__name__})"


def script_environment(mark: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a script: this one, the package's place, and the marks.

    A script's streams are buffered, as its users' are, whatever the environment of the tests says.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, SCRIPT_VARIABLE: mark}
    environment.pop("PYTHONUNBUFFERED", None)
    return environment | (extra or {})


def start_script(
    source: str | None,
    directory: Path,
    *,
    name: str = "script.py",
    command: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    env: dict[str, str] | None = None,
    **popen: Any,
) -> Script:
    """Start `source` as a file of `directory`, or `command` as arguments of the interpreter."""
    if source is not None:
        path = directory / name
        path.write_text(textwrap.dedent(source))
        if command is None:
            command = [str(path)]
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, *flags, *(command or ())],
        cwd=directory,
        env=script_environment(mark, env),
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **popen,
    )
    return Script(process, mark)


def run_script(source: str, directory: Path, **options: Any) -> Outcome:
    """Run `source` to its end and return the outcome; fail if it hangs or leaves a process."""
    timeout = options.pop("timeout", LONG)
    script = start_script(source, directory, **options)
    outcome = script.finish(timeout)
    script.expect_nothing_left()
    return outcome


def run_clean(source: str, directory: Path, **options: Any) -> list[str]:
    """Run `source`, expect exit status 0 and a silent stderr, and return the lines it printed."""
    outcome = run_script(source, directory, **options)
    assert (outcome.returncode, outcome.stderr) == (0, ""), outcome
    return outcome.lines


def expect_nothing_held(engine: Any) -> None:
    """Wait until every slot of a pool of processes is free and no call waits anywhere."""
    scheduler = engine.scheduler

    def is_empty() -> bool:
        counts = scheduler.counts()
        waiting = scheduler.bindings.length + scheduler.bindings.n_doomed
        return (counts["free_slots"], counts["queued"], scheduler.unsettled, waiting) == (
            counts["slots"], 0, 0, 0
        )  # fmt: skip

    wait_until(is_empty, "an empty scheduler")
