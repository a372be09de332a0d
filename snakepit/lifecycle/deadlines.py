"""The deadlines of a pool's calls: one timer for all, and a thread for pools that have none."""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit._core.locks import HoldingLock
from snakepit._core.overdue import limit_queue, take_due, watch_until
from snakepit._core.stopping import phase_of
from snakepit.errors import QueueTimeoutError, TaskTimeoutError

if TYPE_CHECKING:
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool
    from snakepit.pool.pool import ProcessPool
    from snakepit.pool.subjects import Subject

logger = logging.getLogger("snakepit")

UNDECIDED = 0.05  # seconds between looks at a late call whose outcome is on its way
LEAST_PURGE = 1024  # entries below which nobody looks for those of calls that are done


def subject_of(pool: ProcessPool | LocalPool, task: Future[Any]) -> Subject:
    """Return the names for the error of a task, before it is settled."""
    # Lazily: most pools are never late.
    from snakepit.pool import subjects

    return subjects.subject_of(pool, task)


class Deadlines:
    """Calls `expire(future, timeout, started)` when a call's time is up and it is not done.

    `at(when, note)` has `note()` called at a monotonic time. Only the next deadline is there, so a
    call that is done in time costs a push and no wake-up. Entries of such calls would pile up for
    the length of their timeout, so each doubling is preceded by a purge. No timer is set for what a
    standing one is in time for: it sets the next.
    """

    def __init__(
        self,
        at: Callable[[float, Callable[[], None]], None],
        expire: Callable[[Future[Any], float, float], None],
    ) -> None:
        self._at = at
        self._expire = expire
        # Re-entrant: a finaliser or signal handler may submit at any moment.
        self._lock = threading.RLock()
        self._heap: list[tuple[float, int, weakref.ref[Future[Any]], float, float]] = []
        self._numbers = itertools.count()
        self._timers = [math.inf]  # the instants of those that stand, the next one last
        self._purge_at = LEAST_PURGE

    def add(self, future: Future[Any], timeout: float) -> None:
        """Watch a call that has `timeout` seconds from now."""
        started = time.monotonic()
        self._push(started + timeout, future, timeout, started)

    def look_again(
        self, future: Future[Any], timeout: float, started: float, seconds: float
    ) -> None:
        """Have `expire` called once more, with the same arguments, in `seconds`."""
        self._push(time.monotonic() + seconds, future, timeout, started)

    def _push(self, when: float, future: Future[Any], timeout: float, started: float) -> None:
        entry = (when, next(self._numbers), weakref.ref(future), timeout, started)
        with self._lock:
            if len(self._heap) >= self._purge_at:
                self._purge()
            heapq.heappush(self._heap, entry)
            sooner = when < self._timers[-1]
        if sooner:
            self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        """Have `_look` called at a monotonic time, unless a timer stands that comes sooner."""
        with self._lock:
            sooner = when < self._timers[-1]
            if sooner:
                self._timers.append(when)
        if sooner:
            self._at(when, self._look)

    def _strike_timers(self, now: float) -> None:
        """Note that the timers of until now stand no more."""
        with self._lock:
            while self._timers[-1] <= now:
                self._timers.pop()

    def _purge(self) -> None:
        # What a finaliser adds while this list is made goes to the new heap.
        old, self._heap = self._heap, []
        kept = [entry for entry in old if (call := entry[2]()) is not None and not call.done()]
        self._heap.extend(kept)
        heapq.heapify(self._heap)
        self._purge_at = max(LEAST_PURGE, 2 * len(self._heap))

    def _look(self) -> None:
        now = time.monotonic()
        due = []
        with self._lock:
            self._strike_timers(now)
            while self._heap and self._heap[0][0] <= now:
                due.append(heapq.heappop(self._heap))
            when = self._heap[0][0] if self._heap else math.inf
        self._set_timer(when)
        for _, _, reference, timeout, started in due:
            future = reference()
            if future is None or future.done():
                continue
            try:
                self._expire(future, timeout, started)
            except Exception:
                logger.exception("snakepit: error at the deadline of a task")


