"""Looking at running pools: where every worker is, from inside or from another process."""

from snakepit.diagnostics.dump import dump_pool, dump_process
from snakepit.diagnostics.report import Frame, PoolReport, TaskReport, WorkerReport

__all__ = ["Frame", "PoolReport", "TaskReport", "WorkerReport", "dump_pool", "dump_process"]
