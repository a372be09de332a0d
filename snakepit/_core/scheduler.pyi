from collections.abc import Callable
from typing import Any, NoReturn

from snakepit._core.arena import Arena, Segment
from snakepit._core.bindings import Bindings
from snakepit._core.channel import Channel
from snakepit._core.completions import Completions
from snakepit._core.control import Control
from snakepit._core.counters import Histogram
from snakepit._core.definitions import Published
from snakepit._core.task import Task

class Scheduler(Completions):
    def __init__(
        self,
        control: Control,
        arena: Arena,
        channel: Channel,
        known: dict[Any, Published],
        on_mail: Callable[
            [int, int, int, int, int, int, int, bytes | None, Segment | None, int], object
        ],
        on_idle: Callable[[], object],
    ) -> None: ...
    on_ask: Callable[[int], object]
    on_enclosed: Callable[[list[Any]], object]
    @property
    def arena(self) -> Arena: ...
    @property
    def channel(self) -> Channel: ...
    @property
    def latency(self) -> Histogram: ...
    @property
    def running_time(self) -> Histogram: ...
    @property
    def bindings(self) -> Bindings | None: ...
    explain: Callable[[Any, int, int], Exception]
    @property
    def unsettled(self) -> int: ...
    def submit_known(
        self,
        task: Task,
        context: object,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> bool: ...
    def submit(
        self,
        task: Task,
        definition: Published | None,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None: ...
    def submit_numbered(
        self,
        task: Task,
        context: object,
        definition: Published,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout_ns: int,
        patience_ns: int,
        priority: int,
        session: int,
    ) -> None: ...
    def set_limits(self, task: Task, timeout_ns: int, patience_ns: int) -> None: ...
    def prefer_lane(self, session: int, lane: int) -> None: ...
    def refuse_full(self) -> NoReturn: ...
    def submit_items(
        self,
        task: Task,
        definition: Published | None,
        function: Callable[..., Any] | None,
        kind: int,
        items: list[Any],
    ) -> None: ...
    def encode(
        self,
        call: Task,
        definition: Published | None,
        function: Callable[..., Any] | None,
        kind: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None: ...
    def attempt(self, task: Task, call: Task, first: bool) -> None: ...
    def submit_encoded(
        self,
        task: Task,
        definition: Published | None,
        encoding: int,
        flags: int,
        payload: bytes | None,
        segment: Segment | None,
        length: int,
    ) -> None: ...
    def set_terms(
        self,
        task: Task,
        timeout: float | None,
        priority: int,
        session: int,
        affinity: int = 0,
        session_name: str | None = None,
    ) -> None: ...
    def message_of(self, task: Task) -> tuple[int, int, bytes | None, Segment | None, int]: ...
    def take_back(self, task: Task) -> bool: ...
    def lane_of_task(self, task: Task, even_settled: bool = False) -> int: ...
    def loan_of(
        self, task: Task
    ) -> tuple[int, int, int, int, int, int, bytes | None, Segment | None, int]: ...
    def cancel_queued(self, task: Task) -> bool: ...
    def fail(self, task: Task, error: BaseException) -> None: ...
    def fail_elsewhere(self, task: Task, error: BaseException) -> None: ...
    def note_cancelled(self) -> None: ...
    def seconds_running(self, task: Task) -> float: ...
    def close(self) -> None: ...
    def withdraw_all(self) -> list[Task]: ...
    def in_slots(self) -> list[Task]: ...
    def forget_session(self, session: int) -> bool: ...
    def sessions_of_lane(self, lane: int) -> list[int]: ...
    def prepare_lane(self, index: int, client: int) -> None: ...
    def retire_lane(self, index: int) -> None: ...
    def end_lanes(self) -> None: ...
    def rouse(self, index: int) -> None: ...
    def lane_info(self, index: int) -> dict[str, Any]: ...
    def counts(self) -> dict[str, int]: ...
