"""Stopping a running task: the cooperative flag, an exception in it, then force.

worker process:  flag --> TaskInterrupt, by a signal --> SIGTERM --> SIGKILL and replacement
  of threads:    flag --> TaskInterrupt, left by its main thread --> drained, then the same
thread:          flag --> TaskInterrupt -------------> the thread is left behind and replaced

A rung is climbed only while the task still runs, and names it: none can reach another task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from snakepit._core.stopping import (
    announce_interrupt,
    ask_to_stop,
    close_lane,
    reopen_lane,
)
from snakepit.errors import TaskStoppedError
from snakepit.worker.children import descendants, end_process, with_start
from snakepit.worker.context import INTERRUPT_SIGNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from snakepit._core.interrupts import Runner
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.local import LocalPool
    from snakepit.pool.pool import ProcessPool


DRAIN_LOOK = 0.02  # seconds between two looks at a worker that drains
STOP_LOOK = 0.05  # seconds between two looks for what tasks that are stopped have submitted


class Ladder:
    """Climbs from asking to killing, in the supervisor's thread, for tasks of worker processes."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._climbing: set[int] = set()  # numbers of tasks: two stops are one climb

    def stop_task(self, task: Any) -> None:
        """Stop a running task; nothing happens when it does not run (any more)."""
        if task.number in self._climbing or not ask_to_stop(self._pool.scheduler, task):
            return
        self._climbing.add(task.number)
        self._in(self._pool.graces.flag, task, self._interrupt)

    def stop_all(self) -> None:
        """Stop whatever runs in a closed pool, until it is over; its workers end in order then.

        Who has not ended after the longest climb, and a teardown after that, is ended by force.
        """
        graces = self._pool.graces
        longest = graces.flag + graces.interrupt + 2 * graces.terminate
        self._supervisor.after(longest, lambda: self._supervisor.end_workers(signal.SIGTERM))
        self._stop_others(set())

    def _stop_others(self, known: set[int]) -> None:
        """Stop what runs but for those `known`, and look again: tasks may submit others."""
        if self._pool.is_over():
            return
        self._pool.cancel_queued()
        for task in self._pool.scheduler.in_slots():
            # Who is late already is stopped for that.
            if task.number not in known and self._pool.scheduler.lane_of_task(task) >= 0:
                known.add(task.number)
                self.stop_task(task)
        self._supervisor.after(STOP_LOOK, lambda: self._stop_others(known))

    def _in(self, grace: float, task: Any, rung: Callable[[Any, int], None]) -> None:
        def climb() -> None:
            lane = self._pool.scheduler.lane_of_task(task, True)
            if lane >= 0:
                rung(task, lane)
            else:
                self._climbing.discard(task.number)

        if grace:
            self._supervisor.after(grace, climb)
        else:
            climb()

    def _interrupt(self, task: Any, lane: int) -> None:
        worker = self._supervisor.worker_on(lane)
        # A worker that is about to encode the answer is given the time all the same.
        if worker is not None and announce_interrupt(self._pool.scheduler, task):
            send_one(worker, INTERRUPT_SIGNAL)
        self._in(self._pool.graces.interrupt, task, self._terminate)

    def _terminate(self, task: Any, lane: int) -> None:
        self._climbing.discard(task.number)
        scheduler = self._pool.scheduler
        worker = self._supervisor.worker_on(lane)
        if worker is None:
            return
        if worker.draining:
            # It ends for another task, and nothing new can start there.
            worker.victims.append(task)
            self._watch_drain(worker)
            return
        # Told to retire, the worker claims nothing after this task. Still running it then, it runs
        # nothing else when the signal arrives. A task that has just ended keeps its worker, unless
        # that has seen the word and ends by itself.
        closed = close_lane(scheduler, lane)
        if scheduler.lane_of_task(task, True) != lane:
            if closed:
                reopen_lane(scheduler, lane)
            return
        worker.expected = True
        worker.victims.append(task)
        if len(worker.lanes) > 1:
            self.drain(worker)
        else:
            self._end(worker)

    def drain(self, worker: Worker) -> None:
        """End a worker of several threads: it takes no more tasks, and those it runs have a grace.

        Another takes its place meanwhile. What is to be stopped by force is not waited for.
        """
        worker.draining = worker.expected = True
        self._pool.roster.retire(worker.lane)
        self._watch_drain(worker)

    def _watch_drain(self, worker: Worker) -> None:
        scheduler, graces = self._pool.scheduler, self._pool.graces
        until = time.monotonic() + graces.terminate
        pause = min(DRAIN_LOOK, graces.terminate)
        stopping = bool(worker.victims)

        def look() -> None:
            if self._supervisor.worker_on(worker.lane) is not worker:
                return
            stuck = self._lanes_of(worker, worker.victims)
            if stopping and not stuck:
                return  # They ended after all: now the worker ends by itself after the others.
            # By the slots, which say that a task runs until its answer is there to be taken.
            busy = self._lanes_of(worker, scheduler.in_slots())
            if time.monotonic() >= until or busy <= stuck:
                self._end(worker)
            else:
                self._supervisor.after(pause, look)

        # Not at once: a lane that has not seen the order yet may claim one more task.
        self._supervisor.after(pause, look)

    def _lanes_of(self, worker: Worker, tasks: Iterable[Any]) -> set[int]:
        """Return those of the worker's lanes that run any of `tasks`."""
        lanes = {self._pool.scheduler.lane_of_task(task, True) for task in tasks}
        return lanes.intersection(worker.lanes)

    def _end(self, worker: Worker) -> None:
        strays = [
            (pid, start)
            for pid, start in with_start(descendants(worker.pid))
            if group_of(pid) != worker.pid
        ]
        worker.send(signal.SIGTERM)
        self._supervisor.kill_later(worker)
        for pid, start in strays:
            end_process(pid, start)


