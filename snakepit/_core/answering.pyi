from collections.abc import Callable
from typing import Any, Final

from snakepit._core.scheduler import Scheduler

class Later: ...

LATER: Final[Later]

class Answerer:
    def __init__(
        self,
        scheduler: Scheduler,
        respond: Callable[[int, int, int, list[Any]], object],
        explain: Callable[[BaseException], tuple[BaseException, str]],
        quick: dict[str, Callable[..., object]],
        known: dict[int, Any],
    ) -> None: ...
    def answer(self, index: int) -> None: ...
    def reply(self, index: int, value: object, failed: bool = False) -> None: ...
    def note_change(self, session: int) -> None: ...
