"""ThreadSafetyChecker: watches what threads do to an adapter, and reports what may go wrong."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from snakepit.adapters.adapter import Adapter
from snakepit.adapters.thread_safe import CountingLock, ThreadSafeAdapter
from snakepit.errors import AdapterError

__all__ = ["ThreadSafetyChecker"]

logger = logging.getLogger("snakepit")

# Objects of these must not be used by two threads at once, say their own documentations.
UNSAFE_LIBRARIES = {
    "matplotlib": "its artists and pyplot's global state are not thread-safe; one figure a thread",
    "pandas": "a DataFrame must not be copied or read while another thread changes it",
    "sqlite3": "a connection belongs to the thread that made it; one connection a thread",
    "tkinter": "all calls belong to the thread of the main loop",
}


@dataclass
class _Seen:
    """What was seen of one method."""

    calls: int = 0
    without_lock: set[int] = field(default_factory=set)  # threads
    inside: int = 0  # threads in it now, without the lock
    most: int = 0
    reported: bool = False


class ThreadSafetyChecker:
    """Watches the methods of an adapter's instance for the time of a test or a trial.

    `enabled=False` makes it do nothing. `strict_mode`: a method that a second thread enters without
    the lock raises AdapterError there and then, instead of being logged once.

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
        @functools.wraps(bound)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.entered(f"{type(adapter).__name__}.{name}", adapter):
                return bound(*args, **kwargs)

        return call

    @contextmanager
    def entered(self, name: str, adapter: Adapter | None = None) -> Iterator[None]:
        """Note that this thread is inside of what `name` stands for, until the `with` ends.

        Whether it holds the lock counts when it enters and again when it leaves: a method that
        takes the lock itself (`@thread_safe_method`) is fine.
        """
        if not self.enabled:
            yield
            return
        lock = getattr(adapter, "_adapter_lock", None)
        before = lock.acquired if isinstance(lock, CountingLock) else 0
        safe = isinstance(lock, CountingLock) and lock.is_mine()
        counted = not safe
        with self._lock:
            seen = self._seen.setdefault(name, _Seen())
            seen.calls += 1
            seen.inside += counted
            seen.most = max(seen.most, seen.inside)
        try:
            yield
        finally:
            # Taken by anybody meanwhile: whose turn it was cannot be told, so nobody is blamed.
            safe = safe or (isinstance(lock, CountingLock) and lock.acquired > before)
            with self._lock:
                seen.inside -= counted
                if not safe:
                    seen.without_lock.add(threading.get_ident())
                guilty = len(seen.without_lock) > 1 and not seen.reported
                seen.reported = seen.reported or guilty
        if guilty or (self.strict_mode and not safe and len(seen.without_lock) > 1):
            self._report(name, len(seen.without_lock))

    def _report(self, name: str, threads: int) -> None:
        text = (
            f"{name} was entered by {threads} threads without the adapter's lock: take it "
            "(acquire_lock, @thread_safe_method), or keep to values of the thread"
        )
        if self.strict_mode:
            raise AdapterError(text, details={"adapter": name, "step": "thread safety"})
        logger.warning("snakepit: %s", text)

    def check_libraries(self) -> dict[str, str]:
        """Return which of the libraries that this process has imported need care, and why."""
        return {name: reason for name, reason in UNSAFE_LIBRARIES.items() if name in sys.modules}

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
