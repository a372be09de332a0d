"""The adapter that the benchmarks of tools run; apart, for the other workers need none of it."""

import os
from typing import Any, ClassVar

from snakepit import Adapter, tool

HELD_MB = 50 if os.environ.get("BENCHES_QUICK") == "1" else 500


class Workbench(Adapter):
    """The same calls as in `benches.work`, as tools."""

    @tool
    def noop(self) -> None:
        """Return at once."""

    @tool
    def echo(self, array: bytes | str) -> Any:
        """Return the argument."""
        return array


class Heavy(Adapter):
    """Holds as much as a model may, loaded once for all workers."""

    held: ClassVar[bytes] = b""

    @classmethod
    def preload(cls) -> None:
        cls.held = os.urandom(1_000_000) * HELD_MB

    @tool
    def read(self) -> int:
        """Look at every page of it; return how many MB there are."""
        return sum(1 for _ in self.held[::4096]) * 4096 // 1_000_000
