from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from snakepit._core.arena import Arena, Segment

class Channel:
    def __init__(
        self,
        arena: Arena,
        threshold: int,
        patience: float,
        careful_dumps: Callable[[Any, Callable[[PickleBuffer], object]], bytes],
    ) -> None: ...
    @property
    def arena(self) -> Arena: ...
    def decode_bytes(
        self, encoding: int, payload: bytes | None, segment: Segment | None, length: int
    ) -> Any: ...
    def encode_message(
        self, value: object
    ) -> tuple[int, int, bytes | None, Segment | None, int]: ...
    def pass_on(self, segment: Segment, client: int) -> int: ...
    def receive(self, index: int, length: int) -> Segment: ...

class BytesOutside: ...
