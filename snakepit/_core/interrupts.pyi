from collections.abc import Callable
from typing import Final

class Runner:
    @property
    def thread(self) -> int: ...
    @property
    def left_behind(self) -> bool: ...
    replace: Callable[[], object] | None

class Held:
    def __enter__(self) -> None: ...
    def __exit__(self, *_error: object) -> None: ...

HELD: Final[Held]

def stop_requested() -> bool: ...
