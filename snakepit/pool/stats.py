"""What a pool saw, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["PoolStats"]


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

    @classmethod
    def read(cls, queue: Any, workers: int, ready: int, supervisor: Any = None) -> PoolStats:
        """Read the counters of a scheduler or local queue."""
        counts = queue.counts()
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
        )
