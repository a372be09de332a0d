"""Letting a worker start and end in time that nobody else wants.

A spare and a worker that made room for one run under SCHED_IDLE: for the kernel a CPU that runs
only such tasks is free, so that a call which comes meanwhile is neither queued behind them nor sent
elsewhere. A spare returns to the ordinary class before anything of the user's runs in it. Where
that way back is not permitted (it takes CAP_SYS_NICE or RLIMIT_NICE), nobody enters.
"""

from __future__ import annotations

import os
import threading

_ordinary: int | None = None  # the policy to come back to; None: stay in it


def learn_whether_permitted() -> None:
    """Try the way there and back, in a thread of its own: if it gets stuck there, it is gone."""
    global _ordinary
    if hasattr(os, "SCHED_IDLE"):
        thread = threading.Thread(target=_try)
        thread.start()
        thread.join()


def _try() -> None:
    global _ordinary
    try:
        policy = os.sched_getscheduler(0)
        if policy in (os.SCHED_OTHER, os.SCHED_BATCH):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            os.sched_setscheduler(0, policy, os.sched_param(0))
            _ordinary = policy
    except OSError:
        pass


def become_idle() -> None:
    """Make this thread yield to all others, if it can come back."""
    if _ordinary is not None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:
            pass


def become_ordinary(pid: int = 0) -> bool:
    """Bring this thread, or the main thread of the process `pid`, back to the ordinary class.

    False if it was there already: somebody hurried it.
    """
    if hasattr(os, "SCHED_IDLE") and (pid or _ordinary is not None):
        try:
            if os.sched_getscheduler(pid) == os.SCHED_IDLE:
                policy = os.SCHED_OTHER if _ordinary is None else _ordinary
                os.sched_setscheduler(pid, policy, os.sched_param(0))
                return True
        except OSError:
            pass
    return False
