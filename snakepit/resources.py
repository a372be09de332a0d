"""What this process may use of the machine, as affinity and control groups limit it."""

from __future__ import annotations

import math
import os
import re

__all__ = ["memory_limit", "usable_cpus"]

_PROC = "/proc/self"


def _group_folders(controller: str) -> list[str]:
    """The folders of the process's control groups that may limit what `controller` governs.

    Innermost first: the limits of every ancestor bind too. Version 2's one hierarchy and, where
    there is one, version 1's for that controller; what a container does not see, it cannot read.
    """
    groups: dict[str, str] = {}
    for line in (_read(f"{_PROC}/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if number == "0" and not names:
            groups["2"] = place
        elif controller in names.split(","):
            groups["1"] = place
    found: list[str] = []
    for line in (_read(f"{_PROC}/mountinfo") or "").splitlines():
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(), system.split()
        if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        if kind[0] == "cgroup" and controller not in kind[-1].split(","):
            continue
        path = groups.get("2" if kind[0] == "cgroup2" else "1")
        if path is not None:
            found += _folders_of(path, _unescaped(fields[3]), _unescaped(fields[4]))
    return found


def _folders_of(path: str, root: str, mounted: str) -> list[str]:
    """Where group `path` and its ancestors lie, if group `root` is mounted at `mounted`."""
    inner = os.path.relpath(path, root)
    if inner.startswith(".."):
        # Mounted is another part of the tree than ours: as in a container that shares the host's
        # /proc view but not its mounts. What is mounted is then the nearest that can be known.
        inner = "."
    found = [mounted]
    for name in os.path.normpath(inner).split("/"):
        if name != ".":
            found.append(os.path.join(found[-1], name))
    return found[::-1]


def _unescaped(text: str) -> str:
    """A path of mountinfo: the kernel writes blanks and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _quota(folder: str) -> float | None:
    """The CPUs that a group's quota is worth, None without one."""
    text = _read(f"{folder}/cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
    else:
        quota = _read(f"{folder}/cpu.cfs_quota_us") or ""
        period = _read(f"{folder}/cpu.cfs_period_us") or ""
    # "max" and -1 are no quota.
    if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
        return int(quota) / int(period)
    return None


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least 1.

    Its affinity, cut by the quotas of its control groups (versions 1 and 2) and of all groups
    around them; a part of a CPU counts as one.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus = float(len(os.sched_getaffinity(0)))
    else:
        cpus = float(os.cpu_count() or 1)
    quotas = [_quota(folder) for folder in _group_folders("cpu")]
    return max(1, math.ceil(min([cpus, *(quota for quota in quotas if quota is not None)])))


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: the machine's, cut by its groups."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _group_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(f"{folder}/{name}")
            if text and text.isdigit():
                limit = min(limit, int(text))
    return limit
