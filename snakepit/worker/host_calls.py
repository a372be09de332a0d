"""A worker calls functions of its owner (see `snakepit.pool.asks`), and is of use while it waits.

A host tool may submit tasks to the pool and wait for them. When every worker waits for a host tool,
nobody would run those; so the owner lends them to workers that wait (`snakepit.pool.lending`), and
each runs on top of the call that waits.
"""

from __future__ import annotations

import concurrent.futures
import threading
import traceback
from collections import deque
from collections.abc import Callable
from itertools import starmap
from typing import TYPE_CHECKING, Any

from snakepit._core.constants import CALL, CALL_EACH, FUNCTION_INSIDE, MAIL_RAN, MAIL_TOOL
from snakepit.errors import TaskInterrupt, TaskStoppedError
from snakepit.worker import context
from snakepit.worker.nested import NestedFuture

if TYPE_CHECKING:
    from snakepit.worker.nested import NestedPool

LOOK_SECONDS = 0.05

# An encoded call, and what it is: (encoding, flags, payload, segment, length), (loan's number,
# kind, number and epoch of the function, key of the session).
Loan = tuple[tuple[int, int, Any, Any, int], tuple[int, int, int, int, int]]


class HostCall(NestedFuture):
    """The outcome of a function of the owner's."""

    def __init__(self, pool: NestedPool, number: int) -> None:
        super().__init__(pool, number)
        self._wanted = True  # It cannot come back to be run here.
        self._loans: deque[Loan] = deque()
        self._left = False  # nobody waits any more

    def take_loan(self, loan: Loan) -> None:
        """Have whoever waits run a call that is lent; in the thread that hears the owner."""
        with self._condition:
            left = self._left
            if not left:
                self._loans.append(loan)
                self._condition.notify_all()
        if left:
            self._run_beside(loan)

    def _run_beside(self, loan: Loan) -> None:
        # Nobody else has it any more, so it is run somehow.
        threading.Thread(
            target=run_loan, args=(self._pool, loan), name="snakepit-helper", daemon=True
        ).start()

    def _ready(self) -> bool:
        return bool(self._loans) or self.done()

    def await_outcome(self) -> Any:
        """Wait for the outcome, and run meanwhile what is lent."""
        # A signal's handler breaks the main thread's wait. What is raised in another thread comes
        # between two of its bytecodes, so that one has to run some now and then.
        in_main = threading.current_thread() is threading.main_thread()
        pause = None if in_main else LOOK_SECONDS
        try:
            while True:
                loan = None
                with self._condition:
                    ready = self._condition.wait_for(self._ready, pause)
                    if self._loans:
                        loan = self._loans.popleft()
                if loan is not None:
                    run_loan(self._pool, loan)
                elif ready:
                    return concurrent.futures.Future.result(self, 0)
        finally:
            with self._condition:
                self._left = True
                loans, self._loans = self._loans, deque()
            for loan in loans:
                self._run_beside(loan)


def call_host(pool: NestedPool, request: tuple[Any, ...]) -> Any:
    """Have the owner run a host tool, (key of the session, name, args, kwargs), and wait for it."""
    with context.lent_turn():
        return pool.request(HostCall, MAIL_TOOL, request).await_outcome()


def run_loan(pool: NestedPool, loan: Loan) -> None:
    """Run a call that was lent, and tell the owner how it ended."""
    message, (number, kind, definition, epoch, session) = loan
    interrupt: TaskInterrupt | None = None
    outcome: Any = None
    failed = False
    done: list[Any] = []
    try:
        with context.inner_call(session):
            function, args, kwargs = _decode(pool, message, kind, definition, epoch)
            del message, loan
            if kind == CALL:
                outcome = function(*args, **kwargs)
            else:
                # Into the list, which keeps what was done before an error.
                done.extend(
                    map(function, args[0]) if kind == CALL_EACH else starmap(function, args[0])
                )
                outcome = done
            del function, args, kwargs
    except BaseException as error:
        problem: BaseException = error
        if isinstance(error, TaskInterrupt):
            # Meant for the call that waits here.
            interrupt = error
            problem = TaskStoppedError(
                "the task was stopped together with the one on whose worker it ran: that one "
                "waited for a host tool",
                details={},
            )
        failed, outcome = True, _failure(problem, error, done)
    try:
        pool.tell(MAIL_RAN, number, (failed, outcome))
    except Exception as error:
        pool.tell(MAIL_RAN, number, (True, _failure(error, error, [])))
    if interrupt is not None:
        raise interrupt


def _failure(
    error: BaseException, shown: BaseException, done: list[Any]
) -> tuple[BaseException, str, list[Any]]:
    from snakepit.worker.loop import portable

    text = "".join(traceback.format_exception(shown))
    return portable(error, text), text, done


def _decode(
    pool: NestedPool,
    message: tuple[int, int, Any, Any, int],
    kind: int,
    definition: int,
    epoch: int,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    encoding, flags, payload, segment, length = message
    value = pool.decode(encoding, payload, segment, length)
    if flags & FUNCTION_INSIDE:
        function, args, kwargs = value
        return function, args, kwargs
    function = context.load_definition(definition, epoch)
    if kind != CALL:
        return function, (value,), {}
    if value is None:
        return function, (), {}
    if isinstance(value, list):
        return function, tuple(value), {}
    args, kwargs = value
    return function, args, kwargs
