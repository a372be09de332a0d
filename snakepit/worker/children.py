"""Ending the processes that a task has started, when it was stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator

from snakepit.lifecycle.identity import parent_of, start_time

PATIENCE = 0.2  # seconds that killed children together have to be gone
ROUNDS = 3  # a child may fork while it is being killed

_kept: frozenset[int] = frozenset()


def keep_those_so_far() -> None:
    """Never end the children that the worker has now: its initializer's, not a task's."""
    global _kept
    _kept = frozenset(children_of(os.getpid()))


def end_those_since(claimed_ns: int, *, of_process: bool = True) -> None:
    """Kill the children that were started since a monotonic time, with all that they started.

    `of_process`: all of this process's; False: those that the calling thread has started.
    The kernel tells when a process started to a hundredth of a second, in the time since boot.
    """
    age = time.monotonic_ns() - claimed_ns
    tick = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - age) * os.sysconf("SC_CLK_TCK") // 10**9
    for _ in range(ROUNDS):
        spared = _kept | set(_helpers())
        pids = children_of(os.getpid()) if of_process else children_of_thread()
        found = [
            (pid, start) for pid, start in with_start(pids) if pid not in spared and start >= tick
        ]
        if not found:
            return
        families = {child: with_start(descendants(child[0])) for child in found}
        deadline = time.monotonic() + PATIENCE
        for (pid, start), family in families.items():
            end_process(pid, start, wait_until=deadline)
            for other, other_start in family:
                end_process(other, other_start)


def _helpers() -> Iterator[int]:
    """Processes that multiprocessing starts once and keeps, whichever task came first."""
    for name, holder, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        module = sys.modules.get(name)
        pid = getattr(getattr(module, holder, None), attribute, None)
        if pid is not None:
            yield pid


def end_process(pid: int, start: int, wait_until: float | None = None) -> None:
    """Kill a process; `wait_until` a monotonic time, if given, for it to be gone, and reap it.

    `start`: its start time, by `with_start`. Whoever started at another has got its number since,
    and is spared.
    """
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return
    try:
        # Not before: from here on the number of who is held cannot pass to another.
        if start_time(pid) != start:
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        if wait_until is not None:
            poller = select.poll()
            poller.register(handle, select.POLLIN)
            poller.poll(max(0.0, wait_until - time.monotonic()) * 1000)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(handle)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process, and those it started, have started, parents first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = children_of(waiting.pop())
        found.extend(children)
        waiting.extend(children)
    return found


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies included; none where /proc does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        if not _kernel_lists_children():
            return [int(each) for each in os.listdir("/proc") if parent_of(each) == pid]
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/children", "rb") as file,
            ):
                found.extend(map(int, file.read().split()))
    return found


@functools.cache
def _kernel_lists_children() -> bool:
    """Whether this kernel was built so that it tells of children; gVisor's does not, either."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def children_of_thread() -> list[int]:
    """Return the children that the calling thread has started; the kernel knows."""
    with (
        contextlib.suppress(OSError),
        open(f"/proc/self/task/{threading.get_native_id()}/children", "rb") as file,
    ):
        return [int(pid) for pid in file.read().split()]
    return []


def with_start(pids: list[int]) -> list[tuple[int, int]]:
    """Return each of these processes that is still there, with its start time in clock ticks."""
    return [(pid, start) for pid in pids if (start := start_time(pid)) is not None]
