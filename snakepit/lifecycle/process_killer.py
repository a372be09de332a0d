"""Looking at processes and ending them, never the wrong ones.

A pid alone names nobody: it is given out again. So who is to be ended is named by pid *and* start
time, and is signalled through a descriptor (pidfd) that is opened before the start time is
compared: between the look and the signal, the pid cannot pass to somebody else. Where the start
time cannot be read (no /proc, or one that hides the process), nothing is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import psutil

from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.identity import process_alive, start_time

__all__ = [
    "environment_of",
    "get_process_command",
    "group_members",
    "kill_by_run_id",
    "kill_marked",
    "kill_process",
    "kill_process_group",
    "kill_with_escalation",
    "process_alive",
    "start_time",
]

ROUNDS = 8
POLL = 0.01  # seconds between two looks at processes that were told to end


def get_process_command(pid: int) -> list[str]:
    """Return a process's command line; empty if it is gone, a zombie, or not ours to read."""
    try:
        return list(psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return []


def environment_of(pid: int, name: str) -> str | None:
    """Return a variable of the environment that a process was executed with, or None."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    prefix = os.fsencode(name) + b"="
    for entry in entries:
        if entry.startswith(prefix):
            return os.fsdecode(entry[len(prefix) :])
    return None


def group_members(pgid: int) -> list[int]:
    """Return the pids of the living members of a process group."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == pgid and process_alive(pid):
                members.append(pid)
    return members


# -- ending ----------------------------------------------------------------------------------------


def kill_process(pid: int, sig: int = signal.SIGKILL, *, start: int | None = None) -> bool:
    """Send a signal to a process; False if it is gone or not ours to signal.

    `start`: its `start_time`; a process that started at another time is a stranger and is spared.
    Never signals this process, process 1 or process groups.
    """
    if pid <= 1 or pid == os.getpid():
        return False
    if not hasattr(os, "pidfd_open"):
        # A gap between the look and the signal remains where there are no pidfds.
        if start is not None and start_time(pid) != start:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)
            return True
        return False
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if start is not None and start_time(pid) != start:
            return False
        signal.pidfd_send_signal(pidfd, sig)
        return True
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(pidfd)


def kill_process_group(
    pgid: int, sig: int = signal.SIGKILL, *, not_before: int | None = None
) -> list[int]:
    """Send a signal to every member of a process group; return the pids that it was sent to.

    `not_before`: the `start_time` of the group's leader. Members that started earlier cannot be of
    that group, whose number was given out again. Never signals the caller's own group.
    """
    if pgid <= 1 or pgid == os.getpgrp():
        return []
    sent = []
    for pid in group_members(pgid):
        start = start_time(pid)
        if start is None or (not_before is not None and start < not_before):
            continue
        if kill_process(pid, sig, start=start):
            sent.append(pid)
    return sent


def kill_by_run_id(run_id: str, *, not_before: int = 0, timeout: float = 1.0) -> list[int]:
    """End every process of a run, SIGTERM then SIGKILL; return the pids that were ended.

    Of the run is whose command line or environment carries its id and who started at
    `not_before` (a `start_time`) or later. The caller and its ancestors are spared. Raises
    ValueError for what is not a run id.
    """
    if not run_ids.valid(run_id):
        raise ValueError(f"{run_id!r} is not a run id: 7 characters, digits and lower-case letters")
    found = list(processes_of_runs({run_id: not_before}))
    end_all([(pid, start) for pid, start, _ in found], timeout)
    return [pid for pid, _, _ in found]


def kill_marked(name: str, value: str, *, not_before: int) -> list[int]:
    """Kill whoever was executed with `name=value` in its environment; return the pids.

    Only processes of this user, that started at `not_before` (a `start_time`) or later. Looks again
    until nobody is found, `ROUNDS` times at most: one may fork while it is being killed.
    """
    killed: dict[int, int] = {}
    for _ in range(ROUNDS):
        found = False
        for pid in psutil.pids():
            start = start_time(pid)
            if start is None or start < not_before or killed.get(pid) == start:
                continue
            if not _may_end(pid) or environment_of(pid, name) != value:
                continue
            if kill_process(pid, start=start):
                killed[pid] = start
                found = True
        if not found:
            break
    return list(killed)


def _may_end(pid: int) -> bool:
    """Whether a process exists and is this user's, who may be root."""
    user = os.geteuid()
    try:
        return user == 0 or os.stat(f"/proc/{pid}").st_uid == user
    except OSError:
        return False


def processes_of_runs(runs: dict[str, int]) -> Iterator[tuple[int, int, str]]:
    """Yield pid, start time and run id of each process that carries the id of one of `runs`.

    `runs`: run ids, each with the start time before which nothing can be of that run.
    """
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for pid in psutil.pids():
        if pid in spared:
            continue
        start = start_time(pid)
        if start is None or not _may_end(pid):
            continue
        run = run_ids.extract_from_command(get_process_command(pid))
        if run not in runs:
            run = environment_of(pid, run_ids.ENVIRONMENT)
        # Looked at again: what was read must be of the process that started then.
        if run is not None and run in runs and start >= runs[run] and process_alive(pid, start):
            yield pid, start, run


def kill_with_escalation(pid: int, timeout: float = 1.0, *, start: int | None = None) -> bool:
    """End a process: SIGTERM, and SIGKILL if it still runs after `timeout` seconds.

    Returns whether it is gone. `start` as for `kill_process`.
    """
    begun = start_time(pid) if start is None else start
    if begun is None:
        return not process_alive(pid)
    return not end_all([(pid, begun)], timeout)


def end_all(processes: Iterable[tuple[int, int]], timeout: float) -> list[tuple[int, int]]:
    """End processes, given by pid and start time: SIGTERM, after `timeout` seconds SIGKILL.

    Returns those that are still there a second after that.
    """
    left = list(processes)
    for sig, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 1.0)):
        for pid, start in left:
            kill_process(pid, sig, start=start)
            if sig == signal.SIGTERM:
                # What is stopped would otherwise not see it.
                kill_process(pid, signal.SIGCONT, start=start)
        left = _await(lambda pid, start: not process_alive(pid, start), left, patience)
        if not left:
            break
    return left


def _await(
    over: Callable[[int, int], bool], processes: list[tuple[int, int]], timeout: float
) -> list[tuple[int, int]]:
    deadline = time.monotonic() + timeout
    while left := [pair for pair in processes if not over(*pair)]:
        if time.monotonic() >= deadline:
            return left
        time.sleep(POLL)
    return []
