"""Faults of workers: deaths, stops, starts that fail or take long."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["crash", "crash_after", "fail_start", "kill_worker", "slow_start", "suspend_worker"]


def kill_worker(executor: Any, pid: int | None = None, *, sig: int = signal.SIGKILL) -> int:
    """Send a worker of `executor` a signal and return the worker's pid.

    `pid`: which worker, None for any one that is ready. `sig`: SIGKILL unless given. Raises
    ValueError if `pid` is not a worker of this executor, LookupError if none is ready, and
    ProcessLookupError if it is gone.
    """
    pid = _worker(executor, pid)
    descriptor = os.pidfd_open(pid)
    try:
        # The number may have gone to another process before the descriptor pinned it.
        if pid not in executor.worker_pids():
            raise ProcessLookupError(f"worker {pid} is gone")
        signal.pidfd_send_signal(descriptor, sig)
    finally:
        os.close(descriptor)
    return pid


@contextlib.contextmanager
def suspend_worker(executor: Any, pid: int | None = None) -> Iterator[int]:
    """Keep a worker from running (SIGSTOP) until the block is left (SIGCONT); gives its pid.

    As a machine that swaps or a debugger would. Raises what `kill_worker` raises.
    """
    pid = _worker(executor, pid)
    descriptor = os.pidfd_open(pid)
    try:
        if pid not in executor.worker_pids():
            raise ProcessLookupError(f"worker {pid} is gone")
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
    finally:
        os.close(descriptor)


def _worker(executor: Any, pid: int | None) -> int:
    pids: list[int] = executor.worker_pids()
    if pid is None:
        if not pids:
            raise LookupError("no worker of the executor is ready; call wait_ready() first")
        return random.choice(pids)
    if pid not in pids:
        raise ValueError(f"process {pid} is not a ready worker of this executor: {sorted(pids)}")
    return pid


def crash(how: int | str = signal.SIGKILL) -> NoReturn:
    """End the process that calls this, a worker in whose task it stands, at once.

    `how`: a signal (its default action is restored first, which works in the main thread only), or
    "exit" for exit status 1 without any clean-up. Raises ValueError for anything else, and for a
    signal that ends no process.
    """
    if how == "exit":
        os._exit(1)
    if isinstance(how, str):
        raise ValueError(f"how must be a signal or 'exit', not {how!r}")
    number = signal.Signals(how)
    ours = threading.current_thread() is threading.main_thread()
    if ours and number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise ValueError(f"{number.name} does not end a process")


def crash_after(seconds: float, how: int | str = signal.SIGKILL) -> None:
    """Have the process that calls this, a worker, crash in `seconds`, whatever it does then.

    Returns at once; `how` as in `crash`. It takes the GIL: a task that never gives it back is not
    interrupted.
    """
    timer = threading.Timer(seconds, crash, (how,))
    timer.daemon = True
    timer.start()


def slow_start(seconds: float) -> None:
    """Sleep: as an executor's `initializer`, a start that takes long. `inf`: one that is stuck."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 3600.0))


def fail_start(how: int | str = signal.SIGKILL) -> NoReturn:
    """Crash: as an executor's `initializer`, a worker that dies in its start."""
    crash(how)
