from collections.abc import Callable

SIZE: int
TAIL: int
HEADER: int

class Recorder:
    def __init__(self, fd: int, write: Callable[[str], int] | None = None) -> None: ...
    def __call__(self, text: str) -> int: ...

def echo_faults(fd: int) -> None: ...
