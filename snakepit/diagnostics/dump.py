"""Where every worker of a pool is: reading it from the control block, and asking for the stacks."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from snakepit._core import stacks
from snakepit._core.inspector import Inspector
from snakepit.diagnostics.inspect import process_state, select_pools
from snakepit.diagnostics.report import Frame, PoolReport, TaskReport, WorkerReport

if TYPE_CHECKING:
    from snakepit._core.control import Control
    from snakepit.pool.local import LocalPool
    from snakepit.pool.pool import ProcessPool

__all__ = ["dump_pool", "dump_process", "parse_stack"]

STACK_PATIENCE = 2.0  # seconds that all workers together may take to show their stacks
_GLANCE = 0.05  # seconds between two looks whether a worker that does not answer still runs
_OUTERMOST = ("worker_main", "Crew._serve")
_WORKER_FOLDER = os.path.join("snakepit", "worker", "")


def dump_pool(
    pool: ProcessPool | LocalPool, *, stacks: bool = True, timeout: float = STACK_PATIENCE
) -> PoolReport:
    """Return where the workers of a pool of this process are (see `Executor.dump`)."""
    from snakepit.pool.local import LocalPool

    if isinstance(pool, LocalPool):
        return _dump_threads(pool, stacks)
    control: Control = pool.scheduler.control
    return _dump_block(Inspector(control), stacks, timeout)


def dump_process(
    which: str | None = None, *, stacks: bool = True, timeout: float = STACK_PATIENCE
) -> list[PoolReport]:
    """Return where the workers of other processes' pools are.

    `which`: the pid of an owner or worker, or a pool's name; None: every pool of this user.
    `stacks`: with Python stacks, for which workers have `timeout` seconds in all. The pools'
    processes need not do anything for it, and may be stuck or stopped. Raises PoolNotFoundError.
    """
    reports = []
    for found in select_pools(which):
        with found.open(writable=stacks) as (inspector, fd):
            if stacks:
                inspector.open_stacks(fd)
            reports.append(_dump_block(inspector, stacks, timeout))
    return reports


def _dump_block(inspector: Inspector, with_stacks: bool, timeout: float) -> PoolReport:
    facts = inspector.pool()
    threads = facts["threads"]
    until = time.monotonic() + timeout
    # All are asked before the first answer is waited for.
    asked = {}
    if with_stacks:
        for lane in range(inspector.n_lanes):
            seen = inspector.lane(lane)
            if seen is not None and _is_up(seen["pid"]):
                asked[lane] = inspector.ask_stack(lane)
    workers = []
    for lane in range(inspector.n_lanes):
        seen = inspector.lane(lane)
        if seen is not None:
            report = _worker(inspector, seen, asked.get(lane, 0), with_stacks, until)
            if threads > 1:
                report = replace(
                    report,
                    worker=lane - lane % threads,
                    thread=f"pid {report.pid or '?'}, thread {lane % threads + 1} of {threads}",
                )
            workers.append(report)
    return PoolReport(
        name=facts["name"],
        owner_pid=facts["owner_pid"],
        profile="process" if threads == 1 else "thread",
        age=facts["age"],
        queued=facts["queued"],
        closing=facts["closing"],
        workers=tuple(workers),
        threads=threads,
    )


def _is_up(pid: int | None) -> bool:
    return pid is not None and process_state(pid) not in (None, "T", "t", "Z", "X")


def _worker(
    inspector: Inspector, seen: dict[str, Any], number: int, with_stacks: bool, until: float
) -> WorkerReport:
    answer = _stack_of(inspector, seen, number, until) if number else None
    if answer is not None:
        seen, flags, frames = answer
    task = TaskReport(**seen["task"]) if seen["task"] is not None else None
    pid = seen["pid"]
    kernel = process_state(pid) if pid is not None else "?"
    state = seen["state"]
    why: str | None = None
    if kernel in (None, "Z", "X"):
        state, why = "dead", "the worker is dead; its pool replaces it"
    elif kernel in ("T", "t"):
        state, why = (
            "stopped",
            "the worker is stopped (SIGSTOP or a debugger); SIGCONT continues it",
        )
    elif answer is None:
        why = _why_silent(kernel, number)
    elif not frames and task is not None:
        why = _why_empty(flags)
    has_stack = with_stacks and why is None and answer is not None
    return WorkerReport(
        worker=seen["worker"],
        pid=pid,
        state=state,
        completed=seen["completed"],
        task=task,
        stack=frames if has_stack and answer is not None else (),
        no_stack=why if with_stacks else None,
        inexact=bool(has_stack and answer is not None and flags & stacks.MOVED),
    )


def _stack_of(
    inspector: Inspector, seen: dict[str, Any], number: int, until: float
) -> tuple[dict[str, Any], int, tuple[Frame, ...]] | None:
    """Return (what the worker does, flags, its frames), where the frames are of that very task.

    A worker that goes from task to task faster than that is shown as it was seen last.
    """
    lane = seen["worker"]
    for _ in range(20):
        answer = _await_stack(inspector, lane, seen["pid"], number, until)
        if answer is None:
            return None
        now = inspector.lane(lane)
        if now is None:
            return None
        flags, text = answer
        if _same(now, seen):
            return now, flags, user_frames(parse_stack(text))
        seen = now
        number = inspector.ask_stack(lane)
        if not number:
            return None
    # Between two tasks that are this short there is nothing that anybody could be stuck in.
    return {**seen, "task": None}, flags | stacks.MOVED, user_frames(parse_stack(text))


def _await_stack(
    inspector: Inspector, lane: int, pid: int, number: int, until: float
) -> tuple[int, bytes] | None:
    """Wait for an answer, but no longer than the worker is able to give one."""
    while True:
        left = until - time.monotonic()
        answer = inspector.await_stack(lane, number, max(0.0, min(left, _GLANCE)))
        if answer is not None or left <= _GLANCE or not _is_up(pid):
            return answer


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    numbers = [seen["task"] and seen["task"]["number"] for seen in (one, other)]
    return bool(numbers[0] == numbers[1] and one["incarnation"] == other["incarnation"])


def _why_silent(kernel: str | None, number: int) -> str:
    if not number:
        return "the worker has just started and cannot answer yet"
    if kernel == "D":
        return "the worker is in a system call that cannot be interrupted, and does not answer"
    return "the worker does not answer in time: the machine is busy, or its memory is swapped out"


def _why_empty(flags: int) -> str:
    if flags & stacks.REFUSED:
        return "the system forbids process_vm_readv, by which a worker reads its own frames"
    if flags & stacks.UNKNOWN:
        return "this Python's frames are not known to this release of snakepit"
    return "the task is not in Python code"


def parse_stack(text: bytes) -> list[Frame]:
    """Return the frames of a stack as `_core.stacks` writes it, innermost first."""
    fields = text.decode("utf-8", "replace").split("\0")
    return [
        Frame(fields[at], int(fields[at + 1]) if fields[at + 1].isdigit() else 0, fields[at + 2])
        for at in range(0, len(fields) - 3, 3)
    ]


def user_frames(frames: list[Frame]) -> tuple[Frame, ...]:
    """Return the frames without the worker's own at the outer end, which are always the same."""
    for at in range(len(frames) - 1, -1, -1):
        if frames[at].function in _OUTERMOST and _WORKER_FOLDER in frames[at].file:
            end = at
            while end > 0 and _WORKER_FOLDER in frames[end - 1].file:
                end -= 1
            return tuple(frames[:end])
    return tuple(frames)


