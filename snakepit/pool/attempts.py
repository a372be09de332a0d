"""Calls that may take several attempts: retried, guarded by a circuit breaker, or idempotent.

    begin --> breaker admits? --> attempt: a future of the pool's own, queued like any other call
                   ^                           |
                   |        it is settled: the breaker hears, the policy decides
                   |                           |
                   +-- after the backoff ------+------> the outcome is this future's

The user holds one future from first to last. Nothing of this is on the way of a plain call.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Protocol

from snakepit.errors import (
    ArenaFullError,
    CircuitOpenError,
    EncodeError,
    SessionWorkerUnavailableError,
    TaskTimeoutError,
    WorkerCrashedError,
)
from snakepit.pool.futures import Future
from snakepit.pool.retry import CRASH_POLICY

if TYPE_CHECKING:
    from snakepit.pool.terms import Terms


# What a circuit breaker hears of a call that was admitted and never ran.
_NEVER_RAN = CancelledError()


class AttemptPool(Protocol):
    """What a pool does for calls of several attempts."""

    calls: Calls | None

    def prepare_call(
        self, call: GuardedCall, function: Any, kind: int, args: Any, kwargs: Any, number: Any, /
    ) -> None:
        """Make ready what all attempts share. Raises EncodeError, ArenaFullError, TypeError."""

    def queue_attempt(self, call: GuardedCall, first: bool, /) -> None:
        """Make a future, hand it to `call.follow`, and queue it. Raises PoolShutdownError."""

    def later(self, seconds: float, note: Callable[[], None], /) -> None:
        """Have `note()` run in `seconds`, in a thread that it must not block."""

    def call_ended(self) -> None:
        """A call left `calls`: a closed pool may be able to end now."""

    def stop_task(self, future: Future[Any], /) -> bool: ...

    def cancel_running(self, future: Future[Any], /) -> bool: ...


class Calls:
    """The calls of a pool that are under way, also between two attempts, when no queue has them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._calls: set[GuardedCall] = set()

    def add(self, call: GuardedCall) -> None:
        with self._lock:
            self._calls.add(call)

    def discard(self, call: GuardedCall) -> None:
        with self._lock:
            self._calls.discard(call)

    def __len__(self) -> int:
        return len(self._calls)

    def of_session(self, session: int) -> dict[GuardedCall, Future[Any] | None]:
        """Return the calls of a session, each with its attempt that is under way."""
        with self._lock:
            calls = [call for call in self._calls if call.terms.session == session]
        return {call: call.attempt_under_way for call in calls}

    def end(self) -> None:
        """Begin no more attempts: cancel what waits for one; what an attempt comes to, counts."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.let_end()


class GuardedCall(Future[Any]):
    """The future of a call under `terms.retry`, `terms.breaker` or `terms.idempotent`."""

    def __init__(self, pool: AttemptPool, terms: Terms) -> None:
        super().__init__()
        self.context: Any = pool
        self.terms = terms
        self.started = time.monotonic()
        # A local pool's: what makes the function and arguments of an attempt, and whether a task of
        # the pool submitted the call.
        self.call: Any = None
        self.nested = False
        self._cancel_running = terms.cancel_running
        # Guards what decides whether another attempt begins; re-entrant for signal handlers.
        # Futures are settled, and with it users' callbacks run, outside it.
        self._deciding = threading.RLock()
        self._attempt: Future[Any] | None = None  # queued or running; None between two
        self._final = False  # no attempt follows
        self._permit: int | None = None  # of the breaker, for the attempt under way
        self._retries = 0
        self._crashes = 0
        self._last_error: BaseException | None = None
        self._attempts = 0
        self._partial: Any = None
        self._ran_ns = 0

    # -- what the user sees ------------------------------------------------------------------------

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return self._attempts

    @property
    def run_ns(self) -> int:
        return self._ran_ns

    @property
    def attempt_under_way(self) -> Future[Any] | None:
        """The attempt that is queued or runs; None between two."""
        return self._attempt

    def running(self) -> bool:
        """Return True while an attempt runs."""
        attempt = self._attempt
        return attempt is not None and attempt.running() and not self.done()

    def cancel(self) -> bool:
        """Cancel the call unless an attempt runs; return whether it is cancelled."""
        return self._cancel(self._cancel_running)

    def _cancel(self, running: bool) -> bool:
        if self.done():
            return self.cancelled()
        with self._deciding:
            attempt = self._attempt
            if attempt is None:
                self._final = True
        if attempt is None:
            self._conclude_cancelled()
        elif not attempt.cancel() and running:
            with self._deciding:
                self._final = True
            self.context.cancel_running(attempt)
        # An attempt that was cancelled has settled this future by now.
        return self.cancelled()

    def stop(self) -> bool:
        """Stop the call, also while an attempt runs; return whether there was anything to stop."""
        with self._deciding:
            self._final = True
        if self._cancel(running=False):
            return True
        attempt = self._attempt
        return attempt is not None and not self.done() and bool(self.context.stop_task(attempt))

    def partial_outcome(self) -> Any:
        return self._partial

    # -- attempts ----------------------------------------------------------------------------------

    def begin(self, function: Any, kind: int, args: Any, kwargs: Any, number: Any = None) -> None:
        """Make the first attempt. Raises PoolShutdownError; other errors are the future's."""
        try:
            self._admit()
            self.context.prepare_call(self, function, kind, args, kwargs, number)
            self.context.calls.add(self)
            if not self._queue(first=True):
                self._settle_breaker(_NEVER_RAN)
        except (ArenaFullError, CircuitOpenError, EncodeError, TypeError) as error:
            self._settle_breaker(_NEVER_RAN)
            self._conclude(None, error)
        except BaseException:
            self._settle_breaker(_NEVER_RAN)
            self._leave()
            raise

    def _admit(self) -> None:
        if self.terms.breaker is not None:
            self._permit = self.terms.breaker.admit()

    def _settle_breaker(self, error: BaseException | None) -> None:
        permit, self._permit = self._permit, None
        if permit is not None and self.terms.breaker is not None:
            self.terms.breaker.settle(permit, error)

    def _queue(self, *, first: bool) -> bool:
        """Queue an attempt; False when the call has been ended meanwhile."""
        with self._deciding:
            if self._final:
                return False
            self._attempts += 1
            try:
                self.context.queue_attempt(self, first)
            except BaseException:
                self._unfollow()
                raise
            return True

    def follow(self, attempt: Future[Any]) -> None:
        """Take `attempt` for the one under way, just before it is queued."""
        attempt.context = self.context
        attempt.attempt = self._attempts
        attempt.set_hook(self._attempt_settled)
        self._attempt = attempt

    def _unfollow(self) -> None:
        if self._attempt is not None:
            self._attempt.set_hook(None)
            self._attempt = None

    def _begin_again(self) -> None:
        """The backoff is over; runs in the pool's timer thread."""
        if self.done():
            return
        try:
            self._admit()
        except CircuitOpenError as error:
            error.__cause__ = self._last_error
            self._conclude(None, error)
            return
        try:
            if not self._queue(first=False):
                self._settle_breaker(_NEVER_RAN)
        except Exception as error:
            self._settle_breaker(_NEVER_RAN)
            error.__cause__ = self._last_error
            self._conclude(None, error)

    def _attempt_settled(self, attempt: Future[Any]) -> None:
        """An attempt has ended; runs in whatever thread settled it."""
        self._ran_ns = attempt.run_ns
        if attempt.cancelled():
            self._settle_breaker(_NEVER_RAN)
            self._conclude_cancelled()
            return
        error = attempt.exception()
        self._settle_breaker(error)
        if error is None:
            self._conclude(attempt.result(), None)
            return
        delay = self._delay_after(error)
        if delay is None:
            self._partial = attempt.partial_outcome()
            self._conclude(None, self._explained(error))
            return
        with self._deciding:
            final = self._final
            if not final:
                self._last_error = error
                self._attempt = None
        if final:
            self._conclude(None, error)
            return
        reference = weakref.ref(self)

        def begin_again() -> None:
            call = reference()
            if call is not None:
                call._begin_again()

        self.context.later(delay, begin_again)

    def _delay_after(self, error: BaseException) -> float | None:
        """Seconds until the next attempt; None when there shall be none."""
        policy = self.terms.retry
        if self._final:
            return None
        if (
            self.terms.idempotent
            and isinstance(error, WorkerCrashedError)
            and self._crashes < CRASH_POLICY.max_attempts - 1
        ):
            self._crashes += 1
            delay = CRASH_POLICY.delay(self._crashes)
        elif (
            policy is not None and self._retries < policy.max_attempts - 1 and policy.retries(error)
        ):
            self._retries += 1
            delay = policy.delay(self._retries)
        else:
            return None
        # An attempt that could only begin after the deadline would turn the error that says what
        # is wrong into one that says only that time is up.
        left = self.seconds_left()
        return None if left is not None and delay >= left else delay

    def seconds_left(self) -> float | None:
        """Seconds until the deadline of the call, None without one."""
        timeout = self.terms.timeout
        return None if timeout is None else self.started + timeout - time.monotonic()

    def _explained(self, error: BaseException) -> BaseException:
        """Say in the error of the last attempt that it was not the only one."""
        if self._attempts < 2:
            if isinstance(error, TaskTimeoutError):
                error.details["timeout"] = self.terms.timeout
            return error
        if isinstance(error, TaskTimeoutError):
            # The attempt only knows what was left for it.
            from snakepit.pool.subjects import Subject

            late = TaskTimeoutError(
                f"{Subject.text_of(error.details)} did not end within its timeout of "
                f"{self.terms.timeout:g} s, "
                f"in which {self._attempts} attempts were made",
                details={
                    **error.details,
                    "timeout": self.terms.timeout,
                    "attempts": self._attempts,
                },
            )
            late.__cause__ = self._last_error
            return late
        if isinstance(error, SessionWorkerUnavailableError):
            # The earlier attempt tells what became of that worker.
            error.__cause__ = self._last_error
        error.add_note(f"snakepit: this was attempt {self._attempts} of the call")
        return error

    # -- the end -----------------------------------------------------------------------------------

    def let_end(self) -> None:
        """Begin no more attempts; cancel the call if none is under way."""
        with self._deciding:
            self._final = True
            waiting = self._attempt is None
        if waiting:
            self._conclude_cancelled()

    # The pool is left first: a callback of this future may wait for the pool's end.

    def _conclude(self, outcome: Any, error: BaseException | None) -> None:
        self._leave()
        self.conclude(outcome, error)

    def _conclude_cancelled(self) -> None:
        self._leave()
        self.mark_cancelled()

    def _leave(self) -> None:
        with self._deciding:
            self._final = True
            self._attempt = None
            self.call = None
            self._last_error = None
            self.drop_message()
        self.context.calls.discard(self)
        self.context.call_ended()
