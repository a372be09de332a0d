"""What a worker records for the case that it dies: its last lines of stderr, its stack."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import TYPE_CHECKING

from snakepit._core.recorder import Recorder, echo_faults

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane


def start_recording(fd: int) -> None:
    """Record into the owner's file `fd` from now on, beside all that was done before."""
    stream = sys.stderr
    if stream is not None:
        try:
            # In place: handlers of `logging` and others may hold this very stream already.
            stream.write = Recorder(fd, stream.write)  # type: ignore[method-assign]
        except AttributeError:  # A stream of somebody's own, with slots: not recorded.
            pass
    if faulthandler.is_enabled():
        if not (os.environ.get("PYTHONFAULTHANDLER") or "faulthandler" in sys._xoptions
                or sys.flags.dev_mode):  # fmt: skip
            return  # Code of the user's own chose where the stack goes, and shall find it there.
        faulthandler.disable()
        echo_faults(fd)
    # The thread that crashes tells. To walk the stacks of the others at that moment could hang.
    faulthandler.enable(fd, all_threads=False)


def watch_calls(lane: WorkerLane) -> None:
    """Have the record tell what each call writes from what was written before it.

    Only for a worker that runs one call at a time.
    """
    write = getattr(sys.stderr, "write", None)
    if isinstance(write, Recorder):
        write.watch(lane)
