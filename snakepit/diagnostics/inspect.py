"""Finding the pools that run on this machine, by the descriptors of their control blocks."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from snakepit._core.inspector import Inspector, NotAPoolError
from snakepit.errors import PoolNotFoundError

__all__ = ["FoundPool", "find_pools", "process_state", "select_pools"]

# A memfd, or the unlinked file that stands in for one.
_CONTROL = re.compile(r"^(/memfd:snakepit-control|.*/snakepit-control-[^/]*) \(deleted\)$")


@dataclass
class FoundPool:
    """A pool as it was found: who has its control block open, and under which descriptor."""

    name: str
    owner_pid: int
    holders: dict[int, int] = field(default_factory=dict)  # pid -> descriptor there

    @contextlib.contextmanager
    def open(self, *, writable: bool) -> Iterator[tuple[Inspector, int]]:
        """Open its control block: the reader, and the descriptor. Raises PoolNotFoundError."""
        holders = sorted(self.holders.items(), key=lambda holder: holder[0] != self.owner_pid)
        for pid, number in holders:
            try:
                fd = _open(pid, number, os.O_RDWR if writable else os.O_RDONLY)
            except OSError:
                continue
            try:
                yield Inspector(fd), fd
            finally:
                os.close(fd)
            return
        raise PoolNotFoundError(
            f"pool {self.name!r} of process {self.owner_pid} ended just now",
            details={"name": self.name, "owner_pid": self.owner_pid},
        )


def _open(pid: int, number: int, flags: int) -> int:
    fd = os.open(f"/proc/{pid}/fd/{number}", flags | os.O_CLOEXEC | os.O_NONBLOCK)
    # The number may mean something else by now.
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(f"descriptor {number} of process {pid} changed")


def find_pools() -> tuple[list[FoundPool], list[str]]:
    """Return the pools of this user's processes, and why others that were seen cannot be read."""
    found: dict[tuple[int, int], FoundPool] = {}
    problems: dict[tuple[int, int], str] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            _look_at(int(entry), found, problems)
    # A forked child may still hold what its parent's ended pool left open; without its owner, a
    # block is no pool.
    pools = [pool for pool in found.values() if os.path.exists(f"/proc/{pool.owner_pid}")]
    pools.sort(key=lambda pool: (pool.name, pool.owner_pid))
    return pools, sorted(set(problems.values()))


def _look_at(
    pid: int,
    found: dict[tuple[int, int], FoundPool],
    problems: dict[tuple[int, int], str],
) -> None:
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # another user's, or gone
        return
    for number in numbers:
        try:
            if not _CONTROL.match(os.readlink(f"/proc/{pid}/fd/{number}")):
                continue
            status = os.stat(f"/proc/{pid}/fd/{number}")
            key = (status.st_dev, status.st_ino)
            if key in found:
                found[key].holders.setdefault(pid, int(number))
                continue
            if key in problems:
                continue
            fd = _open(pid, int(number), os.O_RDONLY)
        except OSError:
            continue
        try:
            facts = Inspector(fd).pool()
        except (NotAPoolError, OSError) as error:
            problems[key] = f"a pool that process {pid} uses cannot be read: {error}"
            continue
        finally:
            os.close(fd)
        found[key] = FoundPool(facts["name"], facts["owner_pid"], {pid: int(number)})


def select_pools(which: str | None) -> list[FoundPool]:
    """Return the pools that `which` means: a pid of an owner or a worker, or a name; None: all.

    What could be both is a pid.
    Raises PoolNotFoundError, which says what there is.
    """
    pools, problems = find_pools()
    if which is None:
        chosen = pools
    else:
        chosen = [pool for pool in pools if pool.name == which]
        pid = _as_pid(which)
        if pid is not None:
            chosen = [pool for pool in pools if pid in (pool.owner_pid, *pool.holders)] or chosen
    if chosen:
        return chosen
    raise PoolNotFoundError(
        _why_none(which, pools, problems),
        details={
            "wanted": which,
            "pools": [{"name": pool.name, "owner_pid": pool.owner_pid} for pool in pools],
        },
    )


def _as_pid(which: str) -> int | None:
    # Not isdigit(), to which a superscript is a digit as well; and no number of which int() thinks
    # that it is too long.
    return int(which) if which.isdecimal() and len(which) < 20 else None


def _why_none(which: str | None, pools: list[FoundPool], problems: list[str]) -> str:
    if which is None:
        text = "no pool of worker processes runs here"
    elif (pid := _as_pid(which)) is None:
        text = f"no pool named {which!r} runs here"
    elif not os.path.exists(f"/proc/{pid}"):
        text = f"there is no process {pid}, and no pool of that name"
    elif not os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK):
        text = f"process {pid} is another user's: run this as that user"
    else:
        text = (
            f"process {pid} has no running pool of worker processes "
            "(threads of profile 'local' can be seen from inside alone: Executor.dump())"
        )
    if pools and which is not None:
        text += "; running: " + ", ".join(f"{pool.name!r} of {pool.owner_pid}" for pool in pools)
    return "; ".join([text, *problems])


def process_state(pid: int) -> str | None:
    """Return the kernel's letter for what a process does (R, S, D, T, t, Z), None if gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    return chr(text[text.rindex(b")") + 2])
