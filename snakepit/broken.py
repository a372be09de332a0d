"""The errors of `snakepit.errors` that are `BrokenProcessPool` as well.

Apart from the others because of what that class brings along: half of multiprocessing and the
modules of compression, of which a worker needs nothing. An owner loads them while its first workers
start: not when something breaks, for then there may be no descriptor left to read a file with.
Everybody finds these errors in `snakepit.errors`, pickles too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snakepit.errors import SnakepitError

if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool

    from snakepit.lifecycle.autopsy import Autopsy
else:
    try:
        from concurrent.futures.process import BrokenProcessPool
    except RuntimeError:
        # It wants to be told of the interpreter's exit, which has begun. So from now on nobody can
        # import the class that has not done so; what catches all executors' errors catches this.
        from concurrent.futures import BrokenExecutor as BrokenProcessPool


class WorkerCrashedError(SnakepitError, BrokenProcessPool):
    """The worker died while it ran this task. The pool replaced the worker and goes on.

    `details`: pool, tool or function, worker, pid, exit_code (negative: the signal), signal (its
    name or None), task (its number), autopsy (plain values; see `autopsy`).
    """

    @property
    def autopsy(self) -> Autopsy:
        """What the worker died of: exit code or signal, memory, stack, last lines of stderr."""
        from snakepit.lifecycle.autopsy import Autopsy

        data = self.details.get("autopsy")
        return Autopsy.from_data(data) if data is not None else Autopsy()


class PoolNotReadyError(SnakepitError, BrokenProcessPool):
    """The pool cannot start workers: the initializer raised, they die at once, or never get ready.

    `__cause__` says why. `details`: pool; where an adapter is at fault, adapter and step (see
    `AdapterError`); where a module of `preload` is, module; where time ran out, start_timeout
    (seconds); of what was raised in a worker, traceback; of a worker that died, autopsy (plain
    values).
    """

    @property
    def autopsy(self) -> Autopsy | None:
        """What the last worker that could not start died of; None if none died of itself."""
        from snakepit.lifecycle.autopsy import Autopsy

        data = self.details.get("autopsy")
        return Autopsy.from_data(data) if data is not None else None


WorkerCrashedError.__module__ = PoolNotReadyError.__module__ = SnakepitError.__module__
