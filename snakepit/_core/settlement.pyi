from collections.abc import Callable
from typing import Any

from snakepit._core.arena import Arena, Segment
from snakepit._core.channel import Channel
from snakepit._core.control import Control
from snakepit._core.counters import Histogram
from snakepit._core.mailbox import Mailbox
from snakepit._core.placement import Placement
from snakepit._core.task import Task

class Settlement(Placement):
    def __init__(
        self,
        control: Control,
        arena: Arena,
        channel: Channel,
        on_mail: Callable[
            [int, int, int, int, int, int, int, bytes | None, Segment | None, int], object
        ],
        on_idle: Callable[[], object],
    ) -> None: ...
    on_enclosed: Callable[[list[Any]], object]
    explain: Callable[[Any, int, int], Exception]
    @property
    def arena(self) -> Arena: ...
    @property
    def channel(self) -> Channel: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def latency(self) -> Histogram: ...
    @property
    def running_time(self) -> Histogram: ...
    @property
    def unsettled(self) -> int: ...
    def fail(self, task: Task, error: BaseException) -> None: ...
    def conclude(self, task: Task, outcome: Any, error: BaseException | None) -> None: ...
    def fail_elsewhere(self, task: Task, error: BaseException) -> None: ...
