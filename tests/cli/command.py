"""The real command, run as a user runs it: in the user's directory, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import LONG, ROOT

FUNCTIONS = '''
import os, sys, time
from pathlib import Path

PI = 3.14


def square(text): return int(text) ** 2
def double(value): return value * 2
def same(item): return item
def nothing(item): return None
def length(item): return len(item)
def unescape(item): return item.replace("\\\\n", "\\n").replace("\\\\0", "\\0")
def name_of_worker(item): return os.getpid()
def million(item): return "x" * 1_000_000

def fail(item): raise ValueError(f"no {item}")
def fail_in_two_lines(item): raise ValueError("first\\nsecond")
def leave(item): sys.exit(3)
def no_json(item): return object()
def not_a_number(item): return float("nan")
def lone_surrogate(item): return "\\ud800"

def even(item):
    if int(item) % 2:
        raise ValueError(f"{item} is odd")
    return item

def die_on_three(item):
    if str(item) == "3":
        os._exit(9)
    return item

def die_after_many(item):
    with open(f"ran-{os.getpid()}", "a") as log:
        log.write(f"{item}\\n")
    if item == "900":
        os._exit(9)
    return item

def noisy(item):
    print("from print", flush=True)
    os.system("echo from a child")
    return item

def stuck_on_five(item):
    if item == "5":
        sum(range(10**13))
    return item

def read_stdin(item): return repr(sys.stdin.read())

def wait(item):
    """Items are NAME or NAME GATE: NAME.begun says so, then a file GATE is waited for."""
    name, _, gate = item.partition(" ")
    Path(f"{name}.begun").write_text(str(os.getpid()))
    while gate and not Path(gate).exists():
        time.sleep(0.005)
    return name


class Group:
    @staticmethod
    def shout(item): return item.upper()
'''


class Command:
    """The command in a directory that has ``functions.py``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "functions.py").write_text(FUNCTIONS)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        self.environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start it in a session of its own; its streams are unbuffered pipes unless given."""
        for stream in ("stdin", "stdout", "stderr"):
            popen.setdefault(stream, subprocess.PIPE)
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "snakepit", *arguments],
            bufsize=0,
            cwd=self.directory,
            env=self.environment,
            start_new_session=True,
            **popen,
        )
        self._started.append(process)
        return process

    def start_map(self, *arguments: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start ``snakepit map`` with two workers."""
        return self.start("map", "--workers", "2", *arguments, **popen)

    def run(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run it to its end."""
        return ended(self.start(*arguments), stdin)

    def map(self, *arguments: str, stdin: bytes = b"") -> Ended:
        """Run ``snakepit map`` with two workers to its end."""
        return ended(self.start_map(*arguments), stdin)

    def path(self, name: str) -> Path:
        """A file of the directory."""
        return self.directory / name

    def end(self) -> None:
        """Kill what has not ended, and close the streams."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


class Ended:
    """How the command ended: its exit code, and its output and error text as bytes and lines."""

    def __init__(self, code: int, output: bytes, errors: bytes) -> None:
        self.code = code
        self.output = output
        self.errors = errors.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines of the output."""
        return self.output.decode(errors="surrogateescape").splitlines()

    @property
    def error_lines(self) -> list[str]:
        """The lines of the error text."""
        return self.errors.splitlines()

    def __repr__(self) -> str:
        return f"<exit code {self.code}, output {self.output[:500]!r}, errors {self.errors}>"


def ended(process: subprocess.Popen[bytes], stdin: bytes = b"") -> Ended:
    """Give the process its input and wait for its end."""
    try:
        output, errors = process.communicate(stdin, timeout=LONG)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{process.args!r} has not ended after {LONG:g} s")
    return Ended(process.returncode, output or b"", errors or b"")


def read_line(process: subprocess.Popen[bytes]) -> str:
    """The next line of the process's output; fails when there is none."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.endswith(b"\n"):
        pytest.fail(f"the output ended with {line!r}")
    return line[:-1].decode()


def write(process: subprocess.Popen[bytes], text: str) -> None:
    """Write to the process's input."""
    assert process.stdin is not None
    process.stdin.write(text.encode())
