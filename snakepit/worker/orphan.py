"""What a worker does in the moment between its owner's end and its own.

    the owner ends: the lifeline closes
      lifeline's thread   the interrupting signal to the main thread; sleeps GRACE; ends it all
      main thread         claims nothing more; TaskInterrupt in what runs; teardown; the end

The first line needs nobody's help, the second is what Python can do meanwhile. Nobody reads answers
any more, so it need not be exact: an interrupt may strike anywhere, and the worker ends.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Any

from snakepit.errors import TaskInterrupt

__all__ = ["GRACE", "interrupt_threads", "is_orphan", "make_handler", "note_lifeline"]

GRACE = 0.2  # seconds from the owner's end until the worker's

_lifeline = -1
_told = False


def note_lifeline(fd: int) -> None:
    """Let `is_orphan` know by what this process sees that its owner lives."""
    global _lifeline
    _lifeline = fd


def is_orphan() -> bool:
    """Whether the owner of this worker is gone."""
    if _lifeline < 0:
        return False
    poller = select.poll()
    poller.register(_lifeline, select.POLLIN)
    return bool(poller.poll(0))


def make_handler(lane: Any, control: Any) -> Callable[[int, Any], None]:
    """Return the handler of the interrupting signal, in a worker whose main thread runs tasks."""

    def handle(number: int, frame: Any) -> None:
        global _told
        if not is_orphan():
            lane.interrupt(number, frame)
        elif not _told:
            _told = True
            _claim_no_more(control, lane.index)
            raise TaskInterrupt("the process that owns the pool is gone")

    return handle


def interrupt_threads(control: Any, threads: dict[int, int]) -> None:
    """In a worker of several threads: leave TaskInterrupt with those that run a task.

    `threads`: their idents by their lanes, the first of the worker among them.
    """
    global _told
    if _told:
        return
    _told = True
    import ctypes

    roster = _claim_no_more(control, min(threads))
    for lane, ident in threads.items():
        if roster.lane_info(lane)["task"] is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(TaskInterrupt)
            )


def _claim_no_more(control: Any, lane: int) -> Any:
    from snakepit._core.roster import Roster

    roster = Roster(control)
    roster.retire(lane)
    return roster


@contextlib.contextmanager
def ends_quietly() -> Any:
    """Let the interrupt that strikes outside a task end what it strikes."""
    try:
        yield
    except TaskInterrupt:
        if not _told:
            raise
