from collections.abc import Callable

from snakepit._core.lane import WorkerLane

SIZE: int
TAIL: int
HEADER: int

class Recorder:
    def __init__(self, fd: int, write: Callable[[str], int] | None = None) -> None: ...
    def watch(self, lane: WorkerLane) -> None: ...
    def __call__(self, text: str) -> int: ...

def echo_faults(fd: int) -> None: ...
