from collections.abc import Callable
from typing import Any

from snakepit._core.scheduler import Scheduler
from snakepit._core.task import Task

def limit_queue(
    scheduler: Scheduler, most_queued: int, on_due: Callable[[int], object]
) -> None: ...
def take_due(scheduler: Scheduler) -> tuple[list[Any], int]: ...
def watch_until(scheduler: Scheduler, task: Task, when_ns: int, timeout_ns: int) -> bool: ...
