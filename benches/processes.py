"""Finds and ends what a measured pool may leave behind."""

import os
import signal
import time
from pathlib import Path

import psutil

# The environment variable that marks a question's process and all that descend from it.
MARK = "BENCHES_RUN"


def descendants() -> list[psutil.Process]:
    """Return the children of this process, and theirs."""
    return psutil.Process().children(recursive=True)


def pss_of_descendants() -> int:
    """Return the bytes of memory that this process and its descendants take together.

    Proportional shares: what several of them map counts once.
    """
    total = 0
    for process in (psutil.Process(), *descendants()):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def kill_descendants() -> None:
    """Kill the children of this process, and theirs: after an error a pool may never close."""
    for process in descendants():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def end_marked(mark: str, grace: float) -> list[str]:
    """Kill what still carries the question's mark after `grace` seconds; return its command lines.

    The mark is an environment variable, which also those inherit that left the process group or
    lost their parent.
    """
    deadline = time.monotonic() + grace
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return list(left.values())


def _marked(mark: str) -> dict[int, str]:
    """Return the command lines of the processes that carry the mark, by pid."""
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()[:120]
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            continue
    return found
