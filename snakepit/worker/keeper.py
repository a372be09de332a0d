"""The template as the keeper of what its workers leave: their children become its own, and end.

The template is a *subreaper*: a process whose parent ends, and that descends from it, becomes its
child, whatever session or group it is in. So after a worker's death what it had started is among
the template's children, and none of it can get away. A worker is no subreaper itself: it would have
to wait for what it adopts, and cannot tell that from what its task has started and will wait for.

Of a dead worker is whoever is in its process group or session, or carries its name in the
environment. What nobody can be said to have started (it detached itself and cleared its
environment) is spared until the template ends, and everything else with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

from snakepit._core.lifeline import become_subreaper, end_descendants
from snakepit.worker import signals
from snakepit.worker.children import children_of

MARK = "SNAKEPIT_WORKER"  # RUNID:PID, in the environment of what a worker starts
PATIENCE = 2.0  # seconds that killed processes have to be gone


class Keeper:
    """Knows this process's children: workers, what the preloaded modules started, and strays."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._adopts = become_subreaper()
        self.workers: set[int] = set()
        self._helpers = set(children_of(os.getpid()))
        # Only to be woken: a handler that reaped could reap a worker that is just being forked.
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a child ended: call `reap_strays` then."""
        return self._reader.fileno()

    def leave(self) -> None:
        """In a forked worker: be no keeper."""
        signal.set_wakeup_fd(-1)
        signals.set_default(signal.SIGCHLD)
        self._reader.close()
        self._writer.close()

    def reap_strays(self) -> None:
        """Wait for adopted processes that ended: nobody else will."""
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(256):
                pass
        for pid in self._strays():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def end_leftovers(self, worker: int) -> None:
        """End what a dead worker that was not yet waited for has left."""
        self.workers.discard(worker)
        if not self._adopts:
            return
        deadline = time.monotonic() + PATIENCE
        pause = 0.0005
        # What is killed leaves children of its own here.
        while left := [pid for pid in self._strays(worker) if self._is_of(worker, pid)]:
            for pid in left:
                # Our children: until they are waited for, the pids are theirs.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            if time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def await_workers(self, seconds: float) -> None:
        """Give workers whose owner is gone the time to end by themselves."""
        deadline = time.monotonic() + seconds
        while self.workers and time.monotonic() < deadline:
            for pid in list(self.workers):
                try:
                    ended = os.waitpid(pid, os.WNOHANG)[0] != 0
                except ChildProcessError:
                    ended = True
                if ended:
                    self.workers.discard(pid)
            time.sleep(0.002)

    def end_all(self) -> None:
        """The owner is gone, or the pool is over: end every child, and theirs."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            end_descendants()
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)

    def _strays(self, *others: int) -> list[int]:
        spared = self.workers | self._helpers | {*others}
        return [pid for pid in children_of(os.getpid()) if pid not in spared]

    def _is_of(self, worker: int, pid: int) -> bool:
        try:
            if worker in (os.getpgid(pid), os.getsid(pid)):
                return True
            mark = f"{MARK}={self._run_id}:{worker}".encode()
            return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False


def _nothing(_signal: int, _frame: object) -> None:
    pass
