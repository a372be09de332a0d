from snakepit._core.control import Control

WHOLE: int
MOVED: int
REFUSED: int
UNKNOWN: int

def serve_stacks(control: Control, lane: int, pid: int) -> None: ...
def this_thread() -> int: ...
def read_stack(thread: int) -> tuple[int, bytes]: ...
