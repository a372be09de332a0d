"""Callbacks of futures, in a thread of their own."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger("snakepit")


class CallbackThread:
    """Runs the callbacks of settled futures one after the other.

    Who settles must not: a caller in `result()` waits for its own outcome and not for what others
    hung on theirs, and the pool's threads see to deadlines, dead workers and the mail of living
    ones, so that a callback that waits for a call, a replacement or the pool's end would wait for
    itself. Here it can only hold up other callbacks. What such a future's callers wait for is there
    before.

    Those of `asyncio` run at once, wherever they are: all that they do is to leave word with their
    event loop. The thread starts with the first other callback and stays until `end`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        # A finaliser or signal handler may come to its `put` on top of another.
        self._futures: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._ended = False

    def add(self, future: Any) -> None:
        """Have the callbacks of a settled future run soon."""
        if all(_only_leaves_word(callback) for callback in future._done_callbacks):
            _run_callbacks(future)
            return
        self._futures.put(future)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._start()

    def _start(self) -> None:
        if self._ended:
            self._futures.put(None)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            future = self._futures.get()
            if future is not None:
                _run_callbacks(future)
                # While the thread waits, it must not keep the last outcome alive.
                del future
                continue
            with self._lock:
                me, self._thread = self._thread, None
                # Who has put something since looks at `_thread` after that, and finds none.
                if self._futures.empty():
                    return
                self._thread = me
            self._futures.put(None)

    def end(self) -> None:
        """Let the thread end once it has run what there is."""
        with self._lock:
            self._ended = True
            if self._thread is not None:
                self._futures.put(None)

    def threads(self) -> list[threading.Thread]:
        """Return the thread, if there is one now."""
        thread = self._thread
        return [thread] if thread is not None else []


def _only_leaves_word(callback: Any) -> bool:
    return getattr(callback, "__module__", None) == "asyncio.futures"


def _run_callbacks(future: Any) -> None:
    try:
        future._invoke_callbacks()
    except BaseException:
        # SystemExit, for instance: it ends no thread that others count on.
        logger.exception("snakepit: error in a callback of %r", future)
