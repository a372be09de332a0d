"""Callbacks of futures that a thread has settled which must not run them itself."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class CallbackThread:
    """Runs them one after the other, in a thread that is there only while there are some.

    Deadlines and dead workers are seen to by one thread a pool. A callback that blocks, or waits
    for another task's end, would stop it; here it can only hold up callbacks. What such a future's
    callers wait for is there before.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # Re-entrant: a finaliser may settle a future in the middle of `add`.
        self._lock = threading.RLock()
        self._futures: deque[Any] = deque()
        self._thread: threading.Thread | None = None

    def add(self, future: Any) -> None:
        """Have the callbacks of a settled future run soon."""
        with self._lock:
            self._futures.append(future)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._futures:
                    self._thread = None
                    return
                future = self._futures.popleft()
            future._invoke_callbacks()
            del future

    def threads(self) -> list[threading.Thread]:
        """Return the thread, if there is one now."""
        thread = self._thread
        return [thread] if thread is not None else []