def send_one(worker: Worker, number: int) -> None:
    """Send a signal to the worker's process alone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if worker.sentinel_is_pidfd():
            # Of a worker that is gone the number may be a stranger's; its pidfd never is.
            signal.pidfd_send_signal(worker.sentinel, number)
        else:
            os.kill(worker.pid, number)


def group_of(pid: int) -> int:
    """Return the process group of a process, -1 if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


class ThreadLadder:
    """Climbs from asking to giving up, for tasks of threads."""

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool

    def stop_task(self, task: Any) -> bool:
        """Stop a running task, from any thread; False when it does not run."""
        asked = self._pool.queue.ask_to_stop(task)
        if asked == 1:
            self._pool.timekeeper.after(self._pool.graces.flag, lambda: self._interrupt(task))
        return asked > 0

    def _interrupt(self, task: Any) -> None:
        if self._pool.queue.interrupt(task):
            self._pool.timekeeper.after(self._pool.graces.interrupt, lambda: self.give_up(task))

    def hurry(self, task: Any) -> None:
        """Interrupt a task that was asked to stop, and give it up, without grace."""
        self._pool.queue.interrupt(task)
        self.give_up(task)

    def give_up(self, task: Any) -> None:
        """Fail a task that goes on, unless it has, being late; and replace its thread."""
        runner = self._pool.queue.leave_behind(task)
        if runner is None:
            return
        fate = self._fate(runner)
        if runner.left_behind and runner.replace is not None:
            runner.replace()
        if self._pool.deadlines.left_behind(task, fate):
            return
        error = TaskStoppedError(
            f"the task was stopped on request, but goes on: {fate}",
            details={"task": task.number, "left_behind": runner.left_behind},
        )
        self._pool.queue.fail(task, error)

    def _fate(self, runner: Runner) -> str:
        if runner.left_behind:
            return (
                f"a thread cannot be killed; thread {runner.thread} of pool {self._pool.name!r} "
                "was left behind, to end with the task, and replaced by a fresh one"
            )
        return (
            "a thread cannot be killed, and this one belongs to a task that waits for it; "
            "it goes on inside that"
        )
