from collections.abc import Callable

from snakepit._core.arena import Arena, Segment

class Mailbox:
    def __init__(
        self,
        arena: Arena,
        on_mail: Callable[
            [int, int, int, int, int, int, int, bytes | None, Segment | None, int], object
        ],
    ) -> None: ...
    on_ask: Callable[[int], object]
