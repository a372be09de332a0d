"""Burying a dead worker: fail its task, give back what it held, make room for another."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from snakepit.errors import TaskStoppedError, WorkerCrashedError
from snakepit.lifecycle.registry import registry
from snakepit.pool.memory import release_client

if TYPE_CHECKING:
    from snakepit._core.task import Task
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import ProcessPool


class Burial:
    """Buries the dead workers of `pool`, in its supervisor's thread."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor

    def bury(self, worker: Worker) -> None:
        """A worker is dead: fail its task, give back what it held, make room for another."""
        # Before it is reaped its number cannot be anybody else's: now its children can be ended
        # safely.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
        self._supervisor.forget(worker)
        worker.process.join()
        registry.release(worker.row)
        code = worker.process.exitcode
        lost = self._pool.scheduler.lane_lost(worker.lane)
        self._pool.nested.forget(worker.lane)
        release_client(worker.client)
        expected = worker.expected or self._supervisor.ending or code == 0
        if not expected:
            self._supervisor.crashes += 1
        if not worker.ready and not expected:
            self._supervisor.start_failed(
                RuntimeError(f"worker {worker.pid} {describe_exit(code)} while it started")
            )
        if lost is not None:
            self._pool.scheduler.fail(lost, self._epitaph(worker, lost, code))
        worker.process.close()
        self._pool.note_ready()

    def _epitaph(self, worker: Worker, task: Task, code: int | None) -> Exception:
        where = f"worker {worker.lane} (pid {worker.pid}) of pool {self._pool.name!r}"
        details = {
            "worker": worker.lane,
            "pid": worker.pid,
            "exit_code": code,
            "signal": signal_name(code),
            "task": task.number,
        }
        if worker.victim is task:
            return TaskStoppedError(
                f"the task was stopped on request; {where} was ended for it", details=details
            )
        return WorkerCrashedError(
            f"{where} {describe_exit(code)} while it ran the task", details=details
        )


def signal_name(code: int | None) -> str | None:
    """Return the name of the signal that an exit code stands for, or None."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def describe_exit(code: int | None) -> str:
    """Say how a process with this exit code ended."""
    if code is None:
        return "ended"
    name = signal_name(code)
    return f"was killed by {name}" if name else f"exited with code {code}"
