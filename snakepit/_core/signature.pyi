from typing import Any

class Binder:
    def __init__(
        self,
        names: tuple[str, ...],
        kinds: tuple[Any, ...],
        defaults: tuple[Any, ...],
    ) -> None: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    def bind(self, arguments: dict[str, Any]) -> tuple[Any, ...] | None: ...

REQUIRED: object
UNSENT: object
