"""What pools of processes and of threads have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit._core.locks import HoldingLock
from snakepit.lifecycle.starts import MOST_FAILED_STARTS
from snakepit.pool.living import LivingSet

if TYPE_CHECKING:
    from snakepit.pool.attempts import Calls, GuardedCall
    from snakepit.pool.futures import Future
    from snakepit.pool.terms import Terms


class BasePool:
    """The part of a pool that is the same whatever runs its calls.

    `life` is notified when a worker is ready, when there is no hope of that, when one ends, and
    when the pool is closed.
    """

    runs_in_threads = False  # of this process
    # Of a pool of adapters whose tools are called as they are: their names, by their identity.
    tool_names: Mapping[int, str] = MappingProxyType({})

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        # Not of the class: each call reads it, and of an instance that is quicker.
        self.broken: errors.PoolNotReadyError | None = None
        self.calls: Calls | None = None  # of several attempts; made when there is one
        self._closed = False
        self._life = threading.Condition(HoldingLock())  # type: ignore[arg-type]
        self._waiting_maps: LivingSet[Any] = LivingSet()

    # -- calls of several attempts (see `snakepit.pool.attempts`) ----------------------------------

    def _make_guarded(self, terms: Terms, on_settled: Any) -> GuardedCall:
        """Make the future of a call under such terms, whose `begin` makes the first attempt."""
        from snakepit.pool.attempts import Calls, GuardedCall

        with self._life:
            if self.calls is None:
                self.calls = Calls()
        call = GuardedCall(self, terms)  # type: ignore[arg-type]  # what a pool does, its kind says
        call.set_hook(on_settled)
        return call

    def _stop_session(self, session: int, tasks: Iterable[Future[Any]]) -> int:
        """Stop the calls of a session, of which `tasks` are under way; returns how many."""
        calls = self.calls.of_session(session) if self.calls else {}
        plain = set(tasks).difference(calls.values())
        return sum(future.stop() for future in (*calls, *plain))

    def _is_under_way(self, session: int, tasks: Iterable[Future[Any]]) -> bool:
        """Whether a session has calls, of which `tasks` are queued or run."""
        return bool(tasks or (self.calls and self.calls.of_session(session)))

    # -- readiness ---------------------------------------------------------------------------------

    def _await_ready(self, ready: Callable[[], int], timeout: float | None, what: str) -> None:
        before, _ = self.start_failures()

        def is_hopeless() -> bool:
            return self.start_failures()[0] - before >= MOST_FAILED_STARTS

        with self._life:
            done = self._life.wait_for(
                lambda: (
                    self.broken is not None or self._closed or ready() >= self.size or is_hopeless()
                ),
                timeout,
            )
        if self.broken is not None:
            raise self._why_broken()
        if self._closed:
            raise errors.PoolShutdownError.of(self.name)
        count = ready()
        if is_hopeless() and count < self.size:
            failed, reason = self.start_failures()
            raise errors.PoolNotReadyError(
                f"{count} of {self.size} {what} of pool {self.name!r} are ready, and others could "
                f"not be started in {failed - before} tries, the last: {reason}; calls run on "
                "those that are ready, and the pool goes on trying",
                details={"pool": self.name, "ready": count, "size": self.size},
            )
        if not done:
            raise errors.ReadyTimeoutError(
                f"{count} of {self.size} {what} of pool {self.name!r} were ready after "
                f"{timeout:g} s; give await_ready() or wait_ready() more time, or do without: "
                "calls run on those that are ready",
                details={
                    "pool": self.name,
                    "ready": count,
                    "size": self.size,
                    "timeout": timeout,
                },
            )

    def start_failures(self) -> tuple[int, str]:
        """Return how many starts of workers have failed so far, and why the last of them did."""
        return 0, ""

    def _why_broken(self) -> errors.PoolNotReadyError:
        assert self.broken is not None
        # A copy for each: an exception that several threads raise collects all their tracebacks.
        error = errors.PoolNotReadyError(str(self.broken), details=self.broken.details)
        error.__cause__ = self.broken.__cause__
        return error

    # -- maps and the end --------------------------------------------------------------------------

    def add_map(self, running: Any) -> None:
        """Remember a map with items left to submit: closing the pool submits them first."""
        self._waiting_maps.add(running)

    def _end_maps(self, *, cancel_futures: bool, only_sized: bool) -> None:
        for running in self._waiting_maps:
            if cancel_futures:
                running.abandon()
                continue
            try:
                running.finish_reading(only_sized=only_sized)
            except errors.PoolNotReadyError:
                # The pool has given up: who asks the map for its results is told so.
                continue
