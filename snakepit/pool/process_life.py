"""How a pool of processes starts and ends: its two threads, and in which order what is let go."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from snakepit import errors
from snakepit.lifecycle.registry import registry
from snakepit.pool.base import BasePool
from snakepit.pool.living import LivingSet
from snakepit.pool.threads import PoolThread

if TYPE_CHECKING:
    from snakepit._core.scheduler import Scheduler
    from snakepit.lifecycle.launcher import Launcher
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.pool.asks import Asks
    from snakepit.pool.callbacks import CallbackThread
    from snakepit.pool.streams import ProcessStreams

logger = logging.getLogger("snakepit")

NOTE_PATIENCE = 0.05  # seconds that the supervisor waits for whoever waits for readiness
FORK_PATIENCE = 10.0  # seconds that the first call may wait for forked workers to exist


class ProcessLife(BasePool):
    """The beginning and the end of a pool of processes, which makes the parts named here.

    begun --> started: both threads run --> closed: no more calls --> over: the last worker is gone
    """

    scheduler: Scheduler
    launcher: Launcher
    supervisor: Supervisor
    asks: Asks
    streams: ProcessStreams | None
    _callbacks: CallbackThread

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        # For callers alone: a signal handler on top of the start, which holds it, may wait for the
        # pool's own threads.
        self._claim = threading.RLock()
        self._begun = False
        self._started = False
        self._over = False
        self._undoing = False  # a start failed, and the collector of it shall end
        self._threads: list[threading.Thread] = []

    # -- the beginning -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the workers; returns at once.

        Raises PoolShutdownError's cause when the pool was closed before, and ForkedPoolError;
        RuntimeError in a worker that imports a module which starts a pool.
        """
        self.scheduler.refuse_in_child()
        # Not loaded here: a program that has no worker has imported nothing for a pool.
        imports = sys.modules.get("snakepit.worker.imports")
        if imports is not None:
            imports.refuse_pools()
        with self._claim:
            registry.check()
            # A signal handler may come here on top of this very call: what it submits waits. None
            # comes between these two steps, in which nothing is called.
            if self._begun or self._closed:
                return
            self._begun = True
            try:
                self._start_threads()
            except BaseException:
                self._begun = self._started
                raise
            if self.launcher.forks:
                # A fork copies the locks that other threads hold at that instant, those of imports
                # above all. So this one holds still until its workers exist.
                with self._life:
                    self._life.wait_for(lambda: self.supervisor.started, FORK_PATIENCE)
        # While the workers start (see there), and with no lock held.
        import snakepit.broken  # noqa: F401

    def _start_threads(self) -> None:
        # The supervisor last: what it starts cannot be undone, and of it there must not be two when
        # the system refuses the other thread and the next call tries again.
        collector = PoolThread(f"snakepit-{self.name}-collector", self._collect)
        supervisor = PoolThread(f"snakepit-{self.name}-supervisor", self.supervisor.run)
        try:
            # Before there is a lifeline or a worker: a fork, which another thread may make at any
            # time, lets go of the pools that it finds here.
            _running.add(self)
            self.launcher.open()
            self.supervisor.prepare()
            self.launcher.start_template()
            collector.start()
            supervisor.start()
            self._note_started(supervisor, collector)
        except BaseException:
            if supervisor.withdraw():
                self._undo_start(collector)
            else:
                self._note_started(supervisor, collector)
            raise

    def _note_started(self, *threads: threading.Thread) -> None:
        self._threads = list(threads)
        self._started = True

    def _undo_start(self, collector: PoolThread) -> None:
        """Free what a start has opened that failed before the supervisor began."""
        if not collector.withdraw():
            self._undoing = True
            self.scheduler.dismiss()
            collector.join()
            self.scheduler.recall()
            self._undoing = False
        _running.discard(self)
        self.supervisor.unprepare()
        self.launcher.stop_template()
        self.launcher.close()

    def _collect(self) -> None:
        while not self._undoing and (not self._over or self.scheduler.unsettled):
            try:
                self.scheduler.attend()
            except BaseException:
                logger.exception("snakepit pool %s: error while settling tasks", self.name)
        self._callbacks.end()

    def note_ready(self) -> None:
        """Tell who waits for readiness to look again."""
        # Bounded: a signal handler may wait for the pool's end on top of a call that holds this.
        if self._life.acquire(timeout=NOTE_PATIENCE):
            self._life.notify_all()
            self._life.release()
        else:
            self.supervisor.after(NOTE_PATIENCE, self.note_ready)

    def await_ready(self, timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready.

        Raises PoolNotReadyError, TimeoutError; PoolShutdownError when the pool is closed, before or
        meanwhile.
        """
        self.start()
        self._await_ready(self.ready_workers, timeout, "workers")

    def ready_workers(self) -> int:
        """Return how many workers are ready for work."""
        raise NotImplementedError

    def set_broken(self, error: errors.PoolNotReadyError) -> None:
        """Give up: fail everything that is queued, and every later call, with `error`."""
        self.broken = error
        # Before what is queued is withdrawn: a call that is just entering is in it, or refused.
        self.scheduler.give_up(self._why_broken)
        self.note_ready()
        for task in self.scheduler.withdraw_all(failed=True):
            self.scheduler.fail_elsewhere(task, self._why_broken())

    # -- the end -----------------------------------------------------------------------------------

    def close(self, *, cancel_futures: bool = False, only_sized: bool = False) -> None:
        """Take no more calls; when those that were taken are done, the workers end.

        Returns at once. `only_sized`: of maps that nobody has asked for results, go on only with
        those whose sources tell their length. In a forked child, where the pool is not its
        own, this does nothing.
        """
        if self.scheduler.forked:
            return
        self._end_maps(cancel_futures=cancel_futures, only_sized=only_sized)
        self.scheduler.close()
        if cancel_futures:
            self.cancel_queued()
        with self._claim:
            self._closed = True
            started = self._begun
        if started:
            self.supervisor.tell(self.note_ready)
        else:
            self._discard()
            self.asks.close()

    def cancel_queued(self) -> None:
        """Cancel what has not started, and the later attempts of what has."""
        # First, so that no attempt enters behind the back of what withdraws them.
        if self.calls is not None:
            self.calls.end()
        for task in self.scheduler.withdraw_all():
            task.mark_cancelled()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a closed pool is gone; False when it is not after `timeout` seconds."""
        if self.scheduler.forked:
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        if self.streams is not None:
            # What this thread has to read, it cannot read while it waits here.
            self.streams.abandon()
        for thread in self._own_threads():
            if thread is not threading.current_thread():
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        return True

    def _own_threads(self) -> Iterator[threading.Thread]:
        yield from self._threads
        # Asked for last, when nobody can start another.
        yield from self._callbacks.threads()

    def give_up(self) -> None:
        """Close the pool, cancel what is queued, stop what runs; then the workers end in order."""
        self._close_now(self.supervisor.ladder.stop_all)

    def end_workers(self, sig: int) -> None:
        """Close the pool, cancel what is queued, end every worker by a signal: what runs fails."""
        reason = "kill_workers" if sig == signal.SIGKILL else "terminate_workers"
        self._close_now(lambda: self.supervisor.end_workers(sig, reason))

    def _close_now(self, end: Callable[[], None]) -> None:
        """Close the pool, cancel what is queued, and have the supervisor `end` what runs."""
        if self.scheduler.forked:
            return
        self.close(cancel_futures=True)
        if self._started:
            if self.launcher.template is not None:
                self.launcher.template.abandon()
            self.supervisor.tell(end)

    def is_over(self) -> bool:
        """Whether the pool is closed and has nothing left to do."""
        return self._closed and not self.calls and self.scheduler.unsettled == 0

    def _on_idle(self) -> None:
        if self._started:
            self.supervisor.tell(lambda: None)

    def supervisor_ended(self) -> None:
        """The last worker is gone: free everything else."""
        self.launcher.stop_template()
        self._over = True
        self.scheduler.dismiss()
        self._discard()
        self.asks.close()
        _running.discard(self)

    def _discard(self) -> None:
        self.launcher.close()
        self.scheduler.control.close_descriptor()

    def forget_after_fork(self) -> None:
        """In a forked child: let go of what would keep the owner's processes alive."""
        self.scheduler.control.close_descriptor()
        self.launcher.forget_in_child(self.supervisor.workers.values())


_running: LivingSet[ProcessLife] = LivingSet()


def _after_fork_in_child() -> None:
    for pool in _running.forget_in_child():
        pool.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def running() -> list[ProcessLife]:
    """Return the pools that run."""
    return list(_running)
