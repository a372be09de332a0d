"""The owner's view of one worker process."""

from __future__ import annotations

import contextlib
import math
import multiprocessing.process
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any

from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.identity import start_time

if TYPE_CHECKING:
    from snakepit._core.task import Task
    from snakepit.lifecycle.autopsy import Recording


class Worker:
    """The owner's view of one worker process.

    Only the supervisor reaps it. Until then its pid, and the process group of that number, can be
    nobody else's. It is known by the first of its lanes, of which it has one a thread.
    """

    def __init__(
        self,
        lane: int,
        client: int,
        process: Any,
        recording: Recording | None = None,
        threads: int = 1,
    ) -> None:
        self.lane = lane
        self.lanes = range(lane, lane + threads)
        self.client = client
        self.process = process
        self.recording = recording
        self.pid: int = process.pid
        self._pidfd = -1
        self.start: int | None = None  # its `start_time`, where no template keeps its children
        self._keep_for_us()
        self.sentinel: int = self._pidfd if self._pidfd >= 0 else process.sentinel
        self.row = 0  # of the process registry
        self.ready = False
        self.expected = False  # its end was asked for
        self.victims: list[Task] = []  # the tasks because of which we end it
        self.ran: dict[int, float] = {}  # by their number: seconds that they had run at its death
        self.draining = False  # of several threads: it ends for one task, and takes no others
        self.reason: str | None = None  # why we end it
        self.sent: set[int] = set()  # signals that it had from us
        self.buried = False  # it is dead; from here on its number may become somebody else's
        self.reaped = False
        self.exit_code: int | None = None
        self.peak_memory: int | None = None  # bytes, known when it is reaped
        self.last_memory: int | None = None  # bytes resident, when it was last looked at
        self.born = time.monotonic()
        self.ready_by = math.inf  # when it is ended unless it is ready
        self.spare = False  # started to take over from another
        self.due: str | None = None  # why it shall be replaced
        self.offered = False  # told to let a spare take over from it
        self.ends_at: float | None = None  # when it is too old
        self.tasks_when_weighed = -1
        self.left_at: float | None = None  # when it was seen to have nothing left but to end
        self.stuck = False  # ended because it gave no sign of life
        self.unfit = False  # its adapter says that it is not fit for more

    def _keep_for_us(self) -> None:
        """Take a child of this process out of multiprocessing's hands, which reap whom they see."""
        if getattr(self.process, "_start_method", "") is None:
            return  # Forked from a template: its sentinel is a pidfd, and only we ask to reap it.
        children: set[Any] = multiprocessing.process._children  # type: ignore[attr-defined]
        children.discard(self.process)
        self.start = start_time(self.pid)
        # Only of a child that is not reaped can we know that the number is still its own.
        if hasattr(os, "pidfd_open") and self.process._popen.returncode is None:
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)

    def is_dead(self) -> bool:
        """Whether the process has ended; it may be a zombie yet."""
        if self._pidfd < 0 and not hasattr(signal, "pidfd_send_signal"):
            return not self.process.is_alive()
        poller = select.poll()
        poller.register(self.sentinel, select.POLLIN)
        return bool(poller.poll(0))

    def send(self, sig: int, reason: str | None = None) -> None:
        """Send a signal to the worker's whole process group; `reason` names why, in a word."""
        if self.buried or self.reaped:
            return
        if not self.is_dead():
            self.sent.add(int(sig))
            self.reason = reason or self.reason
        # Where somebody else reaped it, a stranger may have its number; but not while a group of
        # that number is left, and then no process has it.
        if self._is_gone() and os.path.exists(f"/proc/{self.pid}"):
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, sig)
        # It may not lead its group yet.
        with contextlib.suppress(ProcessLookupError, OSError, ValueError):
            if hasattr(signal, "pidfd_send_signal") and self.sentinel_is_pidfd():
                signal.pidfd_send_signal(self.sentinel, sig)
            else:
                os.kill(self.pid, sig)

    def sentinel_is_pidfd(self) -> bool:
        """Whether `sentinel` names the process for signals too."""
        return self._pidfd >= 0 or getattr(self.process, "_start_method", "") is None

    def _is_gone(self) -> bool:
        """Whether somebody else reaped it: the kernel does where SIGCHLD is ignored."""
        if not self.sentinel_is_pidfd():
            return False
        try:
            signal.pidfd_send_signal(self.sentinel, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def end_leftovers(self) -> None:
        """Kill what a dead worker has left in sessions of its own, where no template does it.

        Call this before it is reaped: until then no other worker can have its pid, and so its mark.
        """
        # One that somebody else reaps at once, as a fork server does, may have a successor of the
        # same pid by now; what that starts has the same mark, and is left alone.
        if self.start is not None and start_time(self.pid) in (None, self.start):
            from snakepit.lifecycle.process_killer import kill_marked
            from snakepit.worker.keeper import MARK

            kill_marked(MARK, f"{run_ids.current()}:{self.pid}", not_before=self.start)

    def reap(self) -> None:
        """Collect the exit status of a dead worker; more than once changes nothing."""
        if self.reaped:
            return
        popen = self.process._popen
        if self._pidfd >= 0 and popen.method in ("fork", "spawn") and popen.returncode is None:
            try:
                _, status, usage = os.wait4(self.pid, 0)
            except ChildProcessError:
                # Collected by the kernel (SIGCHLD is ignored) or by code of the user's.
                popen.returncode = 255
                self.reaped = True
                return
            popen.returncode = os.waitstatus_to_exitcode(status)
            self.peak_memory = usage.ru_maxrss * 1024
        self.process.join()
        self.exit_code = self.process.exitcode
        if getattr(popen, "status_unknown", False):
            self.exit_code = None
        self.peak_memory = getattr(popen, "peak_memory", None) or self.peak_memory
        self.reaped = True

    def close(self) -> None:
        """Close what is open for it; more than once changes nothing."""
        if self.recording is not None:
            self.recording.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self.process.close()
