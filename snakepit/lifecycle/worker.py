"""The owner's view of one worker process."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit._core.task import Task


class Worker:
    """The owner's view of one worker process."""

    def __init__(self, lane: int, client: int, process: Any) -> None:
        self.lane = lane
        self.client = client
        self.process = process
        self.pid: int = process.pid
        self.sentinel: int = process.sentinel
        self.row = 0  # of the process registry
        self.ready = False
        self.expected = False  # its end was asked for
        self.victim: Task | None = None  # the task because of which we end it

    def send(self, sig: int) -> None:
        """Send a signal to the worker's whole process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sig)
        # It may not lead its group yet.
        with contextlib.suppress(ProcessLookupError, OSError, ValueError):
            os.kill(self.pid, sig)
