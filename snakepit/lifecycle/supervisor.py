"""The supervisor: one thread a pool that starts workers, watches them, replaces them and ends them.

It sleeps in poll() on the workers' sentinels and a pipe. Everything that changes the set of workers
happens in it, so that set needs no lock; other threads leave a note in `_notes` and ring.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import math
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit.lifecycle.burial import Burial
from snakepit.lifecycle.health import Health, HealthPolicy
from snakepit.lifecycle.ladder import Ladder
from snakepit.lifecycle.leaving import Leaving
from snakepit.lifecycle.preparation import Preparation
from snakepit.lifecycle.recycling import Recycler, RecyclingPolicy
from snakepit.lifecycle.registry import registry
from snakepit.lifecycle.starts import LATE, MOST_FAILED_STARTS
from snakepit.lifecycle.worker import Worker
from snakepit.pool.memory import release_client, reserve_client
from snakepit.worker.priority import become_ordinary

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

SPARE_PATIENCE = 0.25  # seconds that a spare may take to start while others have the CPUs
LONGEST_BACKOFF = 30.0  # seconds between two tries to start a worker
MOST_DOUBLINGS = 30  # of the time between two tries; by then it is longer than any
LONGEST_POLL = 86_400_000  # milliseconds; poll() takes no more than 24.8 days
EXIT_GRACE = 5.0  # seconds that idle workers have to end at shutdown


def _backoff(failures: int) -> float:
    """Return the seconds until a start is tried again, after so many in a row have failed."""
    # A float holds 1023 doublings, and so many failures come together in a day.
    return min(0.05 * 2.0 ** min(failures, MOST_DOUBLINGS), LONGEST_BACKOFF)


def _named(error: BaseException) -> str:
    """Return class and text of an error that a PoolNotReadyError quotes; of another, its text."""
    ours = isinstance(error, errors.PoolNotReadyError)
    return str(error) if ours else f"{type(error).__name__}: {error}"


class Supervisor:
    """Supervises the workers of `pool`; `run` is the thread's body."""

    def __init__(self, pool: ProcessPool, recycling: RecyclingPolicy, health: HealthPolicy) -> None:
        self._pool = pool
        self.workers: dict[int, Worker] = {}
        self.starting: int | None = None  # the lane of one that is about to be among them
        self.crashes = 0
        self.restarts = 0
        self.started = False  # the first workers exist
        self.failed_starts = 0  # in all, those of spares included
        self.last_failure = ""  # why the last of them did; no error, whose frames would hold us
        self._failed_starts = 0
        self._failed_spares = 0
        self._started = 0
        self._batch_at = 0.0  # when the next batch of first workers may start
        self._notes: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._bell_out = self._bell_in = -1
        # Re-entrant: a signal handler may ring while its thread does.
        self._bell_lock = threading.RLock()
        self._poller = select.poll()
        self._by_sentinel: dict[int, Worker] = {}
        self._limits_starts = False  # a timer stands for the one that has to be ready first
        self._not_before = 0.0
        self._no_spare_before = 0.0
        self.ending = False
        self.burial = Burial(pool, self)
        self.ladder = Ladder(pool, self)
        self.recycler = Recycler(pool, self, recycling)
        self.health = Health(pool, self, health)
        self.leaving = Leaving(pool, self)
        self.preparation = Preparation(pool, self, self._poller)
        self.last_look = 0.0

    def prepare(self) -> None:
        """Open what `run` needs: an unused pool holds no descriptors."""
        self._bell_out, self._bell_in = os.pipe()
        os.set_blocking(self._bell_in, False)
        os.set_blocking(self._bell_out, False)
        self._poller.register(self._bell_out, select.POLLIN)
        self.burial.oom.start()

    def unprepare(self) -> None:
        """Close what `prepare` has opened, when `run` has not begun and will not."""
        if self._bell_out >= 0:
            self._poller.unregister(self._bell_out)
        self._close_bell()

    def _close_bell(self) -> None:
        with self._bell_lock:
            if self._bell_in >= 0:
                os.close(self._bell_in)
                os.close(self._bell_out)
            self._bell_in = self._bell_out = -1

    # -- from any thread ---------------------------------------------------------------------------

    def tell(self, note: Callable[[], None]) -> None:
        """Have `note()` run in the supervisor's thread soon."""
        self._notes.append(note)
        # Never into a descriptor that is somebody else's by now.
        with self._bell_lock, contextlib.suppress(BlockingIOError, OSError):
            if self._bell_in >= 0:
                os.write(self._bell_in, b".")

    def at(self, when: float, note: Callable[[], None]) -> None:
        """Have `note()` run in the supervisor's thread at the monotonic time `when` (seconds)."""
        self.tell(lambda: heapq.heappush(self._timers, (when, next(self._numbers), note)))

    def after(self, seconds: float, note: Callable[[], None]) -> None:
        """Have `note()` run in the supervisor's thread in `seconds`."""
        self.at(time.monotonic() + seconds, note)

    # -- the thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Supervise until the pool is closed and every worker has ended."""
        try:
            while not (self.ending and not self.workers):
                self._turn()
        finally:
            self._pool.supervisor_ended()
            self._close_bell()
            # Who tells us something from now on sees that the pool is over.
            self.recycler.end()
            while self._notes:
                self._notes.popleft()()
            # What comes to nothing now must not keep alive what it was to act on.
            self._timers.clear()

    def _turn(self) -> None:
        try:
            self._check_end()
            self._start_missing()
            # Between two batches of forks, too, the first call holds still.
            if not (self.started or (self._batch_at and self._pool.launcher.forks)):
                self.started = True
                self._pool.note_ready()
            dead = []
            for fd, _ in self._poller.poll(self._patience()):
                if fd == self._bell_out:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell_out, 4096)
                elif fd in self._by_sentinel:
                    dead.append(self._by_sentinel[fd])
                else:
                    self.preparation.look()
            while self._notes:
                self._notes.popleft()()
            # Their last words first: one that could not start has mostly said why.
            for worker in dead:
                self.burial.begin(worker)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            self._look(now)
        except Exception:
            # A supervisor that dies takes the pool with it; one that stumbles tells and goes on.
            logger.exception("snakepit pool %s: error in the supervisor", self._pool.name)
            time.sleep(0.05)

    def _look(self, now: float) -> None:
        """See to the age, the size and the health of workers, each in its time."""
        when = self.health.next_look()
        if when is not None and now >= when:
            self.health.look(now)
            self.burial.oom.look()
        when = self.recycler.next_look()
        if when is not None and now >= when:
            self.last_look = now
            self.recycler.look(now)
        when = self.leaving.next_look()
        if when is not None and now >= when:
            self.leaving.look(now)

    def _patience(self) -> float | None:
        """Milliseconds until the next thing to do, or to look whether there is; None for ever."""
        if self._notes:
            return 0
        times = [
            self.health.next_look(), self.recycler.next_look(), self.leaving.next_look()
        ]  # fmt: skip
        if self._timers:
            times.append(self._timers[0][0])
        if self._not_before or self._batch_at:
            times.append(max(self._not_before, self._batch_at))
        if self._no_spare_before:
            times.append(self._no_spare_before)
        when = min((time for time in times if time is not None), default=None)
        if when is None:
            return None
        return min(max(0.0, (when - time.monotonic()) * 1000 + 0.5), LONGEST_POLL)

    # -- starting ----------------------------------------------------------------------------------

    def _start_missing(self) -> None:
        """Start what is missing, as many as there are lanes for."""
        now = time.monotonic()
        if self._no_spare_before <= now:
            self._no_spare_before = 0.0
        if max(self._not_before, self._batch_at) <= now:
            self._not_before = self._batch_at = 0.0
        # Asked while starts are put off, too: a spare may be there for who is missing.
        while (spare := self.recycler.next_start()) is not None:
            if self._not_before or self._batch_at:
                return
            # Who should be replaced goes on; who is missing is not waited for because of that.
            if spare and self._no_spare_before:
                return
            if self.preparation.is_awaited(spare=spare):
                return
            firsts = range(0, self._pool.lanes, self._pool.threads)
            free = (lane for lane in firsts if lane not in self.workers)
            if self._starting() >= self._pool.most_starting:
                return  # The next that is ready, or dead, lets another begin.
            choice = self.burial.tainted.choose(free)
            if choice is None:
                return  # Without a lane, the next burial makes room.
            lane, wait = choice
            if wait > 0:
                self._not_before = time.monotonic() + wait
                return
            # The first call holds still until the first workers exist, when they are forks (see
            # `ProcessLife.start`); and the first of them may speak before the last is forked.
            held = self._pool.launcher.forks and not self.started
            if not self._start(lane, spare):
                return
            if self._pool.ends_batch(self._started):
                self._batch_at = time.monotonic() + self._pool.batch_delay
                return
            if self._notes and not held:
                return

    def _starting(self) -> int:
        return sum(not (each.ready or each.expected) for each in self.workers.values())

    def _start(self, lane: int, spare: bool) -> bool:
        client = reserve_client()
        row = registry.reserve("worker")
        self.starting = lane
        try:
            process = self._pool.launcher.start(lane, client, spare)
        except Exception as error:
            registry.release(row)
            self.starting = None
            self._pool.roster.vacate(lane)
            self._pool.nested.forget(lane)
            recording = self._pool.launcher.recordings.pop(lane, None)
            if recording is not None:
                recording.close()
            release_client(client)
            self.start_failed(error, spare=spare)
            return False
        recording = self._pool.launcher.recordings.pop(lane, None)
        worker = Worker(lane, client, process, recording, self._pool.threads)
        worker.spare = spare
        worker.row = row
        self.workers[lane] = worker
        self.starting = None
        self._by_sentinel[worker.sentinel] = worker
        self._poller.register(worker.sentinel, select.POLLIN)
        registry.activate(row, worker.pid)
        self._limit_start(worker)
        self.recycler.started(worker)
        if spare:
            self.after(SPARE_PATIENCE, lambda: self._hurry_if_starting(worker))
        self._started += 1
        if self._started > self._pool.size:
            self.restarts += 1
        return True

    def _limit_start(self, worker: Worker) -> None:
        """End a worker that hangs while it starts; that counts as a failed start."""
        worker.ready_by = time.monotonic() + self._pool.start_timeout
        # One timer for all: workers start in the order in which they have to be ready.
        if not self._limits_starts:
            self._limits_starts = True
            self.at(worker.ready_by, self._end_late_starts)

    def _end_late_starts(self) -> None:
        self._limits_starts = False
        now = time.monotonic()
        next_limit = math.inf
        for worker in list(self.workers.values()):
            if worker.ready or worker.expected or worker.buried:
                continue
            if worker.ready_by > now:
                next_limit = min(next_limit, worker.ready_by)
                continue
            worker.ready_by = math.inf
            worker.send(signal.SIGKILL, LATE)
        if next_limit < math.inf:
            self._limits_starts = True
            self.at(next_limit, self._end_late_starts)

    def worker_on(self, lane: int) -> Worker | None:
        """Return the worker to which a lane belongs, if it is there and not being buried."""
        worker = self.workers.get(lane - lane % self._pool.threads)
        return None if worker is None or worker.buried else worker

    def holds(self, worker: Worker) -> bool:
        """Whether a worker is a spare that waits for a place."""
        return self._pool.roster.holds(worker.lane)

    def hurry(self, worker: Worker) -> None:
        """Let a spare that starts in nobody else's time have the CPU: it is needed now."""
        if not (worker.ready or worker.buried):
            become_ordinary(worker.pid)

    def _hurry_if_starting(self, worker: Worker) -> None:
        if self.workers.get(worker.lane) is worker and not worker.ready:
            self.hurry(worker)
            self.after(SPARE_PATIENCE, lambda: self._hurry_if_starting(worker))

    def start_failed(
        self,
        error: BaseException,
        *,
        spare: bool = False,
        hopeless: bool = False,
        counted: bool = False,
        details: dict[str, Any] | None = None,
        verdict: errors.PoolNotReadyError | None = None,
    ) -> None:
        """A worker could not be started, or died while it was: try again later, or give up.

        No pool is broken that has a worker which is ready, nor one for want of a spare: who should
        have been replaced goes on. `hopeless`: it would fail again, so a pool without a ready
        worker does not try. `counted`: this is why a start failed that was told of before.
        `verdict`: what the pool says once it is broken; `details`: of what it says else, where
        `error` has none.
        """
        count = 0 if counted else 1
        self.failed_starts += count
        self.last_failure = _named(error)
        if not counted:
            self.recycler.start_failed(self.last_failure)
        if spare:
            self._failed_spares += count
            backoff = _backoff(self._failed_spares)
            self._no_spare_before = time.monotonic() + backoff
        else:
            self._failed_starts += count
            if not self._has_ready() and (hopeless or self._failed_starts >= MOST_FAILED_STARTS):
                self._break(verdict or self._why_given_up(error, details), error)
                return
            backoff = _backoff(self._failed_starts)
            self._not_before = time.monotonic() + backoff
        logger.warning(
            "snakepit pool %s: a worker%s cannot be started, tried again in %.3g s: %s",
            self._pool.name, " to take over from another" if spare else "", backoff,
            self.last_failure,
        )  # fmt: skip
        self._pool.note_ready()

    def _has_ready(self) -> bool:
        """Whether a worker can run calls, now or once it is let in."""
        return any(self._is_ready(worker) for worker in self.workers.values())

    def _is_ready(self, worker: Worker) -> bool:
        roster = self._pool.roster
        return (
            # Its lanes know before its mail is read.
            (worker.ready or roster.serves(worker.lane))
            and not worker.expected
            and roster.may_serve(worker.lane)
            and not roster.has_left(worker.lane)
            and not worker.is_dead()
        )

    def _why_given_up(
        self, error: BaseException, details: dict[str, Any] | None
    ) -> errors.PoolNotReadyError:
        times = (
            "" if self._failed_starts == 1
            else f"{self._failed_starts} in a row failed, the last: "
        )  # fmt: skip
        return errors.PoolNotReadyError(
            f"pool {self._pool.name!r} cannot start workers: {times}{_named(error)}",
            details={**(details or getattr(error, "details", {})), "pool": self._pool.name},
        )

    def worker_ready(self, lane: int, pid: int) -> None:
        """A worker finished its start-up."""
        worker = self.workers.get(lane)
        # It may be dead and buried by now, and its lane another's.
        if worker is not None and worker.pid == pid:
            worker.ready = True
            self._failed_starts = self._failed_spares = 0
            self._not_before = self._no_spare_before = 0.0
            self.recycler.ready(worker)
        self._pool.note_ready()

    def worker_failed(
        self, lane: int, pid: int, error: BaseException, text: str, *, spare: bool
    ) -> None:
        """A worker's initializer raised: others would too, unless some are ready already."""
        worker = self.workers.get(lane)
        buried = worker is None or worker.pid != pid
        if worker is not None and not buried:
            worker.expected = True
            self.leaving.note(worker)
        if isinstance(error, errors.AdapterError):
            problem = f"pool {self._pool.name!r} cannot start: {error}"
        else:
            problem = (
                f"the initializer of pool {self._pool.name!r} raised "
                f"{type(error).__name__}: {error}"
            )
        details = {**getattr(error, "details", {}), "pool": self._pool.name, "traceback": text}
        if error.__cause__ is None:
            error.__cause__ = errors.RemoteTraceback(text)
        verdict = errors.PoolNotReadyError(problem, details=details)
        self.start_failed(error, spare=spare, hopeless=True, counted=buried, verdict=verdict)

    def _break(self, error: errors.PoolNotReadyError, cause: BaseException) -> None:
        if self._pool.broken is not None:
            return
        error.__cause__ = cause
        self._pool.set_broken(error)
        for worker in list(self.workers.values()):
            if self._pool.roster.running(worker.lane):
                self.ladder.drain(worker)
            else:
                self._end_worker(worker, signal.SIGTERM)

    # -- ending ------------------------------------------------------------------------------------

    def unwatch(self, worker: Worker) -> None:
        """A worker is dead: its sentinel has told so."""
        self._poller.unregister(worker.sentinel)
        del self._by_sentinel[worker.sentinel]

    def forget(self, worker: Worker) -> None:
        """Strike a dead worker off: its lane is free."""
        del self.workers[worker.lane]
        if worker.ready and not self._has_ready():
            # Nobody is left to run calls: what was put off is tried now.
            self._not_before = 0.0

    def _check_end(self) -> None:
        """Once a closed pool has nothing left to do, let idle workers end, then make them."""
        if self.ending or not self._pool.is_over():
            return
        self.ending = True
        self._pool.roster.end_all()
        for worker in self.workers.values():
            worker.expected = True
            if not worker.ready:
                worker.send(signal.SIGTERM)
        self.at(time.monotonic() + EXIT_GRACE, lambda: self.end_workers(signal.SIGTERM))

    def end_workers(self, sig: int, reason: str | None = None) -> None:
        """Send every worker a signal, and SIGKILL after a grace time."""
        for worker in list(self.workers.values()):
            self._end_worker(worker, sig, reason)

    def _end_worker(self, worker: Worker, sig: int, reason: str | None = None) -> None:
        worker.expected = True
        worker.send(sig, reason)
        if sig != signal.SIGKILL:
            self.kill_later(worker)

    def kill_later(self, worker: Worker) -> None:
        def kill() -> None:
            if self.workers.get(worker.lane) is worker:
                worker.send(signal.SIGKILL)

        self.at(time.monotonic() + self._pool.graces.terminate, kill)
