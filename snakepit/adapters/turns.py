"""Turns: of the calls that are not to run beside each other, one at a time, in their order.

A lock would not do. A call that waits for one cannot be interrupted: to stop it, its whole worker
would be ended, and with it the very call whose turn it is.

A call that waits for a host tool, or for a call of its pool, lends its turn meanwhile: what it
waits for may take one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from snakepit._core.locks import GLANCE, HoldingLock
from snakepit.errors import TaskStoppedError
from snakepit.worker.context import cancelled, note_turns


class Turn:
    """One call's."""

    __slots__ = ("came", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.came: threading.Lock | None = None  # held until it has come, if it is waited for


class Turns:
    """Those of one instance of an adapter. Thread-safe."""

    def __init__(self) -> None:
        self._lock = HoldingLock()
        self._present: Turn | None = None
        self._waiting: deque[Turn] = deque()

    def taking(self, method: Callable[..., Any], streaming: bool) -> Callable[..., Any]:
        """Return what calls a method when it is its turn; of a stream, until it ends."""

        def call(*values: Any, **named: Any) -> Any:
            if self._is_mine():
                return method(*values, **named)
            turn = Turn()
            try:
                self._await(turn)
                return method(*values, **named)
            finally:
                # Once more if an interrupt comes on the way to where it is held off.
                try:
                    self._end(turn)
                except BaseException:
                    self._end(turn)
                    raise

        def stream(*values: Any, **named: Any) -> Iterator[Any]:
            if self._is_mine():
                yield from method(*values, **named)
                return
            turn = Turn()
            try:
                self._await(turn)
                yield from method(*values, **named)
            finally:
                # Once more if an interrupt comes on the way to where it is held off.
                try:
                    self._end(turn)
                except BaseException:
                    self._end(turn)
                    raise

        return stream if streaming else call

    def _is_mine(self) -> bool:
        """Whether this thread has its turn: a call within a call does not wait for that."""
        present = self._present
        return present is not None and present.thread == threading.get_ident()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Give this thread's turn to others, and have the next one at the end.

        Raises TaskStoppedError when the call is to stop before that has come.
        """
        turn = self._present
        if turn is None or turn.thread != threading.get_ident():
            yield
            return
        self._end(turn)
        try:
            yield
        finally:
            self._take(turn, first=True)

    def _await(self, turn: Turn) -> None:
        self._take(turn)
        note_turns(self)
        # Before it begins: whoever stopped it may have done so for the sake of what it would do.
        if cancelled():
            raise _stopped()

    def _take(self, turn: Turn, *, first: bool = False) -> None:
        with self._lock:
            if self._present is None:
                self._present = turn
                return
            came = turn.came = threading.Lock()
            came.acquire()
            if first:
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
        while not came.acquire(timeout=GLANCE):
            if cancelled():
                raise _stopped()

    def _end(self, turn: Turn) -> None:
        """The call has ended, or waits no longer; to say so twice changes nothing."""
        with self._lock:
            if self._present is not turn:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
                return
            following = self._present = self._waiting.popleft() if self._waiting else None
            if following is not None and following.came is not None:
                following.came.release()


def _stopped() -> TaskStoppedError:
    return TaskStoppedError(
        "the task was stopped on request, while it waited for its turn among the "
        "thread_sensitive tools of its worker",
        details={"pid": os.getpid()},
    )
