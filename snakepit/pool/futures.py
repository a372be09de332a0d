"""The Future of a pool: a standard `concurrent.futures.Future` on a compiled task."""

from __future__ import annotations

import concurrent.futures
import logging
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from snakepit._core.task import Task

__all__ = ["Future", "StoppableFuture"]

# The standard library's own, so that what it would have logged is found where it is looked for.
logger = logging.getLogger("concurrent.futures")

T = TypeVar("T")


class Future(Task, concurrent.futures.Future[T]):
    """The outcome of a call that runs in a pool.

    Everything of `concurrent.futures.Future` holds, and `wait`, `as_completed` and
    `asyncio.wrap_future` take it.
    """

    # `context` is the pool, or None for a future whose call never got into one.

    if TYPE_CHECKING:

        def result(self, timeout: float | None = None) -> T:
            """Return what the call returned (see `Task.result`)."""

    def cancel(self) -> bool:
        """Cancel the call if it has not started; return whether it is cancelled.

        A call that was submitted under `cancel_running=True` is also cancelled while it runs: it is
        stopped as by `stop`, but reads as cancelled at once.
        """
        if super().cancel():
            return True
        pool: Any = self.context
        return bool(self._cancel_running and pool is not None and pool.cancel_running(self))

    _cancel_running = False

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Future cannot be pickled: pass what its result() returns instead")

    def _invoke_callbacks(self) -> None:
        raised: BaseException | None = None
        for callback in self._done_callbacks:  # type: ignore[attr-defined]
            try:
                callback(self)
            except Exception:
                logger.exception("exception calling callback for %r", self)
            except BaseException as error:
                # After the others, which are not its business.
                raised = error
        if raised is not None:
            raise raised

    @property
    def attempts(self) -> int:
        """How many attempts at the call have begun, if `options` let it have several; else 1."""
        return 1

    def stop(self) -> bool:
        """Stop the call, also when it runs already; return whether there was anything to stop.

        A call that has not started is cancelled. One that runs is asked by `snakepit.cancelled()`
        first; then TaskInterrupt is raised in it; then its worker is ended and replaced, or, if it
        is a thread, left behind and replaced (grace times: `snakepit.Graces`). The future then
        raises TaskStoppedError, unless the call ended by itself before, with a value or an error
        of its own.
        """
        # Not `cancel` of this class, which would have a call that runs read as cancelled.
        if super().cancel():
            return True
        pool: Any = self.context
        return bool(pool is not None and not self.done() and pool.stop_task(self))


class StoppableFuture(Future[T]):
    """A future of a pool whose calls may be cancelled while they run, without being told so."""

    _cancel_running = True
