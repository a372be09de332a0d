"""What a dump says: plain data, and its text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Frame", "PoolReport", "TaskReport", "WorkerReport"]


@dataclass(frozen=True)
class Frame:
    """One Python frame; `line` is 0 where it is not known."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f'File "{self.file}", line {self.line or "?"}, in {self.function}'


@dataclass(frozen=True)
class TaskReport:
    """A task that runs; times are seconds.

    `function`: its name, None where the function travels with the call. `items`: of a chunk of
    `map`, how many. `age`: since it started. `deadline`: until its deadline, negative once that has
    passed, None without one. `attempt`: which attempt this is, from 1; None where nobody counts.
    `nested`: submitted by another task. `stopping`: it was asked to stop.
    """

    number: int
    function: str | None
    items: int | None
    age: float
    deadline: float | None
    nested: bool = False
    stopping: bool = False
    attempt: int | None = None

    def __str__(self) -> str:
        name = self.function or "a function that travels with its call"
        parts = [f"{name} ({self.items} items)" if self.items is not None else name]
        parts.append(f"for {seconds(self.age)}")
        if self.deadline is None:
            parts.append("no deadline")
        elif self.deadline >= 0:
            parts.append(f"deadline in {seconds(self.deadline)}")
        else:
            parts.append(f"deadline {seconds(-self.deadline)} ago")
        if self.attempt is not None:
            parts.append(f"attempt {self.attempt}")
        if self.nested:
            parts.append("submitted by a task")
        if self.stopping:
            parts.append("asked to stop")
        return ", ".join(parts)


@dataclass(frozen=True)
class WorkerReport:
    """Where one worker is.

    `state`: "starting", "idle", "running", "retiring", "spare" (it waits to replace a worker),
    "stopped" (by SIGSTOP or a debugger) or "dead". `completed`: calls that it has done; None where
    threads do not count them. `stack`: the frames of the task, innermost first, or of what the
    worker does instead.
    `no_stack` says why there is none. `inexact`: the task ran on while its stack was copied.
    """

    worker: int
    pid: int | None
    state: str
    completed: int | None
    task: TaskReport | None = None
    stack: tuple[Frame, ...] = ()
    no_stack: str | None = None
    inexact: bool = False
    thread: str | None = None  # which one, in a pool whose workers are threads or have several

    def lines(self) -> list[str]:
        """Return the text, line by line."""
        where = self.thread if self.thread is not None else f"pid {self.pid or '?'}"
        done = "" if self.completed is None else f", {self.completed} calls done"
        lines = [f"worker {self.worker} ({where}): {self.state}{done}"]
        if self.task is not None:
            lines.append(f"  task {self.task.number}: {self.task}")
        if self.no_stack is not None:
            lines.append(f"    no stack: {self.no_stack}")
        elif self.inexact:
            lines.append("    (the task ran on while its stack was copied)")
        lines.extend(f"    {frame}" for frame in self.stack)
        return lines


@dataclass(frozen=True)
class PoolReport:
    """Where every worker of a pool is; `str()` is the text. `age` and `queued`: seconds, calls."""

    name: str
    owner_pid: int
    profile: str
    age: float | None
    queued: int
    closing: bool
    workers: tuple[WorkerReport, ...] = field(default=())
    threads: int = 1  # of profile "thread": how many in each worker, each with a report of its own

    def _count(self) -> str:
        if self.threads == 1:
            return f"{len(self.workers)} workers"
        workers = len({worker.worker for worker in self.workers})
        return f"{workers} workers of {self.threads} threads"

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain values, such as JSON holds."""
        return asdict(self)

    def __str__(self) -> str:
        running = sum(worker.task is not None for worker in self.workers)
        age = "" if self.age is None else f", {seconds(self.age)} old"
        closing = ", shutting down" if self.closing else ""
        lines = [
            f"pool {self.name!r} of process {self.owner_pid}{age}{closing}: "
            f"{self._count()}, {running} running, {self.queued} queued"
        ]
        for worker in self.workers:
            lines.extend(worker.lines())
        return "\n".join(lines)


def seconds(value: float) -> str:
    """Return a duration as people say it: 0.123 s, 12.3 s, 3 min 20 s, 2 h 5 min."""
    if value < 10:
        return f"{value:.3f} s"
    if value < 60:
        return f"{value:.1f} s"
    whole = int(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
