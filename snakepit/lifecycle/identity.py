"""Which process is which: a pid is given out again, a pid with its start time is not.

Workers load this when they start.
"""

from __future__ import annotations

import functools
import os
import sys

__all__ = ["parent_of", "process_alive", "process_state", "start_time"]

_LINUX = sys.platform == "linux"


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since the boot; None if that is not known.

    It never changes while the process lives, whatever is done to the clock, and together with the
    boot and the pid namespace (`lifecycle.place`) it names the process for ever.
    """
    fields = _stat(pid)
    if fields is not None:
        return int(fields[19])
    if _LINUX:
        return None
    import psutil

    try:
        return int(psutil.Process(pid).create_time() * 100)
    except psutil.Error:
        return None


def parent_of(pid: int | str) -> int | None:
    """Return the pid of a process's parent; None if that is not known, or it is no process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[1])


@functools.cache
def _proc_is_ours() -> bool:
    """Whether /proc is there and shows the pid namespace that this process lives in."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_proc_is_ours.cache_clear)


def _stat(pid: int | str) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state, on."""
    if not _proc_is_ours():
        return None
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 19 else None


def process_alive(pid: int, start: int | None = None) -> bool:
    """Whether a process runs, zombies excluded.

    `start`: its `start_time`; then a process that got the same pid later does not count. A pid that
    exists, but whose start time cannot be read, counts as alive: nothing is decided on doubt.
    """
    if pid <= 0:
        return False
    fields = _stat(pid)
    if fields is not None:
        if fields[0] in "ZX":
            return False
        return start is None or int(fields[19]) == start
    import psutil

    if _LINUX:
        return bool(psutil.pid_exists(pid))
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def process_state(pid: int) -> str:
    """Return the letter that the kernel gives the state of a process, "" if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b") ")[2][0])
    except (OSError, IndexError):
        return ""
