"""Host tools: functions of the owner that the session's calls may use from a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snakepit.sessions.checks import checked_name
from snakepit.sessions.kinds import shortened

__all__ = ["HostTool"]


class HostTool:
    """A function of the owner under a name, for the calls of one session. Calling it calls that.

    `exposed`: whether workers see it. `parameters` describes its parameters, in whatever form the
    workers' code expects.
    """

    __slots__ = ("description", "exposed", "function", "name", "parameters")

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        description: str = "",
        parameters: Any = None,
        exposed: bool = True,
    ) -> None:
        checked_name("a tool", name)
        if not callable(function):
            raise TypeError(f"tool {name!r} must be callable, not {shortened(function)}")
        self.name = name
        self.function = function
        self.description = description
        self.parameters = {} if parameters is None else parameters
        self.exposed = exposed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<HostTool {self.name!r}{'' if self.exposed else ', not exposed'}>"
