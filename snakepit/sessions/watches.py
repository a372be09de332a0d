"""Watching variables: iterators that wait for changes, and callbacks that are told of them.

A change is noted for its watches under the lock of the variables, so that every watch sees the
changes in their order, and delivered outside of it: an iterator's reader wakes up and takes it, a
callback is run by the notifier's thread. That is not the thread which made the change, as that one
may be the thread that answers workers, and a callback may take its time.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from snakepit._core.locks import HoldingLock

__all__ = ["CallbackWatch", "IteratorWatch", "Notifier", "Watch"]

logger = logging.getLogger("snakepit")

MOST_WAITING = 1_000
"""Changes that wait for a watch; of more, the oldest are dropped."""

LINGER = 1.0
"""Seconds for which the notifier's thread stays when it has nothing to do."""


class Watch:
    """A watch over one variable of a session, until it is stopped or the variable ends.

    A context manager that stops it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._waiting: deque[tuple[Any, int]] = deque(maxlen=MOST_WAITING)
        self._stopped = False
        # Re-entrant: a signal handler may stop a watch, or set the variable, in the middle of here.
        self._condition = threading.Condition(HoldingLock())  # type: ignore[arg-type]

    @property
    def stopped(self) -> bool:
        """Whether it is over: stopped, or the variable or session has ended."""
        return self._stopped

    def note(self, value: Any, version: int) -> None:
        """Take a change. Called under the lock of the variables: never runs foreign code."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take that there will be no more changes; those that wait are still delivered."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def stop(self) -> None:
        """End the watch now, forgetting what waits. A callback that has begun is not waited for."""
        with self._condition:
            self._waiting.clear()
            self.finish()

    close = stop

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "watching"
        return f"<{type(self).__name__} {self.name!r}: {state}>"


class IteratorWatch(Watch):
    """Yields (value, version) for each change, waiting for the next; ends when the watch does.

    Changes are kept for a reader that is slow, up to 1,000; of more, the oldest are dropped, which
    a gap in the versions shows. Several threads may read from one: each change goes to one of them.
    """

    def note(self, value: Any, version: int) -> None:
        with self._condition:
            if not self._stopped:
                self._waiting.append((value, version))
                self._condition.notify()

    def next(self, timeout: float | None = None) -> tuple[Any, int]:
        """Return the next change, waiting at most `timeout` seconds, by default for ever.

        Raises TimeoutError, and StopIteration once the watch is over.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._waiting or self._stopped, timeout):
                raise TimeoutError(f"variable {self.name!r} did not change within {timeout:g} s")
            if not self._waiting:
                raise StopIteration
            return self._waiting.popleft()

    def __iter__(self) -> IteratorWatch:
        return self

    def __next__(self) -> tuple[Any, int]:
        return self.next()

    def __enter__(self) -> IteratorWatch:
        return self


class CallbackWatch(Watch):
    """Has `callback(value, version)` run for each change, in their order, one at a time.

    One that raises is logged and detached.
    """

    def __init__(
        self, name: str, callback: Callable[[Any, int], object], notifier: Notifier
    ) -> None:
        super().__init__(name)
        self._callback = callback
        self._notifier = notifier

    def note(self, value: Any, version: int) -> None:
        with self._condition:
            if self._stopped:
                return
            self._waiting.append((value, version))
        self._notifier.add(self)

    def deliver(self) -> None:
        """Run the callback for the oldest change that waits."""
        with self._condition:
            if not self._waiting:
                return  # stopped, or dropped as one of too many
            value, version = self._waiting.popleft()
        try:
            self._callback(value, version)
        except BaseException:
            # Of whatever class: this thread has the other callbacks to run.
            self.stop()
            logger.exception(
                "the callback %r that watches variable %r raised and is detached",
                self._callback,
                self.name,
            )


class Notifier:
    """Runs the callbacks of a store's watches, in one thread that is there while there are some."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may set a variable in the middle of `add`.
        self._condition = threading.Condition(HoldingLock())  # type: ignore[arg-type]
        self._watches: deque[CallbackWatch] = deque()
        self._running = False
        # What `SessionStore.on_change` was given; replaced as a whole, so that it is read unlocked.
        self.on_change: tuple[Callable[[str], object], ...] = ()

    def add(self, watch: CallbackWatch) -> None:
        """Have a change delivered soon."""
        with self._condition:
            self._watches.append(watch)
            if self._running:
                self._condition.notify()
                return
            thread = threading.Thread(target=self._run, name="snakepit-watches", daemon=True)
            self._running = True
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is ending, or there are no threads left: the next change tries
                # again.
                self._running = False

    def _run(self) -> None:
        while True:
            with self._condition:
                if not self._watches and not self._condition.wait(LINGER) and not self._watches:
                    self._running = False
                    return
                if not self._watches:
                    continue
                watch = self._watches.popleft()
            watch.deliver()
            del watch
