"""A worker of several threads, each of which runs tasks on a lane of its own.

The main thread runs the initializer and starts the others; then it waits, with the interrupting
signal blocked, for what that signal says: an owner wants a task interrupted (`ThreadLane`), or the
last thread has ended, and with it the worker. No task runs there, so it is always free to do so.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from snakepit._core.channel import Channel
from snakepit._core.constants import MAIL_READY, MAIL_WORN
from snakepit._core.interrupts import interrupt_owed
from snakepit._core.lifeline import end_descendants
from snakepit._core.locks import HoldingLock
from snakepit._core.stacks import serve_stacks, show_stack
from snakepit._core.thread_lane import Quota, ThreadLane
from snakepit.worker import context, loop, orphan, priority
from snakepit.worker.nested import NestedFuture, NestedPool
from snakepit.worker.process import (
    WorkerSpec,
    _careful_dumps,
    report_failure,
    run_initializer,
)
from snakepit.worker.recording import watch_calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from snakepit._core.arena import Arena
    from snakepit._core.control import Control
    from snakepit._core.definitions import DefinitionReader


class Crew:
    """The threads of one worker."""

    def __init__(
        self, spec: WorkerSpec, control: Control, arena: Arena, definitions: DefinitionReader
    ) -> None:
        self._spec = spec
        self._control = control
        # A codec each: what it packs with serves one at a time.
        self._lanes = [
            ThreadLane(
                control,
                Channel(arena, spec.threshold, spec.patience, _careful_dumps),
                definitions,
                index,
            )
            for index in range(spec.lane, spec.lane + spec.threads)
        ]
        self._quota = Quota(spec.max_tasks or 0)
        self._idents: dict[int, int] = {}  # of the threads, by their lanes
        self._life = threading.Condition()
        self._attached = 0
        self._begun = False
        self._left = spec.threads  # threads that have not ended

    def run(self) -> None:
        """Run tasks until every thread is told to end, or the worker has run as many as it may."""
        spec, home = self._spec, self._lanes[0]
        # Blocked in every thread, it stays pending until the main thread takes it: it breaks no
        # system call of a task.
        signal.pthread_sigmask(signal.SIG_BLOCK, (context.INTERRUPT_SIGNAL,))
        if len(self._lanes) == 1:
            watch_calls(home)
        context.enter_crew(home, spec.link.fd, spec.workers)
        priority.become_ordinary()
        serve_stacks(self._control, spec.lane, os.getpid(), spec.threads)
        if not run_initializer(spec, home):
            return
        try:
            self._start_threads()
        except BaseException as error:
            report_failure(home, error)
            return
        for lane in self._lanes:
            lane.examiner = home.examiner
            lane.announce(os.getpid())
        home.post(MAIL_READY, os.getpid())
        with self._life:
            self._begun = True
            self._life.notify_all()
        self._attend()
        context.run_at_end()
        if all(lane.replaced for lane in self._lanes):
            priority.become_idle()
        end_descendants()

    def _start_threads(self) -> None:
        for number, lane in enumerate(self._lanes):
            threading.Thread(
                target=self._serve, args=(lane,), name=f"snakepit-lane-{number}", daemon=True
            ).start()
        with self._life:
            self._life.wait_for(lambda: self._attached == len(self._lanes))

    def _serve(self, lane: ThreadLane) -> None:
        """The body of each thread."""
        try:
            lane.attach()
            context.enter_thread(lane)
            show_stack(lane.index, os.getpid())
            with self._life:
                self._attached += 1
                self._idents[lane.index] = threading.get_ident()
                self._life.notify_all()
                self._life.wait_for(lambda: self._begun)
            with orphan.ends_quietly():
                self._run_tasks(lane)
                context.run_at_end_of_lane(lane)
        except BaseException:
            # Nothing of a task's comes here. A worker that has lost a thread is of no use, and its
            # owner learns of it by its end alone.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        with self._life:
            self._left -= 1
        os.kill(os.getpid(), context.INTERRUPT_SIGNAL)

    def _run_tasks(self, lane: ThreadLane) -> None:
        quota, worn_after = self._quota, self._spec.worn_after
        while quota.take():
            kind = lane.claim()
            if kind is None:
                return
            loop.run_claimed(lane, kind)
            if quota.count() == worn_after:
                self._lanes[0].post(MAIL_WORN, os.getpid())
        # The others end with what they have claimed or still may. The owner sees to the lanes that
        # are missing.
        lane.leave()
        self._lanes[0].post(MAIL_WORN, os.getpid())

    def _attend(self) -> None:
        """Wait for signals, in the main thread, until every other thread has ended."""
        wait: Callable[[Any], object] = getattr(signal, "sigwaitinfo", signal.sigwait)
        while True:
            wait((context.INTERRUPT_SIGNAL,))
            with self._life:
                if self._left == 0:
                    return
            if orphan.is_orphan():
                orphan.interrupt_threads(self._control, self._idents)
                self._await_threads(orphan.GRACE / 2)
                return
            # Each is asked: one signal may stand for several.
            sent = [lane.send_interrupt() for lane in self._lanes]
            pool = context.nested_pool()
            if pool is not None and any(sent):
                pool.stir()

    def _await_threads(self, seconds: float) -> None:
        """Wait until every other thread has ended, but not longer."""
        until = time.monotonic() + seconds
        while self._left and (rest := until - time.monotonic()) > 0:
            signal.sigtimedwait((context.INTERRUPT_SIGNAL,), rest)


class CrewFuture(NestedFuture):
    """The outcome of a task that a task submitted, where several tasks share the process."""

    def _has_news(self) -> bool:
        # An interrupt is raised when the condition is released.
        return super()._has_news() or interrupt_owed()


class CrewPool(NestedPool):
    """The pool that runs the current task, seen from one of several tasks of a process."""

    make_future = CrewFuture

    def make_condition(self) -> threading.Condition:
        """Return a condition whose holder is not interrupted.

        The thread that brings outcomes takes the condition of each future: a task that dropped out
        with one in its hands, wherever in the standard library, would stop it for all other tasks.
        """
        return threading.Condition(HoldingLock())  # type: ignore[arg-type]

    def stir(self) -> None:
        """Have whoever waits for a future look whether it was interrupted."""
        for future in list(self._futures.values()):
            with future._condition:
                future._condition.notify_all()
