"""ThreadSafeAdapter: one instance for several threads, with a lock, values of each, and counts.

class Index(ThreadSafeAdapter):
    @tool
    @thread_safe_method
    def add(self, key: str, value: int) -> None:     # one thread at a time
        self.entries[key] = value

    @tool
    def search(self, key: str) -> int:
        client = self.get_thread_local("client") or self.connect()   # one for each thread
        with self.acquire_lock():
            return self.entries[key]
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Self, TypeVar

from snakepit._core.locks import CountingLock
from snakepit.adapters.adapter import Adapter

__all__ = ["CountingLock", "ThreadSafeAdapter", "thread_safe_method"]

F = TypeVar("F", bound=Callable[..., Any])


class ThreadSafeAdapter(Adapter):
    """Base of adapters whose tools several threads run on one instance.

    It declares `__thread_safe__ = True` for its subclasses: what they change, they must change
    under `acquire_lock()`, in a `@thread_safe_method`, or in values of the thread.
    """

    __thread_safe__ = True

    _adapter_lock: CountingLock
    _adapter_values: threading.local
    _adapter_counts: Counter[str]
    _adapter_threads: set[int]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here, so that a subclass need not call the constructor of its base.
        self = super().__new__(cls)
        self._adapter_lock = CountingLock()
        self._adapter_values = threading.local()
        self._adapter_counts = Counter()
        self._adapter_threads = set()
        return self

    def acquire_lock(self) -> CountingLock:
        """Return the instance's lock for a `with`; a thread that holds it may take it again.

        A call that waits for it, or holds it, can be stopped; it lets go of it at the end of the
        `with`.
        """
        return self._adapter_lock

    def get_thread_local(self, key: str, default: Any = None) -> Any:
        """Return what this thread has set under `key`, else `default`."""
        return self._adapter_values.__dict__.get(key, default)

    def set_thread_local(self, key: str, value: Any) -> None:
        """Keep a value that only this thread sees, for as long as the thread lives."""
        self._adapter_values.__dict__[key] = value

    def get_stats_dict(self) -> dict[str, Any]:
        """Return what the instance saw, as plain values; `seconds_waited` is for the lock.

        Calls are those of methods marked `@thread_safe_method`.
        """
        with self._adapter_lock:
            return {
                "adapter": type(self).__name__,
                "calls": dict(self._adapter_counts),
                "total_calls": self._adapter_counts.total(),
                "threads": len(self._adapter_threads),
                "lock_acquired": self._adapter_lock.acquired,
                "lock_contended": self._adapter_lock.contended,
                "seconds_waited": self._adapter_lock.waited,
            }


def thread_safe_method(method: F) -> F:
    """Have a method of a ThreadSafeAdapter run under its lock, and counted.

    A generator holds the lock from its first chunk to its last: keep such streams short.
    """

    def note(self: ThreadSafeAdapter) -> None:
        self._adapter_counts[method.__name__] += 1
        self._adapter_threads.add(threading.get_ident())

    @functools.wraps(method)
    def call(self: ThreadSafeAdapter, /, *args: Any, **kwargs: Any) -> Any:
        with self.acquire_lock():
            note(self)
            return method(self, *args, **kwargs)

    @functools.wraps(method)
    def stream(self: ThreadSafeAdapter, /, *args: Any, **kwargs: Any) -> Any:
        with self.acquire_lock():
            note(self)
            yield from method(self, *args, **kwargs)

    wrapped: Any = stream if inspect.isgeneratorfunction(method) else call
    return wrapped  # type: ignore[no-any-return]
