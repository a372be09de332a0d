"""What the process of a soak, its templates and everything that it started hold at one moment."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "SNAKEPIT_FAULTS_RUN"
GONE_WITHIN = 1.0  # seconds after the end of its pools, in which the last process is gone


def mark_children() -> str:
    """Mark whatever this process starts from now on, by its environment; returns the mark."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    return mark


def marked() -> list[int]:
    """Return the living processes with this process's mark, whoever is their parent by now."""
    mark = os.environ[MARK].encode()
    found = []
    for pid in psutil.pids():
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def wait_until_gone(before: Holdings) -> list[int]:
    """Wait until no other process is left than `before`; returns those that do not go in time."""
    end = time.monotonic() + GONE_WITHIN
    while (left := [pid for pid in marked() if pid not in before.processes]) and (
        time.monotonic() < end
    ):
        time.sleep(0.01)
    return left


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


def used_memory() -> int:
    """Return the bytes that this process has allocated and not freed, by the allocators' own count.

    What is resident says less: the blocks that glibc keeps for itself make it swing by a quarter.
    """
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    used = libc.mallinfo2()
    # The allocator of small Python objects counts blocks; they have 70 bytes or so.
    return int(used.uordblks + used.hblkhd + 70 * sys.getallocatedblocks())


def resident_memory(pid: int | str = "self") -> int:
    """Return the bytes of a process's resident memory that no file, and no arena, holds.

    What a template shares with the workers that it forked counts in full: without it, its memory
    would seem to shrink with each fork, and to grow with each death.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say how much anonymous memory there is")


def descriptors() -> dict[str, str]:
    """Return what this process has open, by number."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the folder itself
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


@dataclass(frozen=True)
class Holdings:
    """What this process holds, and what was started by it."""

    processes: list[int]
    descriptors: dict[str, str]
    threads: int
    segments: int
    memory: int  # bytes allocated
    resident: int
    templates: dict[str, int]  # bytes resident, by pool

    def summary(self) -> str:
        """Return it in a line."""
        return (
            f"{len(self.processes)} processes, {len(self.descriptors)} descriptors, "
            f"{self.threads} threads, {self.segments} segments"
        )

    @classmethod
    def now(cls, templates: Mapping[str, int]) -> Holdings:
        """Look at this process, and at the templates with these pids."""
        from snakepit.pool.memory import arena

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        usage = arena().usage()
        return cls(
            marked(), descriptors(), threading.active_count(),
            usage["held"] + usage["shared"], used_memory(), resident_memory(),
            {name: resident_memory(pid) for name, pid in templates.items()},
        )  # fmt: skip


def growth_of(middle: Holdings, end: Holdings) -> Iterator[tuple[str, int, int]]:
    """Give name, bytes in the middle and bytes at the end of each memory that may not grow."""
    yield "the owner", middle.memory, end.memory
    for name, size in end.templates.items():
        yield f"the template of {name!r}", middle.templates[name], size


def leaks(before: Holdings, after: Holdings, left: list[int]) -> Iterator[str]:
    """Give what is held after the pools' end beyond what was held before; `left`: processes."""
    if left:
        yield f"{len(left)} processes: {[name_of(pid) for pid in left]}"
    if after.threads > before.threads:
        yield f"threads: {[thread.name for thread in threading.enumerate()]}"
    if len(after.descriptors) > len(before.descriptors):
        yield f"descriptors: {sorted(after.descriptors.items() - before.descriptors.items())}"
    if after.segments > before.segments:
        yield f"{after.segments - before.segments} segments"


def name_of(pid: int) -> str:
    """Return the command line of a process, as far as it can be told."""
    try:
        return " ".join(psutil.Process(pid).cmdline())[:100]
    except psutil.Error:
        return str(pid)
