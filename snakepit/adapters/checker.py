"""ThreadSafetyChecker: watches what threads do to an adapter, and reports what may go wrong."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from snakepit.adapters.adapter import Adapter, marks_of
from snakepit.adapters.thread_safe import CountingLock, ThreadSafeAdapter
from snakepit.errors import AdapterError

__all__ = ["ThreadSafetyChecker"]

logger = logging.getLogger("snakepit")


@dataclass
class _Seen:
    """What was seen of one method."""

    calls: int = 0
    without_lock: set[int] = field(default_factory=set)  # threads
    takes_lock: bool = False  # somewhere inside, as was seen
    inside: int = 0  # threads in it now, without the lock
    most: int = 0
    reported: bool = False


class ThreadSafetyChecker:
    """Watches the methods of an adapter's instance for the time of a test or a trial.

    `enabled=False` makes it do nothing. `strict_mode`: a second thread that enters a method which
    another has left without taking the lock gets AdapterError in its place, each time, where
    otherwise it is logged once. While none has left it, nobody can know whether it is going to take
    the lock: of threads that are inside together, the second to leave gets the error.

    Tools marked `thread_sensitive` are not reported: their pool runs them one at a time. Generators
    are inside from their first chunk to their end.

        checker = ThreadSafetyChecker()
        checker.watch(self)                # in setup(), for instance
        ...
        checker.get_report()

    Its price is some microseconds a call: it is for finding out, not for production.
    """

    def __init__(self, enabled: bool = True, strict_mode: bool = False) -> None:
        self.enabled = enabled
        self.strict_mode = strict_mode
        self._lock = threading.RLock()
        self._seen: dict[str, _Seen] = {}
        self._locks: list[CountingLock] = []

    def watch(self, adapter: Adapter) -> None:
        """Watch the public methods of an instance, from now on."""
        if not self.enabled:
            return
        lock = getattr(adapter, "_adapter_lock", None)
        if isinstance(lock, CountingLock):
            self._locks.append(lock)
        for name in dir(type(adapter)):
            method = getattr(type(adapter), name)
            inherited = method is getattr(ThreadSafeAdapter, name, None)
            if name.startswith("_") or not callable(method) or inherited:
                continue
            bound = getattr(adapter, name)
            if getattr(bound, "__self__", None) is adapter:
                setattr(adapter, name, self._watched(adapter, name, bound))

    def _watched(self, adapter: Adapter, name: str, bound: Callable[..., Any]) -> Any:
        label = f"{type(adapter).__name__}.{name}"
        marks = marks_of(type(adapter), name)
        in_turn = marks is not None and marks.thread_sensitive
        streams = inspect.isgeneratorfunction(bound) or (marks is not None and marks.streaming)

        @functools.wraps(bound)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._inside(label, adapter, in_turn):
                return bound(*args, **kwargs)

        @functools.wraps(bound)
        def stream(*args: Any, **kwargs: Any) -> Any:
            with self._inside(label, adapter, in_turn):
                return (yield from bound(*args, **kwargs))

        return stream if streams else call

    @contextmanager
    def entered(self, name: str, adapter: Adapter | None = None) -> Iterator[None]:
        """Note that this thread is inside of what `name` stands for, until the `with` ends.

        Whether it holds the lock counts when it enters and again when it leaves: a method that
        takes the lock itself (`@thread_safe_method`) is fine. Raises AdapterError in strict mode.
        """
        if not self.enabled:
            yield
            return
        with self._inside(name, adapter, False):
            yield

    @contextmanager
    def _inside(self, name: str, adapter: Adapter | None, in_turn: bool) -> Iterator[None]:
        """As `entered`; `in_turn`: somebody sees to it that one thread at a time is inside."""
        lock = getattr(adapter, "_adapter_lock", None)
        before = lock.acquired if isinstance(lock, CountingLock) else 0
        safe = in_turn or (isinstance(lock, CountingLock) and lock.is_mine())
        me = threading.get_ident()
        with self._lock:
            seen = self._seen.setdefault(name, _Seen())
            refused = (
                self.strict_mode
                and not (safe or seen.takes_lock)
                and bool(seen.without_lock - {me})
            )  # fmt: skip
            if refused:
                seen.without_lock.add(me)
            else:
                seen.calls += 1
                seen.inside += not safe
                seen.most = max(seen.most, seen.inside)
        if refused:
            raise self._error(name, seen)
        try:
            yield
        except BaseException:
            # What the method raises is not to be hidden by what is said of it.
            self._leave(name, seen, safe, lock, before)
            raise
        if self._leave(name, seen, safe, lock, before):
            raise self._error(name, seen)

    def _leave(self, name: str, seen: _Seen, safe: bool, lock: Any, before: int) -> bool:
        """Note that this thread is outside again; whether that is to raise."""
        # Taken by anybody meanwhile: whose turn it was cannot be told, so nobody is blamed.
        takes_lock = not safe and isinstance(lock, CountingLock) and lock.acquired > before
        with self._lock:
            seen.inside -= not safe
            seen.takes_lock = seen.takes_lock or takes_lock
            if safe or takes_lock:
                return False
            seen.without_lock.add(threading.get_ident())
            if len(seen.without_lock) < 2:
                return False
            reported, seen.reported = seen.reported, True
        if not (self.strict_mode or reported):
            logger.warning("snakepit: %s", self._error(name, seen))
        return self.strict_mode

    def _error(self, name: str, seen: _Seen) -> AdapterError:
        return AdapterError(
            f"{name} was entered by {len(seen.without_lock)} threads without the adapter's lock: "
            "take it (acquire_lock, @thread_safe_method), or keep to values of the thread",
            details={"adapter": name, "step": "thread safety"},
        )

    def check_libraries(self) -> dict[str, str]:
        """Return which of the libraries that this process has imported need care, and why.

        Those that `snakepit.Compatibility` warns of where threads share them.
        """
        # Lazily: a worker whose adapter is watched has no use for the list until it is asked.
        from snakepit.diagnostics.libraries import needing_care

        return needing_care(sys.modules)

    def get_report(self) -> dict[str, Any]:
        """Return what was seen, as plain values.

        `methods`: calls of each, threads that entered it without the lock, and how many were inside
        at once. `unsafe_methods`: those that several threads entered so. `libraries`: as
        `check_libraries`. `contention`: how often the watched locks were taken, waited for, and for
        how many seconds in all.
        """
        with self._lock:
            methods = {
                name: {
                    "calls": seen.calls,
                    "threads_without_lock": len(seen.without_lock),
                    "most_at_once": seen.most,
                }
                for name, seen in sorted(self._seen.items())
            }
        return {
            "enabled": self.enabled,
            "strict_mode": self.strict_mode,
            "methods": methods,
            "unsafe_methods": [
                name for name, seen in methods.items() if seen["threads_without_lock"] > 1
            ],
            "libraries": self.check_libraries() if self.enabled else {},
            "contention": {
                "acquired": sum(lock.acquired for lock in self._locks),
                "contended": sum(lock.contended for lock in self._locks),
                "seconds_waited": sum(lock.waited for lock in self._locks),
            },
        }
