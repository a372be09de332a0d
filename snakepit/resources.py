"""What this process may use of the machine, as affinity and control groups limit it."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["memory_limit", "usable_cpus"]

_CGROUP = Path("/sys/fs/cgroup")


def _cgroup_folders() -> list[Path]:
    """The process's control groups (version 2), innermost first; any ancestor's limits bind too."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        number, _, path = line.split(":", 2)
        if number == "0":
            inner = _CGROUP / path.lstrip("/")
            return [folder for folder in (inner, *inner.parents) if folder.is_relative_to(_CGROUP)]
    return []


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1: its affinity, cut by its quota."""
    if hasattr(os, "sched_getaffinity"):
        cpus = float(len(os.sched_getaffinity(0)))
    else:
        cpus = float(os.cpu_count() or 1)
    for folder in _cgroup_folders():
        text = _read(folder / "cpu.max")
        if text and not text.startswith("max"):
            quota, period = text.split()
            cpus = min(cpus, int(quota) / int(period))
    quota_v1 = _read(_CGROUP / "cpu/cpu.cfs_quota_us")
    period_v1 = _read(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota_v1 and period_v1 and int(quota_v1) > 0:
        cpus = min(cpus, int(quota_v1) / int(period_v1))
    return max(1, math.ceil(cpus))


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: the machine's, cut by its groups."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    candidates = [_read(folder / "memory.max") for folder in _cgroup_folders()]
    candidates.append(_read(_CGROUP / "memory/memory.limit_in_bytes"))
    for text in candidates:
        if text and text.isdigit():
            limit = min(limit, int(text))
    return limit
