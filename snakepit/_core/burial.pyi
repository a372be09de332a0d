from snakepit._core.scheduler import Scheduler
from snakepit._core.task import Task

def empty_lane(scheduler: Scheduler, index: int) -> Task | None: ...