class ProcessDeadlines(Deadlines):
    """The deadlines of a pool of processes, seen to in its supervisor's thread."""

    def __init__(self, pool: ProcessPool) -> None:
        super().__init__(pool.supervisor.at, self._end)
        self._pool = pool

    def _end(self, future: Future[Any], timeout: float, started: float) -> None:
        scheduler = self._pool.scheduler
        subject = subject_of(self._pool, future)
        details = {**subject.details, "timeout": timeout}
        waited = time.monotonic() - started
        if scheduler.cancel_queued(future):
            why, unread = self._why_queued(future), self._pool.unread_streams()
            scheduler.fail(future, unstarted_error(subject, timeout, waited, why, unread=unread))
            return
        phase = phase_of(scheduler, future)
        if not phase and self._pool.asks.has_lent(future):
            error = TaskTimeoutError(
                f"{subject} did not end within its timeout of {timeout:g} s; it runs on a worker "
                "that waits for a host tool, which is not ended for it",
                details={**details, "waited": waited, "ran": 0.0, "phase": "running"},
            )
            scheduler.fail(future, error)
            return
        if not phase:
            # Its answer is there and about to be settled, or its worker is dead and about to be
            # buried: the outcome decides, if it comes.
            self.look_again(future, timeout, started, UNDECIDED)
            return
        ran = min(scheduler.seconds_running(future), waited)
        lane = scheduler.lane_of_task(future)
        worker = lane - lane % self._pool.threads
        where = f" on worker {worker}" if lane >= 0 else ""
        if lane >= 0:
            details["worker"] = worker
        doing = {"decoding": ", still decoding its arguments", "encoding": ", encoding its result"}
        error = TaskTimeoutError(
            f"{subject} did not end within its timeout of {timeout:g} s: "
            f"it waited {waited - ran:.3g} s and ran {ran:.3g} s{where}{doing.get(phase, '')}",
            details={**details, "waited": waited - ran, "ran": ran, "phase": phase},
        )
        try:
            # First: what the task answers to the ladder is that it was stopped on request.
            scheduler.fail(future, error)
        finally:
            self._pool.supervisor.ladder.stop_task(future)

    def _why_queued(self, future: Future[Any]) -> str:
        preparation = self._pool.supervisor.preparation
        if future.session_name is None or not self._pool.ready_workers():
            return preparation.why_queued()
        return f"the worker of session {future.session_name!r} of pool {self._pool.name!r} was busy"


class SweptDeadlines(ProcessDeadlines):
    """The deadlines of a pool all of whose calls have some: nothing is kept for each of them.

    The tasks carry the instants, the scheduler knows the earliest (see `_core/overdue.pyx`), and
    when that comes, a look at all tasks under way finds which are due. The queue of such a pool has
    a limit, and so have these looks.
    """

    def __init__(self, pool: ProcessPool) -> None:
        super().__init__(pool)
        # What the scheduler wants a look at, each with a timer that comes no later: one that comes
        # sooner finds nothing to do, and is not told what it was too early for.
        self._wanted: set[float] = set()
        limit_queue(pool.scheduler, pool.max_queue_size, self._arm)

    def add(self, future: Future[Any], timeout: float) -> None:
        """Watch a queued call whose deadline it carries and is `timeout` seconds from now."""
        self._watch(future, future.deadline_ns, int(timeout * 1e9))

    def look_again(
        self, future: Future[Any], timeout: float, started: float, seconds: float
    ) -> None:
        self._watch(future, time.monotonic_ns() + int(seconds * 1e9), int(timeout * 1e9))

    def _watch(self, future: Future[Any], when: int, timeout: int) -> None:
        if watch_until(self._pool.scheduler, future, when, timeout):
            self._arm(future.due_ns)

    def _arm(self, when: int) -> None:
        self._want(when * 1e-9)

    def _want(self, when: float) -> None:
        with self._lock:
            self._wanted.add(when)
        self._set_timer(when)

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._strike_timers(now)
            wanted, self._wanted = self._wanted, set()
        due, following = take_due(self._pool.scheduler)
        if following:
            # It is the earliest of all that there are; what was wanted before is among them.
            self._arm(following)
        else:
            for when in sorted(wanted):
                if when > now:
                    self._want(when)
        for future in due:
            try:
                self._judge(future)
            except Exception:
                logger.exception("snakepit: error at the deadline of a task")

    def _judge(self, future: Future[Any]) -> None:
        now = time.monotonic_ns()
        deadline = future.deadline_ns
        if deadline and now >= deadline:
            timeout = future.timeout_ns / 1e9
            self._end(future, timeout, deadline / 1e9 - timeout)
        elif self._pool.scheduler.cancel_queued(future):
            pool = self._pool
            starting = None if pool.ready_workers() else pool.supervisor.preparation.why_queued()
            error = queue_timeout_error(
                subject_of(pool, future),
                pool.queue_timeout or 0.0,
                starting,
                unread=pool.unread_streams(),
            )
            pool.scheduler.fail(future, error)
        elif deadline and not future.done():
            # It was taken at this very moment, and has until its deadline.
            self._watch(future, deadline, future.timeout_ns)


