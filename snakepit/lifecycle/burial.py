"""Burying a dead worker: fail its task, give back what it held, make room for another."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit._core.burial import empty_lane
from snakepit.errors import TaskStoppedError
from snakepit.lifecycle.autopsy import Autopsy, OomWatch, signal_name
from snakepit.lifecycle.reaper import Reaper
from snakepit.lifecycle.registry import registry
from snakepit.lifecycle.starts import LATE
from snakepit.lifecycle.taint import TaintedLanes
from snakepit.pool.memory import release_client

if TYPE_CHECKING:
    from snakepit._core.task import Task
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

SWEEP_AFTER = 1.0  # seconds until the killed group of a dead worker is surely gone


class Burial:
    """Buries the dead workers of `pool`, in its supervisor's thread.

    No step can keep the later ones from being made: what a step raises is logged, and the burial
    goes on. Only a process that does not die keeps its lane, until it does.
    """

    def __init__(self, pool: ProcessPool, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self.tainted = TaintedLanes()
        self.oom = OomWatch()
        self._unreaped: list[Worker] = []  # those whose exit status the template is asked for
        self._reaper = Reaper(f"snakepit-{pool.name}-reaper", self._tell_reaped)

    @property
    def reaping(self) -> int:
        """Of how many workers the template is asked for the exit status."""
        return len(self._unreaped)

    def begin(self, worker: Worker) -> None:
        """A worker is dead: reap it, then bury it."""
        # Before it is reaped its number cannot be anybody else's: now its children can be ended
        # safely.
        self._step(worker, lambda: worker.send(signal.SIGKILL))
        self._step(worker, worker.end_leftovers)
        self._step(worker, lambda: self._note_times(worker))
        self._step(worker, lambda: self._supervisor.unwatch(worker))
        worker.buried = True
        if self._pool.template is None:
            self._step(worker, worker.reap)
            self._bury(worker)
        else:
            self._unreaped.append(worker)
            self._reaper.add(worker)

    def _note_times(self, worker: Worker) -> None:
        """Note for how long its victims ran: its lanes, which know that, are cleared soon."""
        for task in worker.victims:
            worker.ran[task.number] = self._pool.scheduler.seconds_running(task)

    def _tell_reaped(self, worker: Worker) -> None:
        self._supervisor.tell(lambda: self._reaped(worker))

    def _reaped(self, worker: Worker) -> None:
        self._unreaped.remove(worker)
        self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """Fail the task of a reaped worker, give back what it held, make room for another."""
        self._step(worker, lambda: self._supervisor.forget(worker))
        self._step(worker, lambda: registry.release(worker.row))
        info = self._step(worker, lambda: self._pool.roster.lane_info(worker.lane)) or {}
        served = worker.ready or info.get("state") in ("ready", "retiring")
        claimed_ns = self._step(worker, lambda: self._pool.roster.running_since(worker.lane)) or 0
        lost = self._empty_lanes(worker)
        autopsy = self._step(
            worker, lambda: self._examine(worker, served, lost, claimed_ns)
        ) or Autopsy(exit_code=worker.exit_code, signal=signal_name(worker.exit_code))
        for task in lost:
            self._step(worker, partial(self._fail, worker, task, autopsy))
        # Before what was lent is: who finds the worker known, after it has noted a wait of it, has
        # noted it early enough for that wait to be forgotten with the others.
        self._step(worker, lambda: self._pool.nested.forget(worker.lane))
        for lane in worker.lanes:
            for task in self._step(worker, partial(self._pool.asks.forget, lane)) or ():
                self._fail(worker, task, autopsy)
        completed = self._step(worker, lambda: self._pool.roster.completed(worker.lane)) or 0
        self._step(worker, lambda: self._count(worker, served, completed, autopsy))
        for lane in worker.lanes:
            self._step(worker, partial(self._pool.affinity.lane_buried, lane))
        if (streams := self._pool.streams) is not None:
            self._step(worker, lambda: streams.rings.entrust(worker.client))
        self._step(worker, lambda: release_client(worker.client))
        self._step(worker, worker.close)
        self._step(worker, lambda: self._reap_orphans(worker.pid))
        self._pool.note_ready()

    def _step(self, worker: Worker, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception:
            logger.exception(
                "snakepit pool %s: error while cleaning up after worker %d (pid %d)",
                self._pool.name, worker.lane, worker.pid,
            )  # fmt: skip
            return None

    def _empty_lanes(self, worker: Worker) -> list[Task]:
        """Take back what the worker's lanes held; returns the tasks that they ran."""
        found = [
            self._step(worker, partial(empty_lane, self._pool.scheduler, lane))
            for lane in worker.lanes
        ]
        return [task for task in found if task is not None]

    def _examine(self, worker: Worker, served: bool, lost: list[Task], claimed_ns: int) -> Autopsy:
        """`claimed_ns`: when it claimed what it ran, the first of it."""
        code = worker.exit_code
        ours = code is not None and -code in worker.sent
        oom: tuple[bool | None, str]
        if code is None:
            oom = None, "unknown: its exit status is"
        elif ours:
            oom = False, "the pool sent the signal"
        else:
            oom = self.oom.verdict(code == -signal.SIGKILL)
        recording = worker.recording
        # Of several threads nobody can tell which of their calls wrote a line.
        of_call = bool(lost) and len(worker.lanes) == 1
        stderr: tuple[str, ...] = ()
        if recording is not None:
            stderr = recording.stderr(claimed_ns if of_call else None)
        return Autopsy(
            exit_code=code,
            signal=signal_name(code),
            phase="running" if lost else "idle" if served else "starting",
            ended_by_pool=self._reason(worker) if ours else None,
            oom_killed=oom[0],
            oom_evidence=oom[1],
            # The kernel folds what each CPU has counted into its peak later than into what is read.
            peak_memory=worker.peak_memory and max(worker.peak_memory, worker.last_memory or 0),
            last_memory=worker.last_memory,
            stack=recording.stack() if recording is not None else None,
            stderr=stderr,
            stderr_of="call" if of_call else "worker",
        )

    def _reason(self, worker: Worker) -> str:
        if worker.reason is not None:
            return worker.reason
        if worker.victims:
            return "stop"
        return "shutdown" if self._supervisor.ending else "replacement"

    def _fail(self, worker: Worker, task: Task, autopsy: Autopsy) -> None:
        # Not here, where a callback of the user's could keep every other worker waiting.
        self._pool.scheduler.fail_elsewhere(task, self._epitaph(worker, task, autopsy))

    def _epitaph(self, worker: Worker, task: Task, autopsy: Autopsy) -> Exception:
        # Lazily: most pools never bury a worker.
        from snakepit.pool.subjects import subject_of

        subject = subject_of(self._pool, task)
        where = f"worker {worker.lane} (pid {worker.pid}) of pool {self._pool.name!r}"
        details: dict[str, Any] = {
            **subject.details,
            "worker": worker.lane,
            "pid": worker.pid,
            "exit_code": autopsy.exit_code,
            "signal": autopsy.signal,
            "task": task.number,
            "autopsy": autopsy.as_data(),
        }
        by = f", by {autopsy.signal}" if autopsy.signal is not None else ""
        stopped = (
            "the task was stopped on request; it did not end when it was interrupted, and so "
            f"{where} was ended for it{by}"
        )
        what = f" ({subject.what})" if subject.what else ""
        crashed = f"{where} {autopsy.summary()} while it ran the task{what}"
        if len(worker.lanes) > 1:
            details["threads"] = len(worker.lanes)
            stopped += (
                ": a thread cannot be killed alone. It took no new tasks, and the others that it "
                f"ran had {self._pool.graces.terminate:g} s to end"
            )
            if worker.victims and autopsy.ended_by_pool == "stop":
                details["shared_with"] = [victim.number for victim in worker.victims]
                crashed += (
                    "; the task shared that process with one that had to be stopped by force, and "
                    f"did not end within {self._pool.graces.terminate:g} s"
                )
        if any(victim is task for victim in worker.victims):
            ran = worker.ran.get(task.number, 0.0)
            return TaskStoppedError(
                f"{stopped}; the task had run for {ran:.3g} s", details={**details, "ran": ran}
            )
        return errors.WorkerCrashedError(f"{crashed}{last_words(autopsy)}", details=details)

    def _count(self, worker: Worker, served: bool, completed: int, autopsy: Autopsy) -> None:
        """Draw the conclusions from a worker's end: was it a crash, a failed start, one of many?"""
        at_ease = autopsy.exit_code == 0 or worker.left_at is not None
        self._supervisor.recycler.buried(worker, at_ease=at_ease)
        if worker.expected or self._supervisor.ending:
            self.tainted.clear(worker.lane)
        elif not served:
            # Whatever its exit code: one that ends before it is ready has failed to start.
            self._supervisor.crashes += 1
            self._tell_failed_start(worker, autopsy)
        elif autopsy.exit_code == 0 and autopsy.phase == "idle":
            self.tainted.clear(worker.lane)
        else:
            self._supervisor.crashes += 1
            self.tainted.note_crash(worker.lane, progressed=completed > 0)

    def _tell_failed_start(self, worker: Worker, autopsy: Autopsy) -> None:
        launcher = self._pool.launcher
        details: dict[str, Any] = {"autopsy": autopsy.as_data()}
        if launcher.adapter is not None:
            details["adapter"] = launcher.adapter
        if autopsy.ended_by_pool == LATE:
            how = launcher.lateness()
            details["start_timeout"] = self._pool.start_timeout
        else:
            how = f"{autopsy.summary()} while it started{launcher.steps()}"
        self._supervisor.start_failed(
            RuntimeError(f"worker {worker.pid} {how}{last_words(autopsy)}"),
            spare=worker.spare,
            details=details,
        )

    def _reap_orphans(self, group: int, again: bool = True) -> None:
        """As process 1, collect what the dead worker's children leave: nobody else would."""
        if os.getpid() != 1:
            return
        with contextlib.suppress(ChildProcessError):
            # By the group, so that no child of somebody else's is collected.
            while os.waitid(os.P_PGID, group, os.WEXITED | os.WNOHANG) is not None:
                pass
        if again and not self._supervisor.ending:
            self._supervisor.after(SWEEP_AFTER, lambda: self._reap_orphans(group, again=False))


def last_words(autopsy: Autopsy) -> str:
    """Return the last line of stderr as the end of a sentence, if there was one."""
    lines = [line.strip() for line in autopsy.stderr if line.strip()]
    if not lines:
        return ""
    others = " (also of other calls)" if autopsy.is_shared() else ""
    return f"; its stderr{others} ended with: {lines[-1][-300:]}"