# -- threads -------------------------------------------------------------------------------------


def _dump_threads(pool: LocalPool, with_stacks: bool) -> PoolReport:
    from snakepit.pool.functions import name_of

    now = time.monotonic_ns()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    workers = []
    for number, (ident, address, tasks) in enumerate(pool.queue.look()):
        task = _thread_task(tasks[0], now, len(tasks) > 1, name_of) if tasks else None
        frames: tuple[Frame, ...] = ()
        why: str | None = None
        flags = 0
        if with_stacks:
            flags, text = stacks.read_stack(address)
            frames = _task_frames(parse_stack(text))
            if not frames and task is not None:
                why = _why_empty(flags)
        workers.append(
            WorkerReport(
                worker=number,
                pid=os.getpid(),
                state="running" if task is not None else "idle",
                completed=None,
                task=task,
                stack=frames,
                no_stack=why,
                inexact=bool(flags & stacks.MOVED),
                thread=names.get(ident, f"thread {ident}"),
            )
        )
    counts = pool.queue.counts()
    return PoolReport(
        name=pool.name,
        owner_pid=os.getpid(),
        profile="local",
        age=None,
        queued=counts["queued"],
        closing=not pool.queue.is_open,
        workers=tuple(workers),
    )


def _thread_task(
    task: tuple[int, Any, int, int, int, bool], now: int, nested: bool, name_of: Any
) -> TaskReport:
    number, function, started, deadline, attempt, stopping = task
    return TaskReport(
        number=number,
        function=name_of(getattr(function, "function", function)),
        items=None,
        age=max(0.0, (now - started) * 1e-9),
        deadline=(deadline - now) * 1e-9 if deadline else None,
        nested=nested,
        stopping=stopping,
        attempt=attempt or None,
    )


def _task_frames(frames: list[Frame]) -> tuple[Frame, ...]:
    """Return the frames without those of the pool's thread at the outer end."""
    for at in range(len(frames) - 1, -1, -1):
        if frames[at].function == "LocalThreads.run_tasks":
            return tuple(frames[:at])
    return tuple(frames)
