"""Every exception that Snakepit raises on its own account.

All derive from `SnakepitError` and, beside it, from the class that a Python programmer would
already be catching. Each message says what happened, to which worker or task, and what to do;
`details` holds the same as data.
"""

from __future__ import annotations

import pickle
import queue
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit.broken import PoolNotReadyError as PoolNotReadyError
    from snakepit.broken import WorkerCrashedError as WorkerCrashedError
    from snakepit.lifecycle.autopsy import Autopsy

__all__ = [
    "AdapterError",
    "ArenaFullError",
    "CircuitOpenError",
    "ConfigError",
    "DataDirError",
    "DecodeError",
    "EncodeError",
    "ForkedPoolError",
    "FunctionLoadError",
    "HostToolNotFoundError",
    "PoolExistsError",
    "PoolNotFoundError",
    "PoolNotReadyError",
    "PoolSaturatedError",
    "PoolShutdownError",
    "ProgramNotFoundError",
    "QueueTimeoutError",
    "ReadyTimeoutError",
    "RemoteError",
    "RemoteTraceback",
    "SessionError",
    "SessionExistsError",
    "SessionNotFoundError",
    "SessionQuotaError",
    "SessionStoreClosedError",
    "SessionStoreError",
    "SessionWorkerUnavailableError",
    "SnakepitError",
    "StreamReadError",
    "TaskInterrupt",
    "TaskStoppedError",
    "TaskTimeoutError",
    "ToolArgumentError",
    "ToolNotFoundError",
    "VariableError",
    "VariableNotFoundError",
    "VersionConflictError",
    "WorkerBusyError",
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


def __getattr__(name: str) -> Any:
    # Their base is in a module that loads more than all of the rest.
    if name in ("PoolNotReadyError", "WorkerCrashedError"):
        from snakepit import broken

        return getattr(broken, name)
    raise AttributeError(f"module 'snakepit.errors' has no attribute {name!r}")


class TaskTimeoutError(SnakepitError, TimeoutError):
    """The task did not end within its deadline.

    `details`: pool, tool or function (where it is known), timeout, waited, ran (seconds), phase
    ("queued", "decoding", "running", "encoding"), worker (of one that ran on it), session (if
    the call has one), unread_streams (of one that was queued: how many calls that ran were streams
    that nobody read at that moment, if any).
    """


class TaskStoppedError(SnakepitError, CancelledError):
    """The task was running and was stopped on request.

    Its `__cause__`, if there is one, shows where TaskInterrupt met it. `details`, where its worker
    was ended by force: pool, tool or function, worker, pid, exit_code, signal (its name or None),
    task (its number), ran (seconds until that worker was dead), autopsy (plain values).
    """

    @property
    def autopsy(self) -> Autopsy | None:
        """What is known of the worker that was ended for it by force; None if none was."""
        data = self.details.get("autopsy")
        if data is None:
            return None
        from snakepit.lifecycle.autopsy import Autopsy

        return Autopsy.from_data(data)


class TaskInterrupt(BaseException):
    """Raised inside a task that is to stop and did not look at `snakepit.cancelled()`.

    Not an Exception, so that `except Exception` lets it pass. A task may clean up when it comes,
    in the grace time that is left; one that goes on instead is ended with its worker.
    """

    def __init__(self, message: str = "the task was asked to stop") -> None:
        super().__init__(message)


class PoolNotFoundError(SnakepitError, LookupError):
    """No running pool has this name or pid. `details`: wanted, pools (those that run)."""


class PoolShutdownError(SnakepitError, RuntimeError):
    """Work was given to a pool that has been shut down. `details`: pool (its name)."""

    @classmethod
    def of(cls, pool: str) -> PoolShutdownError:
        """Make the error for the pool of this name."""
        # It begins as the standard library's does, whose users may look for that.
        return cls(
            f"cannot schedule new futures after shutdown: pool {pool!r} takes no more calls; "
            "submit before shutdown(), or before the end of the with block, or make another",
            details={"pool": pool},
        )


class ForkedPoolError(SnakepitError, RuntimeError):
    """A pool was used in a process that forked after making it; make one there instead."""


class DataDirError(SnakepitError, OSError):
    """The directory that was named for the process registry cannot be written to.

    `details`: data_dir.
    """


class ArenaFullError(SnakepitError, MemoryError):
    """Shared memory is used up, and none came back in time.

    `details`: wanted, in_use, budget (bytes).
    """


class ReadyTimeoutError(SnakepitError, TimeoutError):
    """Not all workers of the pool were ready in time; they go on getting so.

    `details`: pool, ready and size (numbers of workers), timeout (seconds).
    """


class StreamReadError(SnakepitError, RuntimeError):
    """A stream was to be read that has ended, or that another thread or task is reading.

    `details`: pool, tool or function, problem ("ended", "busy").
    """

    @classmethod
    def ended(cls, stream: str, details: dict[str, Any]) -> StreamReadError:
        """Make the error of a stream that was read to its end, or closed."""
        return cls(
            f"the stream of {stream} has ended: it was read to its end, or closed, and gives each "
            "chunk once; call stream() again for another, or keep the chunks in a list",
            details={**details, "problem": "ended"},
        )

    @classmethod
    def busy(cls, stream: str, details: dict[str, Any]) -> StreamReadError:
        """Make the error of a stream that has a reader already."""
        return cls(
            f"the stream of {stream} is being read already, by another thread or task, or under "
            "this very call; a stream has one reader: let that one pass the chunks on, for "
            "instance through a queue.Queue or an asyncio.Queue",
            details={**details, "problem": "busy"},
        )


class CircuitOpenError(SnakepitError, RuntimeError):
    """A circuit breaker refused the call, which did not run.

    `details`: breaker (its name), failures (in a row), retry_after (seconds; 0.0 when it waits for
    a probe).
    """

    @property
    def retry_after(self) -> float:
        """Seconds, from when the call was refused, until the breaker lets a probe through."""
        return float(self.details.get("retry_after", 0.0))


class EncodeError(SnakepitError, pickle.PicklingError, TypeError):
    """An argument, function or result cannot be pickled. `__cause__` is the pickler's own error.

    `details`, of a result: function (its qualified name); of an adapter: adapter, step ("encode"),
    argument (the name of the one in `adapter_args`, None if it is not one of them).
    """


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


# -- of pools of adapters --------------------------------------------------------------------------


class AdapterError(SnakepitError):
    """An adapter is no use: it cannot be imported, constructed or set up, or is declared wrongly.

    Or it cannot save or take up a session. `details`: adapter (its name), step ("import",
    "preload", "construct", "setup", "snapshot", "restore" …), session (of these two). `__cause__`
    says why.
    """


class ToolNotFoundError(SnakepitError, LookupError):
    """An adapter has no tool of this name. `details`: tool, adapter, tools (those that it has)."""


class ToolArgumentError(SnakepitError, TypeError):
    """A tool was called with arguments that do not fit its signature; it took no worker.

    `details`: tool, argument (its name, None if it is not about one), problem ("missing",
    "unknown", "type", "usage").
    """


class PoolSaturatedError(SnakepitError, queue.Full):
    """As many calls wait for a worker of the pool as may. `details`: pool, max_queue_size."""


def saturation_error(pool: str, limit: int) -> PoolSaturatedError:
    """Return the error of a call for which a pool has no place left."""
    return PoolSaturatedError(
        f"pool {pool!r} is saturated: {limit} calls wait for a worker, as many as max_queue_size "
        "lets wait; submit again later, or give the pool more workers or a longer queue",
        details={"pool": pool, "max_queue_size": limit},
    )


class QueueTimeoutError(TaskTimeoutError):
    """No worker was free for the call within the pool's `queue_timeout`; it never ran.

    `details`: pool, tool or function, timeout (that limit), waited, ran (0.0), phase ("queued"),
    unread_streams (as in TaskTimeoutError).
    """


class PoolExistsError(SnakepitError, ValueError):
    """A pool of this name runs already in this program. `details`: pool."""

    @classmethod
    def of(cls, pool: str) -> PoolExistsError:
        """Make the error for the name that is taken."""
        return cls(
            f"a pool named {pool!r} runs already; stop it first (its stop(), or the end of its "
            f"with block; snakepit.stop({pool!r}) if snakepit.start() made it), or give another "
            "name",
            details={"pool": pool},
        )


class RemoteTraceback(Exception):
    """The traceback of an exception as the worker saw it; stands as the exception's `__cause__`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text


# Sessions


class SessionError(SnakepitError):
    """Base of what goes wrong with sessions and their store."""


class SessionNotFoundError(SessionError, LookupError):
    """No session has this id: it was never made, was deleted, or has expired.

    `details`: session; where it is known that one of this id has expired, expired (True). The last
    1,024 that expired are known, and the message says when.
    """


class SessionExistsError(SessionError, ValueError):
    """A session was to be made under an id that another has. `details`: session."""


class SessionQuotaError(SessionError, RuntimeError):
    """The store holds as many sessions as it may. `details`: session, max_sessions."""


class SessionStoreClosedError(SessionError, RuntimeError):
    """A session store was used after its `close()`."""


class SessionStoreError(SessionError, OSError):
    """The file of a session store cannot be used or written to; `__cause__` may say why.

    `details`: path.
    """


class ProgramNotFoundError(SessionError, LookupError):
    """No program has this name, in this session or among the global ones.

    `details`: session (None: the global programs), program.
    """


class HostToolNotFoundError(SessionError, LookupError):
    """The session has no host tool of this name. `details`: session, tool, tools (those it has)."""


class VariableError(SnakepitError, ValueError):
    """A variable's name, type, value or constraint is not as it should be; nothing was changed.

    `details`: session, variable, type, value (its shortened repr), constraint (its name, or None).
    If several variables of a batch are wrong, `details` has session and errors (message by name).
    """


class VariableNotFoundError(VariableError, LookupError):
    """The session has no variable of this name. `details`: session, variable, missing (names)."""


class VersionConflictError(VariableError):
    """Somebody else has set the variable since it was read.

    `details`: session, variable, expected, actual (versions).
    """


# Configuration


class ConfigError(SnakepitError, ValueError):
    """The configuration cannot be used. The message has all that is wrong, one problem a line.

    Each line begins with where it stands: file and line, argument, or environment variable.
    `details`: problems (the lines).
    """

    @classmethod
    def of(cls, problems: list[str]) -> ConfigError:
        """Make the error for these problems, at least one."""
        return cls("\n".join(problems), details={"problems": list(problems)})

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        return list(self.details.get("problems", []))


class WorkerBusyError(SnakepitError, BlockingIOError):
    """The worker of the session is busy, and the call (affinity "strict_fail_fast") does not wait.

    `details`: session, pool, worker (None: the session's first call has not ended), task.
    """


class SessionWorkerUnavailableError(SnakepitError, LookupError):
    """The worker that the session is bound to is gone or being replaced; the call did not run.

    Every strict call of the session fails so until `forget_session`, after which it begins anew;
    but not where the adapter can save sessions (`Adapter.snapshot`).
    `details`: session, pool, worker (the lane that it was), task.
    """
