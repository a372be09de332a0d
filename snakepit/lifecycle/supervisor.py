"""The supervisor: one thread a pool that starts workers, watches them, replaces them and ends them.

It sleeps in poll() on the workers' sentinels and a pipe. Everything that changes the set of workers
happens in it, so that set needs no lock; other threads leave a note in `_notes` and ring.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from snakepit.errors import PoolNotReadyError
from snakepit.lifecycle.burial import Burial
from snakepit.lifecycle.ladder import Ladder
from snakepit.lifecycle.registry import registry
from snakepit.lifecycle.worker import Worker
from snakepit.pool.memory import release_client, reserve_client

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

MOST_FAILED_STARTS = 3  # in a row; then the pool is broken
TERM_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
EXIT_GRACE = 5.0  # seconds that idle workers have to end at shutdown


class Supervisor:
    """Supervises the workers of `pool`; `run` is the thread's body."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        self.workers: dict[int, Worker] = {}
        self.crashes = 0
        self.restarts = 0
        self.started = False  # the first workers exist
        self._failed_starts = 0
        self._started = 0
        self._notes: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._bell_out = self._bell_in = -1
        self._poller = select.poll()
        self._by_sentinel: dict[int, Worker] = {}
        self._not_before = 0.0
        self.ending = False
        self._burial = Burial(pool, self)
        self.ladder = Ladder(pool, self)

    def prepare(self) -> None:
        """Open what `run` needs: an unused pool holds no descriptors."""
        self._bell_out, self._bell_in = os.pipe()
        os.set_blocking(self._bell_in, False)
        os.set_blocking(self._bell_out, False)
        self._poller.register(self._bell_out, select.POLLIN)

    # -- from any thread ---------------------------------------------------------------------------

    def tell(self, note: Callable[[], None]) -> None:
        """Have `note()` run in the supervisor's thread soon."""
        self._notes.append(note)
        with contextlib.suppress(BlockingIOError, OSError):
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
            os.close(self._bell_in)
            os.close(self._bell_out)

    def _turn(self) -> None:
        try:
            self._check_end()
            self._start_missing()
            if not self.started:
                self.started = True
                self._pool.note_ready()
            for fd, _ in self._poller.poll(self._patience()):
                if fd == self._bell_out:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._bell_out, 4096)
                elif fd in self._by_sentinel:
                    self._burial.bury(self._by_sentinel[fd])
            while self._notes:
                self._notes.popleft()()
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
        except Exception:
            # A supervisor that dies takes the pool with it; one that stumbles tells and goes on.
            logger.exception("snakepit pool %s: error in the supervisor", self._pool.name)
            time.sleep(0.05)

    def _patience(self) -> float | None:
        """Milliseconds until the next timer, None for ever."""
        if self._notes:
            return 0
        when = self._timers[0][0] if self._timers else None
        if self._missing() > 0 and self._not_before:
            when = self._not_before if when is None else min(when, self._not_before)
        return None if when is None else max(0.0, (when - time.monotonic()) * 1000 + 0.5)

    # -- starting ----------------------------------------------------------------------------------

    def _missing(self) -> int:
        if self.ending or self._pool.broken is not None:
            return 0
        return self._pool.size - len(self.workers)

    def _start_missing(self) -> None:
        while self._missing() > 0 and time.monotonic() >= self._not_before:
            lane = next(lane for lane in range(self._pool.lanes) if lane not in self.workers)
            client = reserve_client()
            row = registry.reserve("worker")
            try:
                process = self._pool.start_process(lane, client)
            except Exception as error:
                registry.release(row)
                self._pool.nested.forget(lane)
                release_client(client)
                self.start_failed(error)
                return
            worker = Worker(lane, client, process)
            worker.row = row
            registry.activate(row, worker.pid)
            self.workers[lane] = worker
            self._by_sentinel[worker.sentinel] = worker
            self._poller.register(worker.sentinel, select.POLLIN)
            self._started += 1
            if self._started > self._pool.size:
                self.restarts += 1
            if self._notes:
                return

    def start_failed(self, error: BaseException) -> None:
        self._failed_starts += 1
        self._not_before = time.monotonic() + 0.05 * 2**self._failed_starts
        if self._failed_starts >= MOST_FAILED_STARTS:
            self._break(
                PoolNotReadyError(
                    f"pool {self._pool.name!r} cannot start workers: "
                    f"{self._failed_starts} in a row failed, the last with "
                    f"{type(error).__name__}: {error}",
                    details=getattr(error, "details", {}),
                ),
                error,
            )

    def worker_ready(self, lane: int) -> None:
        """A worker finished its start-up."""
        worker = self.workers.get(lane)
        if worker is not None:
            worker.ready = True
            self._failed_starts = 0
            self._not_before = 0.0
        self._pool.note_ready()

    def worker_failed(self, lane: int, error: BaseException, text: str) -> None:
        """A worker's initializer raised: others would too, so the pool stops trying."""
        worker = self.workers.get(lane)
        if worker is not None:
            worker.expected = True
        self._break(
            PoolNotReadyError(
                f"the initializer of pool {self._pool.name!r} raised "
                f"{type(error).__name__}: {error}",
                details={"traceback": text},
            ),
            error,
        )

    def _break(self, error: PoolNotReadyError, cause: BaseException) -> None:
        if self._pool.broken is None:
            error.__cause__ = cause
            self._pool.set_broken(error)
            self.end_workers(signal.SIGTERM)

    # -- ending ------------------------------------------------------------------------------------

    def forget(self, worker: Worker) -> None:
        """Strike a dead worker off: its lane and its sentinel are free."""
        self._poller.unregister(worker.sentinel)
        del self._by_sentinel[worker.sentinel]
        del self.workers[worker.lane]

    def _check_end(self) -> None:
        """Once a closed pool has nothing left to do, let idle workers end, then make them."""
        if self.ending or not self._pool.is_over():
            return
        self.ending = True
        self._pool.scheduler.end_lanes()
        for worker in self.workers.values():
            worker.expected = True
            if not worker.ready:
                worker.send(signal.SIGTERM)
        self.at(time.monotonic() + EXIT_GRACE, lambda: self.end_workers(signal.SIGTERM))

    def end_workers(self, sig: int) -> None:
        """Send every worker a signal, and SIGKILL after a grace time."""
        for worker in list(self.workers.values()):
            worker.expected = True
            worker.send(sig)
            if sig != signal.SIGKILL:
                self.kill_later(worker)

    def kill_later(self, worker: Worker) -> None:
        def kill() -> None:
            if self.workers.get(worker.lane) is worker:
                worker.send(signal.SIGKILL)

        self.at(time.monotonic() + TERM_GRACE, kill)
