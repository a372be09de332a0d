"""Faults for tests: what a program that uses Snakepit may do to its own pools to see them recover.

Nothing here is loaded by the rest of the package. The functions make the real fault (a signal, a
full arena, a limit of the kernel), never a pretence of it.
"""

from snakepit.testing.limits import fill_arena, full_disk, jump_clock, limit_memory
from snakepit.testing.points import ProtocolPoints, have_points, point_names
from snakepit.testing.workers import (
    crash,
    crash_after,
    fail_start,
    kill_worker,
    slow_start,
    suspend_worker,
)

__all__ = [
    "ProtocolPoints",
    "crash",
    "crash_after",
    "fail_start",
    "fill_arena",
    "full_disk",
    "have_points",
    "jump_clock",
    "kill_worker",
    "limit_memory",
    "point_names",
    "slow_start",
    "suspend_worker",
]
