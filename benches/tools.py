"""The adapter that the benchmarks of tools run; apart, for the other workers need none of it."""

from typing import Any

from snakepit import Adapter, tool


class Workbench(Adapter):
    """The same calls as in `benches.work`, as tools."""

    @tool
    def noop(self) -> None:
        """Return at once."""

    @tool
    def echo(self, array: bytes | str) -> Any:
        """Return the argument."""
        return array
