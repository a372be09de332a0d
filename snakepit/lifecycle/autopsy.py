"""What a worker died of: the facts that outlive it, none of them guessed."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from snakepit._core.memory import create_memory
from snakepit._core.recorder import HEADER, SIZE, TAIL

MOST_LINES = 20  # of stderr
MOST_STACK = 65_536  # bytes
DYING = 1.0  # seconds from the instant at which the kernel counts a victim until it is found dead
FRESH = 5.0  # seconds for which a look says what the counter showed just before a death


@dataclass(frozen=True)
class Autopsy:
    """What a worker died of; `autopsy` of WorkerCrashedError and of others that tell of its end.

    `exit_code`: as in `multiprocessing.Process.exitcode`, None if somebody else collected it.
    `signal`: name of the signal that ended it, or None.
    `phase`: "starting", "idle" or "running".
    `ended_by_pool`: why the pool itself sent that signal ("stop", "shutdown", "found stuck: …" …),
    or None.
    `oom_killed`: whether the kernel's out-of-memory killer did it, None where that is not known;
    `oom_evidence`: the counter that says so. It counts the control group's victims, whoever they
    are, so what tells is that it rose in the seconds before the death; with a `heartbeat_interval`
    of more than 4 seconds, or None, that can only be ruled out.
    `peak_memory`: the most bytes of memory that it ever had, by the kernel, None if not known.
    `last_memory`: the bytes that it had resident when the pool last looked, None if it never did:
    it looks at calls that run for longer than `heartbeat_interval`, and where there is a
    `memory_threshold_mb`.
    `stack`: where the thread that crashed was, newest call first, for the signals SIGSEGV, SIGFPE,
    SIGABRT, SIGBUS and SIGILL; else None.
    `stderr`: the last lines that Python code wrote there, at most 20; `stderr_of` says whose:
    "call": of the call that ran, "worker": of the worker, whatever wrote them. That is so of one
    that ran no call, and of one of several threads, whose lines nobody can tell apart.
    """

    exit_code: int | None = None
    signal: str | None = None
    phase: str = "running"
    ended_by_pool: str | None = None
    oom_killed: bool | None = None
    oom_evidence: str = ""
    peak_memory: int | None = None
    last_memory: int | None = None
    stack: str | None = None
    stderr: tuple[str, ...] = ()
    stderr_of: str = "worker"

    def as_data(self) -> dict[str, Any]:
        """Return the same as a dict of plain values."""
        return {**vars(self), "stderr": list(self.stderr)}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Autopsy:
        """Rebuild what `as_data` gave."""
        return cls(**{**data, "stderr": tuple(data["stderr"])})

    def is_shared(self) -> bool:
        """Whether a call ran and lines of `stderr` may be of others."""
        return self.phase == "running" and self.stderr_of != "call"

    def summary(self) -> str:
        """Return how it ended, as what follows the worker's name in a sentence."""
        if self.exit_code is None:
            how = "ended, how is not known"
        elif self.signal is not None:
            how = f"was killed by {self.signal}"
        else:
            how = f"exited with code {self.exit_code}"
        if self.ended_by_pool:
            how += f" from its own pool ({self.ended_by_pool})"
        elif self.oom_killed:
            how += " from the kernel's out-of-memory killer"
        return how

    def __str__(self) -> str:
        lines = [f"the worker {self.summary()}"]
        if self.peak_memory is not None:
            lines.append(f"most memory it had: {self.peak_memory / 1e6:.0f} MB")
        if self.last_memory is not None:
            lines.append(f"memory when it was last looked at: {self.last_memory / 1e6:.0f} MB")
        if self.signal == "SIGKILL" and not self.ended_by_pool:
            lines.append(f"out-of-memory killer: {self.oom_evidence}")
        if self.stack:
            lines.append(self.stack)
        if self.stderr:
            others = ", also of other calls" if self.is_shared() else ""
            lines.append(f"last lines of its stderr{others}:")
            lines.extend(f"  {line}" for line in self.stderr)
        return "\n".join(lines)


