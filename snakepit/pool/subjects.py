"""What a call runs, for the texts and details of errors: looked up when one is made, never before.

A call keeps what the scheduler needs to run it, and nothing for people to read; it costs nothing
until something goes wrong.
"""

from __future__ import annotations

from typing import Any

from snakepit._core.definitions import Published
from snakepit.adapters.host import ToolHandle
from snakepit.pool.functions import name_of
from snakepit.pool.terms import SessionKey

__all__ = ["Subject", "subject_of", "subject_of_function"]

# Functions of this package that stand around the user's say nothing to anybody.
_OWN = "snakepit."


class Subject:
    """Names a call: its tool or function, where that is known, and its pool.

    `str()` is "the task (tool 'resize') of pool 'images'"; `what`, "tool 'resize'", "'shop.total'"
    or "". `details`: pool, tool or function, and the session of a task that has one.
    """

    __slots__ = ("details", "what")

    def __init__(self, pool: Any, function: Any) -> None:
        self.details: dict[str, Any] = {"pool": pool.name}
        self.what = ""
        tool = _tool_name(pool, function)
        if tool is not None:
            self.details["tool"] = tool
            self.what = f"tool {tool!r}"
            return
        name = None if function is None else name_of(function)
        if name is not None and not name.startswith(_OWN):
            self.details["function"] = name
            self.what = repr(name)

    @staticmethod
    def text_of(details: dict[str, Any]) -> str:
        """Return the text of the subject that the details of an error name."""
        tool, function = details.get("tool"), details.get("function")
        what = f"tool {tool!r}" if tool is not None else "" if function is None else repr(function)
        session = f"session {details['session']!r}" if "session" in details else ""
        names = ", ".join(name for name in (what, session) if name)
        return f"the task{f' ({names})' if names else ''} of pool {details.get('pool')!r}"

    def __str__(self) -> str:
        return Subject.text_of(self.details)


def subject_of(pool: Any, task: Any) -> Subject:
    """Return the subject of a task of a pool; call it before the task is settled."""
    try:
        function = pool.queue.function_of(task) if pool.runs_in_threads else task.function
        if isinstance(function, Published):
            function = function.target or pool.function_of(function)
        subject = Subject(pool, _unwrapped(function))
        if isinstance(task.session_key, SessionKey):
            subject.details["session"] = str(task.session_key.name)
        return subject
    except Exception:  # an error shall not fail for want of a name
        return Subject(pool, None)


def subject_of_function(pool: Any, function: Any) -> Subject:
    """Return the subject of a call of `function` in a pool."""
    return Subject(pool, _unwrapped(function))


def _unwrapped(function: Any) -> Any:
    """Return what a stream or a chunk of `map` calls."""
    if type(function).__module__.startswith(_OWN) and not isinstance(function, ToolHandle):
        return getattr(function, "function", function)
    return function


def _tool_name(pool: Any, function: Any) -> str | None:
    if isinstance(function, ToolHandle):
        return function.name
    found: str | None = pool.tool_names.get(id(function))
    return found
