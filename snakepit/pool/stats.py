"""What a pool saw, as plain numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snakepit.lifecycle.recycling import REASONS, resident_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from snakepit._core.roster import Roster
    from snakepit.lifecycle.supervisor import Supervisor

__all__ = ["LifecycleStats", "PoolStats", "WorkerStats"]


@dataclass(frozen=True)
class PoolStats:
    """Counters of a pool, read at one moment. Times are seconds; quantiles are within 9 %."""

    workers: int  # that the pool is meant to have
    ready: int
    busy: int
    queued: int
    submitted: int  # calls and chunks of map
    completed: int
    failed: int
    cancelled: int
    crashed: int  # workers that died uncalled for
    restarted: int
    bytes_in: int  # of arguments, to workers
    bytes_out: int  # of results, from workers
    latency_p50: float  # from submission to settling
    latency_p99: float
    run_p50: float  # inside the worker
    run_p99: float
    lanes: int = 0  # calls that can run at once: workers × threads of each

    @classmethod
    def read(
        cls, queue: Any, workers: int, ready: int, supervisor: Any = None, lanes: int | None = None,
        corrections: Mapping[str, int] | None = None,
    ) -> PoolStats:  # fmt: skip
        """Read the counters of a scheduler or local queue; `corrections` are added to them."""
        counts = queue.counts()
        for name, number in (corrections or {}).items():
            counts[name] += number
        return cls(
            workers=workers,
            ready=ready,
            busy=counts["running"],
            queued=counts["queued"],
            submitted=counts["submitted"],
            completed=counts["completed"],
            failed=counts["failed"],
            cancelled=counts["cancelled"],
            crashed=supervisor.crashes if supervisor is not None else 0,
            restarted=supervisor.restarts if supervisor is not None else 0,
            bytes_in=counts["bytes_in"],
            bytes_out=counts["bytes_out"],
            latency_p50=queue.latency.quantile(0.5),
            latency_p99=queue.latency.quantile(0.99),
            run_p50=queue.running_time.quantile(0.5),
            run_p99=queue.running_time.quantile(0.99),
            lanes=workers if lanes is None else lanes,
        )


@dataclass(frozen=True)
class WorkerStats:
    """One worker at one moment. Times are seconds."""

    id: int  # its lane; a successor may get the number of one that is gone
    pid: int
    state: str  # "starting", "spare" (ready, waits for a place), "idle", "busy", "leaving"
    age: float
    requests: int  # tasks that it has completed
    memory: int  # bytes resident
    due: str | None  # why it is to be replaced
    task: int | None  # the number of the task that it runs: of several, the one that runs longest
    running: float  # for how long it has run that
    lanes: int = 1  # its threads that run tasks
    busy: int = 0  # those that do now


@dataclass(frozen=True)
class LifecycleStats:
    """The workers of a pool and what became of earlier ones, read at one moment."""

    pool: str
    size: int  # workers that shall serve
    serving: int  # that do
    workers: tuple[WorkerStats, ...]
    recycled: dict[str, int]  # by reason: age, requests, memory, manual, tasks, unhealthy
    crashes: int  # workers that died uncalled for
    stuck: int  # workers that were replaced because they gave no sign of life
    restarts: int  # workers that were started beside the first ones
    health_check_failed: int = 0  # workers whose adapter said that it was not fit, or raised
    failed_starts: int = 0  # workers that could not be started, or ended before they were ready

    @classmethod
    def read(
        cls, name: str, size: int, roster: Roster | None, supervisor: Supervisor | None
    ) -> LifecycleStats:
        """Read the words that workers keep in shared memory, and the supervisor's counters."""
        if roster is None or supervisor is None:
            return cls(name, size, 0, (), dict.fromkeys(REASONS, 0), 0, 0, 0)
        now = time.monotonic()
        found = []
        for worker in list(supervisor.workers.values()):
            infos = [roster.lane_info(lane) for lane in worker.lanes]
            info = max(infos, key=lambda info: (info["task"] is not None, info["running_seconds"]))
            # Threads that have left do not tell for the others; all of them are ready together.
            states = [info["state"] for info in infos if info["state"] != "retiring"]
            leaving = worker.draining or not states
            state = "retiring" if leaving else states[0]
            found.append(
                WorkerStats(
                    id=worker.lane,
                    pid=worker.pid,
                    state=_state(state, supervisor.holds(worker), info["task"]),
                    age=now - worker.born,
                    requests=sum(info["completed"] for info in infos),
                    memory=resident_memory(worker.pid),
                    due=worker.due,
                    task=info["task"],
                    running=info["running_seconds"],
                    lanes=len(infos),
                    busy=sum(info["task"] is not None for info in infos),
                )
            )
        return cls(
            pool=name,
            size=size,
            serving=sum(worker.state in ("idle", "busy") for worker in found),
            workers=tuple(found),
            recycled={reason: supervisor.recycler.counts[reason] for reason in REASONS},
            crashes=supervisor.crashes,
            stuck=supervisor.health.replaced,
            restarts=supervisor.restarts,
            health_check_failed=supervisor.recycler.health_checks_failed,
            failed_starts=supervisor.failed_starts,
        )


def _state(lane: str, held: bool, task: int | None) -> str:
    if lane == "ready":
        return "spare" if held else "idle" if task is None else "busy"
    return {"starting": "starting"}.get(lane, "leaving")
