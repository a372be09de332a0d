"""Every exception that Snakepit raises on its own account.

All derive from `SnakepitError` and, beside it, from the class that a Python programmer would
already be catching. Each message says what happened, to which worker or task, and what to do;
`details` holds the same as data.
"""

from __future__ import annotations

import pickle
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = [
    "ArenaFullError",
    "DecodeError",
    "EncodeError",
    "ForkedPoolError",
    "FunctionLoadError",
    "PoolNotFoundError",
    "PoolNotReadyError",
    "PoolShutdownError",
    "RemoteError",
    "RemoteTraceback",
    "SnakepitError",
    "TaskStoppedError",
    "TaskTimeoutError",
    "WorkerCrashedError",
]


class SnakepitError(Exception):
    """Base of all errors of this package; `details` is a dict of plain values."""

    details: dict[str, Any]

    def __init__(self, message: str = "", *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0] if self.args else "", self.details)


def _rebuild(cls: type[SnakepitError], message: str, details: dict[str, Any]) -> SnakepitError:
    return cls(message, details=details)


class WorkerCrashedError(SnakepitError, BrokenProcessPool):
    """The worker died while it ran this task. The pool replaced the worker and goes on.

    `details`: worker, pid, exit_code (negative: the signal), signal (its name or None), task.
    """


class TaskTimeoutError(SnakepitError, TimeoutError):
    """The task did not end within its deadline. `details`: timeout, waited, ran (seconds)."""


class TaskStoppedError(SnakepitError, CancelledError):
    """The task was running and was stopped on request."""


class PoolNotReadyError(SnakepitError, BrokenProcessPool):
    """The pool cannot start workers: the initializer raised, or they die at once.

    `__cause__` says why.
    """


class PoolNotFoundError(SnakepitError, LookupError):
    """No running pool has this name or pid. `details`: wanted, pools (those that run)."""


class PoolShutdownError(SnakepitError, RuntimeError):
    """Work was given to a pool that has been shut down."""


class ForkedPoolError(SnakepitError, RuntimeError):
    """A pool was used in a process that forked after making it; make one there instead."""


class ArenaFullError(SnakepitError, MemoryError):
    """Shared memory is used up, and none came back in time.

    `details`: wanted, in_use, budget (bytes).
    """


class EncodeError(SnakepitError, pickle.PicklingError, TypeError):
    """An argument, function or result cannot be pickled. `__cause__` is the pickler's own error."""


class DecodeError(SnakepitError, pickle.UnpicklingError):
    """An argument or result was pickled but cannot be rebuilt.

    `__cause__` is the unpickler's own error.
    """


class FunctionLoadError(SnakepitError, ImportError):
    """A worker cannot import or rebuild the function that a task calls. `__cause__` says why."""


class RemoteError(SnakepitError):
    """An exception of a worker that cannot be pickled or rebuilt; its text stands in for it.

    `details`: type (qualified name), text, traceback.
    """


class RemoteTraceback(Exception):
    """The traceback of an exception as the worker saw it; stands as the exception's `__cause__`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text
