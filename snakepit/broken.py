"""The errors of `snakepit.errors` that are `BrokenProcessPool` as well.

Apart from the others because of what that class brings along: half of multiprocessing and the
modules of compression, which no pool needs as long as nothing is broken. Everybody finds these
errors in `snakepit.errors`, pickles too.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from snakepit.errors import SnakepitError

if TYPE_CHECKING:
    from snakepit.lifecycle.autopsy import Autopsy


class WorkerCrashedError(SnakepitError, BrokenProcessPool):
    """The worker died while it ran this task. The pool replaced the worker and goes on.

    `details`: worker, pid, exit_code (negative: the signal), signal (its name or None), task,
    autopsy (plain values; see `autopsy`).
    """

    @property
    def autopsy(self) -> Autopsy:
        """What the worker died of: exit code or signal, memory, stack, last lines of stderr."""
        from snakepit.lifecycle.autopsy import Autopsy

        data = self.details.get("autopsy")
        return Autopsy.from_data(data) if data is not None else Autopsy()


class PoolNotReadyError(SnakepitError, BrokenProcessPool):
    """The pool cannot start workers: the initializer raised, they die at once, or never get ready.

    `__cause__` says why.
    """


WorkerCrashedError.__module__ = PoolNotReadyError.__module__ = SnakepitError.__module__
