from collections.abc import Callable
from typing import Any

from snakepit._core.arena import Arena, Segment
from snakepit._core.channel import Channel
from snakepit._core.control import Control
from snakepit._core.definitions import Published
from snakepit._core.settlement import Settlement
from snakepit._core.task import Task
from snakepit._core.view import CallView

class Scheduler(Settlement):
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
    def submit_known(
        self,
        task: Task,
        context: object,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        view: CallView | None = None,
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
    ) -> None: ...
    def message_of(self, task: Task) -> tuple[int, int, bytes | None, Segment | None, int]: ...
    def lend(self, task: Task, lane: int, bound: bool) -> bool: ...
    def loan_of(
        self, task: Task
    ) -> tuple[int, int, int, int, int, int, bytes | None, Segment | None, int]: ...
    def cancel_queued(self, task: Task) -> bool: ...
    def note_cancelled(self) -> None: ...
    def seconds_running(self, task: Task) -> float: ...
    def close(self) -> None: ...
    def give_up(self, why_broken: Callable[[], BaseException]) -> None: ...
    def withdraw_all(self, failed: bool = False) -> list[Task]: ...
    def stranded(self) -> list[int]: ...
    def counts(self) -> dict[str, int]: ...