def signal_name(code: int | None) -> str | None:
    """Return the name of the signal that an exit code stands for, or None."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class Recording:
    """The owner's end of a worker's flight recorder (see `snakepit._core.recorder`)."""

    def __init__(self) -> None:
        self.fd = create_memory("recording", SIZE)
        # What faulthandler writes is appended behind the ring: the worker has the same offset.
        os.lseek(self.fd, SIZE, os.SEEK_SET)

    def stderr(self, claimed_ns: int | None = None) -> tuple[str, ...]:
        """Return the last lines that the worker wrote to stderr, whole lines only.

        `claimed_ns`: those alone that it wrote in the call that it claimed then, its last.
        """
        data = os.pread(self.fd, SIZE, 0)
        written, call, begun = struct.unpack_from("=QQQ", data)
        ring = data[HEADER : HEADER + TAIL]
        if claimed_ns is None:
            begun = 0
        elif claimed_ns != call:
            return ()
        if written <= TAIL:
            text = ring[begun:written]
        else:
            start = written % TAIL
            text = ring[start:] + ring[:start]
            lost = written - TAIL
            text = text.partition(b"\n")[2] if begun <= lost else text[begun - lost :]
        return tuple(text.decode("utf-8", "replace").splitlines()[-MOST_LINES:])

    def stack(self) -> str | None:
        """Return what faulthandler wrote, if anything, without its list of extension modules."""
        text = os.pread(self.fd, MOST_STACK, SIZE).decode("utf-8", "replace")
        return text.partition("\n\nExtension modules:")[0].strip() or None

    def close(self) -> None:
        """Give it up; more than once changes nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class OomWatch:
    """Tells by the kernel's own counters whether the out-of-memory killer struck.

    That of our control group, where there is one, counts the victims among us; that of the machine
    can only rule it out. A victim is not named: what makes one of a death is that the counter rose
    between the last look and that death. So somebody has to look every now and then.
    """

    def __init__(self) -> None:
        self._path: str | None = None
        self._ours = True
        self._seen = 0  # victims that are accounted for
        # When the counter was looked at, and what it showed; the first look is the one before
        # `DYING` seconds, for a victim that takes its time to die is counted before it is found.
        self._looks: deque[tuple[float, int]] = deque()

    def start(self) -> None:
        """Remember how many victims there were so far."""
        for path, ours in (
            *((path, True) for path in _group_files()),
            ("/proc/vmstat", False),
        ):
            if _read_count(path) is not None:
                self._path, self._ours = path, ours
                self._looks.clear()
                self.look()
                return

    def look(self) -> int | None:
        """Account for the victims that there were so far; return how many, None if not known."""
        count = None if self._path is None else _read_count(self._path)
        if count is not None:
            now = time.monotonic()
            self._looks.append((now, count))
            while len(self._looks) > 1 and self._looks[1][0] <= now - DYING:
                self._looks.popleft()
        return count

    def verdict(self, killed: bool) -> tuple[bool | None, str]:
        """Say whether a worker that ended just now, by SIGKILL or not, was a victim.

        None where that is not known: nobody has looked for `FRESH` seconds, and the counter has
        risen since.
        """
        if not killed:
            return False, "it ends processes by SIGKILL only"
        count = self.look()
        if count is None:
            return None, "unknown: this system shows no counter of its victims"
        when, before = self._looks[0]
        age = self._looks[-1][0] - when
        self._seen = max(self._seen, before)
        victims = count - self._seen
        evidence = f"{victims} more victims counted in {self._path} in the last {age:.3g} s"
        if victims <= 0:
            return False, evidence
        if not self._ours:
            return None, f"unknown: {evidence}, which counts the whole machine's"
        if age > FRESH:
            return None, f"unknown: {evidence}, at some time since the pool last looked"
        self._seen += 1
        return True, evidence


def _group_files() -> list[str]:
    """Return where this process's control group may count victims: version 2, then version 1."""
    found = []
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, place = "/sys/fs/cgroup", path.strip("/")
        if not controllers:
            names = ("", "unified")
            found += [os.path.join(root, name, place, "memory.events") for name in names]
        elif "memory" in controllers.split(","):
            found.append(os.path.join(root, "memory", place, "memory.oom_control"))
    return found


def _read_count(path: str) -> int | None:
    try:
        with open(path) as file:
            lines = file.read().splitlines()
        for line in lines:
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    except (OSError, ValueError):
        pass
    return None