def unstarted_error(
    subject: Subject, timeout: float, waited: float, why: str, remedy: str = "", *, unread: int
) -> TaskTimeoutError:
    """Return the error of a call that was still queued when its time was up; times in seconds.

    `unread`: as in `queue_timeout_error`.
    """
    return TaskTimeoutError(
        f"{subject} did not start within its timeout of {timeout:g} s: "
        f"{why}{_unread_hint(unread)}{remedy}",
        details={
            **subject.details, "timeout": timeout, "waited": waited, "ran": 0.0, "phase": "queued",
            **_unread_details(unread),
        },
    )  # fmt: skip


def _unread_hint(count: int) -> str:
    """Return the end of a clause about busy workers, some of which wait for a stream's reader."""
    if not count:
        return ""
    which, it = ("1 call that runs is a stream", "it")
    if count > 1:
        which, it = (f"{count} calls that run are streams", "them")
    return (
        f" ({which} that nobody reads at the moment: read {it} on, or end {it} by close() or a "
        "with block)"
    )


def _unread_details(count: int) -> dict[str, int]:
    """Return what the details of such an error have of it."""
    return {"unread_streams": count} if count else {}


def queue_timeout_error(
    subject: Subject, limit: float, starting: str | None = None, *, unread: int
) -> QueueTimeoutError:
    """Return the error of a call that no worker took in time; `starting`: why there was none.

    `unread`: how many of the calls that run wait for the reader of their stream.
    """
    call = f"the call ({subject.what})" if subject.what else "the call"
    if starting is None:
        text = (
            f"no worker of pool {subject.details['pool']!r} was free for {call} within "
            f"queue_timeout={limit:g} s, so it never ran{_unread_hint(unread)}; give the pool more "
            "workers, or its calls more patience"
        )
    else:
        text = (
            f"{call} never ran: within queue_timeout={limit:g} s {starting}; wait for the "
            "workers with await_ready() before the first call, or give calls more patience"
        )
    return QueueTimeoutError(
        text,
        details={
            **subject.details, "timeout": limit, "waited": limit, "ran": 0.0, "phase": "queued",
            **_unread_details(unread),
        },
    )  # fmt: skip


class Timekeeper:
    """A thread that calls notes at their time; it starts with the first and ends with `stop`."""

    def __init__(self, name: str, prepare: Callable[[], None]) -> None:
        self._name = name
        self._prepare = prepare
        self._changed = threading.Condition(HoldingLock())  # type: ignore[arg-type]
        self._notes: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def at(self, when: float, note: Callable[[], None]) -> None:
        """Have `note()` called at the monotonic time `when`; dropped after `stop`."""
        entry = (when, next(self._numbers), note)
        with self._changed:
            if self._stopped:
                return
            heapq.heappush(self._notes, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif self._notes[0] is entry:
                self._changed.notify()

    def after(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` called in `seconds`."""
        self.at(time.monotonic() + seconds, note)

    def _run(self) -> None:
        self._prepare()
        while True:
            with self._changed:
                while not self._stopped:
                    if not self._notes:
                        self._changed.wait()
                        continue
                    rest = self._notes[0][0] - time.monotonic()
                    if rest <= 0:
                        break
                    self._changed.wait(min(rest, threading.TIMEOUT_MAX))
                if self._stopped:
                    return
                note = heapq.heappop(self._notes)[2]
            try:
                note()
            except Exception:
                logger.exception("snakepit: error in the timekeeper")
            del note

    def stop(self) -> None:
        """Drop all notes and let the thread end."""
        with self._changed:
            self._stopped = True
            self._notes.clear()
            self._changed.notify()

    def threads(self) -> list[threading.Thread]:
        """Return the thread, if there is one."""
        return [self._thread] if self._thread is not None else []
