"""One pool under faults: the means to load it, and the checks that it is whole."""

from __future__ import annotations

import concurrent.futures
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import snakepit
from snakepit import errors
from snakepit.testing import ProtocolPoints
from tests.faults import work
from tests.faults.readings import Reading, random_stream

WORKERS = 3
PATIENCE = 30.0


class FaultError(Exception):
    """The protocol broke a promise."""


@dataclass
class Call:
    """A task under way, and what must come of it."""

    future: snakepit.Future[Any]
    expected: Any
    index: int  # of its counter; 0: its executions are not counted
    fails: bool = False  # it raises TaskError(expected)
    reading: Reading | None = None  # of a stream


@dataclass
class Bench:
    """One pool and the means to load it."""

    executor: snakepit.Executor
    generator: random.Random
    points: ProtocolPoints
    index: int = 0
    calls: list[Call] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    has_trees: bool = False
    sig: signal.Signals = signal.SIGKILL
    target: int = 0  # whom the owner kills at its point
    deaths: int = 0  # of workers that a load has killed

    def submit(
        self, function: Callable[..., Any], *args: Any, expected: Any, fails: bool = False,
        view: Any = None, counted: bool = True,
    ) -> Call:  # fmt: skip
        """Submit a task through the executor, or a `view` of it, and remember what it must give."""
        self.index += 1
        index = self.index if counted else 0
        future = (view or self.executor).submit(function, index, *args)
        call = Call(future, expected, index, fails)
        self.calls.append(call)
        return call

    # -- loads -------------------------------------------------------------------------------------

    def small(self) -> None:
        """Small calls in a burst, others one by one, with pauses in which lanes fall asleep."""
        for number in range(12):
            self.submit(work.square, number, expected=number * number)
        self.submit(work.raise_error, "as asked", expected="as asked", fails=True)
        self.submit(work.echo, "text" * 900, expected="text" * 900)
        for number in range(3):
            self.wait_somehow(self.submit(work.square, number, expected=number * number))
        time.sleep(self.generator.choice([0, 0.0005, 0.004]))

    def wait_somehow(self, call: Call) -> None:
        """Wait as callers do: in `result`, in `wait`, or by a callback; each has another waker."""
        way = self.generator.randrange(3)
        if way == 0:
            call.future.exception(PATIENCE)
        elif way == 1:
            done, _ = concurrent.futures.wait([call.future], PATIENCE)
            if not done:
                raise FaultError("wait() hangs")
        else:
            event = threading.Event()
            call.future.add_done_callback(lambda _: event.set())
            if not event.wait(PATIENCE):
                raise FaultError("a callback never came")

    def bursts(self) -> None:
        """Bursts into sleeping lanes: few are woken, and those wake others."""
        for _ in range(3):
            time.sleep(self.generator.choice([0.0003, 0.003, 0.006]))
            for number in range(self.generator.choice([2, 3, 4, 9])):
                seconds = self.generator.choice([0.0, 0.0001, 0.001])
                self.submit(work.pause, seconds, expected=seconds) if number % 2 else self.submit(
                    work.square, number, expected=number * number
                )
            self.wait_somehow(self.calls[-1])

    def sessions(self) -> None:
        """Calls that go to a lane's private ring, and from there, when that is busy, elsewhere."""
        for turn in range(4):
            for session in range(3):
                view = self.executor.options(session=f"s{session}")
                for number in range(3):
                    self.submit(work.square, number, expected=number * number, view=view)
                seconds = 0.002
                self.submit(work.pause, seconds, expected=seconds, view=view)
            if turn % 2:
                self.wait_somehow(self.calls[-1])

    def arrays(self) -> None:
        """Arrays of many sizes both ways, held together, so that segments have to be carved."""
        for _ in range(10):
            size = int(2 ** self.generator.uniform(13.4, 20))
            self.submit(work.make, size, 7, expected=np.full(size, 7, np.uint8))
            array = np.full(size, self.generator.randrange(100), np.uint8)
            self.submit(work.double, array, expected=array * 2)
        # An answer that is kept leaves its class of segments one short.
        size = int(2 ** self.generator.uniform(13.4, 15))
        call = self.submit(work.make, size, 1, expected=np.full(size, 1, np.uint8))
        call.future.exception(PATIENCE)

    def slabs(self) -> None:
        """So many arrays of up to 4 MB that another slab is needed."""
        for _ in range(5):
            self.submit(work.make, 4_100_000, 3, expected=np.full(4_100_000, 3, np.uint8))
        # What is kept cannot be used again for the next ones.
        for call in self.calls[-5:]:
            if call.future.exception(PATIENCE) is None:
                self.kept.append(call.future.result(0))

    def large(self) -> None:
        """Arrays whose memory goes back to the system when they are released."""
        array = np.full(5 << 20, 5, np.uint8)
        self.submit(work.double, array, expected=array * 2)
        # The worker releases what no answer takes over.
        for _ in range(6):
            self.submit(work.length, array, expected=len(array))
        for call in self.calls[-7:]:
            call.future.exception(PATIENCE)

    def crowded(self) -> None:
        """Answers for which the arena has no room until the caller drops others."""
        usage = arena().usage()
        room = usage["bytes_budget"] - usage["bytes_in_use"]
        filler = snakepit.shared_array(room - (6 << 20), np.uint8)
        for _ in range(4):
            self.submit(work.make, 4 << 20, 9, expected=np.full(4 << 20, 9, np.uint8))
        time.sleep(0.05)
        del filler

    def trees(self) -> None:
        """Tasks that submit tasks."""
        self.has_trees = True
        for _ in range(3):
            self.submit(work.tree, 2, expected=7)
        self.submit(work.tree_of_arrays, 40_000, expected=160_000)
        for call in self.calls[-4:]:
            call.future.exception(PATIENCE)

    def questions(self) -> None:
        """Tasks that ask their owner: from several threads, for arrays, and with arrays."""
        view = self.executor.options(session="asks")
        session = self.executor.session("asks")
        if not session.list_variables("number"):
            session.register_variable("number", "integer", 0)
            session.register_variable("array", "tensor", np.zeros(20_000))
            session.register_tool("double", lambda value: value * 2)
        for number in range(6):
            self.submit(work.ask, number, expected=number * 2, view=view)
            self.submit(work.ask_in_threads, 3, expected=3, view=view)
        array = np.full(20_000, 2.0)
        self.submit(work.ask_with_array, array, expected=True, view=view)
        for call in self.calls[-13:]:
            call.future.exception(PATIENCE)

    def stream(self, function: Callable[..., Any], *args: Any, kind: str, count: int) -> Call:
        """Open a stream, read by a thread, and remember what it must give."""
        self.index += 1
        # A small one has a writer that waits for its reader.
        view = self.executor.options(max_chunks=self.generator.choice([3, 20, 100]))
        late = function is work.chunks_and_death
        if late:
            view = self.executor.options()
        opened = view.stream(function, self.index, *args)
        reading = Reading(opened, kind, count, self.generator, late=late)
        call = Call(opened.future, count, self.index, reading=reading)
        self.calls.append(call)
        reading.start()
        return call

    def streams(self) -> None:
        """Streams of small and large chunks, one more than workers, read at many paces."""
        for _ in range(WORKERS + 1):
            kind, count, every, seconds = random_stream(self.generator)
            self.stream(work.chunks, kind, count, every, seconds, kind=kind, count=count)
        self.wait_for_streams()

    def dying_streams(self) -> None:
        """A stream whose worker dies before anybody reads."""
        self.deaths += 1
        count = self.generator.randrange(10, 40)
        self.stream(work.chunks_and_death, count, self.target, kind="arrays", count=count)
        self.wait_for_streams()

    def wait_for_streams(self) -> None:
        for call in self.calls:
            if call.reading is not None:
                call.reading.join(PATIENCE)

    def passed_on(self) -> None:
        """A lane takes one task in the instant in which it is offered another; a sleeper wakes."""
        views = [self.executor.options(session=f"s{number}") for number in range(WORKERS)]
        with tempfile.TemporaryDirectory() as folder:
            met = [view.submit(work.meet, folder, n, WORKERS) for n, view in enumerate(views)]
            concurrent.futures.wait(met, PATIENCE, concurrent.futures.FIRST_EXCEPTION)
            if any(future.done() and future.exception() for future in met):
                # The point was passed already, and who died there will not come to meet the others.
                for number in range(WORKERS):
                    Path(folder, str(number)).touch()
                concurrent.futures.wait(met, PATIENCE)
                return
            lanes = dict(zip([future.result(0) for future in met], views, strict=True))
        time.sleep(self.generator.choice([0.001, 0.005]))
        before = self.points.fired("lane.claimed")
        self.points.hold_at("lane.claimed")
        self.submit(work.square, 4, expected=16)
        self.points.wait_fired("lane.claimed", before + 1, PATIENCE)
        view = lanes[self.points.fired_pid("lane.claimed")]
        self.submit(work.square, 5, expected=25, view=view)
        self.points.disarm("lane.claimed")
        self.calls[-1].future.exception(PATIENCE)

    def everything(self) -> None:
        self.small()
        self.arrays()
        self.trees()

    # -- checks ------------------------------------------------------------------------------------

    def check_calls(self, most_crashed: int) -> int:
        """Check every call and forget it; returns how many failed because their worker died."""
        crashed = 0
        most_crashed += self.deaths
        self.deaths = 0
        counts = work.counts()
        for call in self.calls:
            error: BaseException | None
            try:
                error = call.future.exception(PATIENCE)
            except concurrent.futures.TimeoutError:
                raise FaultError(f"task {call.index} is never settled") from None
            except concurrent.futures.CancelledError as cancelled:
                error = cancelled
            if call.reading is not None:
                crashed += self.check_stream(call.reading, error)
            elif isinstance(error, errors.WorkerCrashedError):
                crashed += 1
            elif error is not None:
                if not (call.fails and isinstance(error, work.TaskError)):
                    raise FaultError(f"a wrong error: {error!r}") from error
            elif not np.array_equal(call.future.result(0), call.expected):
                raise FaultError("a wrong result")
            executions = counts[call.index]
            if call.index and executions != 1 and (executions > 1 or error is None):
                raise FaultError(f"a task ran {executions} times, its error: {error!r}")
        self.calls.clear()
        if crashed > most_crashed:
            raise FaultError(f"{crashed} tasks failed after {most_crashed} deaths")
        return crashed

    def check_stream(self, reading: Reading, error: BaseException | None) -> bool:
        """Check a stream whose call ended with `error`; whether its worker died."""
        problem = reading.verdict(PATIENCE, error)
        if problem is not None:
            raise FaultError(problem)
        return isinstance(error, errors.WorkerCrashedError)

    def check_pool(self, held: int) -> None:
        """Check that the pool is whole: workers, lanes, slots, arena, counters."""
        executor = self.executor
        self._await(lambda: executor.stats().ready == WORKERS, "the full size")
        with tempfile.TemporaryDirectory() as folder:
            futures = [executor.submit(work.meet, folder, n, WORKERS) for n in range(WORKERS)]
            try:
                met = {future.result(PATIENCE) for future in futures}
            except errors.SnakepitError as error:
                raise FaultError("a worker died without a reason") from error
            except TimeoutError as error:
                raise FaultError("not every worker is at work") from error
        if len(met) != WORKERS:
            raise FaultError(f"{len(met)} workers do the work of {WORKERS}")
        counts = scheduler_of(executor).counts
        self._await(lambda: counts()["free_slots"] == counts()["slots"], "slots to come back")
        self._await(lambda: counts()["free_mail"] == counts()["mail"], "mail slots to come back")
        self._await(
            lambda: arena().usage()["held"] <= held + len(self.kept), "segments to come back"
        )
        self._await(lambda: counts()["running"] == 0, "lanes to be idle")
        stats = counts()
        if stats["queued"] != 0:
            raise FaultError(f"{stats['queued']} tasks are queued in an idle pool")
        settled = stats["completed"] + stats["failed"] + stats["cancelled"]
        # A task's own task that is taken back, to be run by who waits for it, is counted nowhere.
        if not self.has_trees and stats["submitted"] != settled:
            raise FaultError(f"the counters do not add up: {stats}")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        pause = 0.0002
        while not condition():
            if time.monotonic() > end:
                raise FaultError(f"waited in vain for {what}: {arena().usage()}, "
                                 f"{scheduler_of(self.executor).counts()}")  # fmt: skip
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)


def arena() -> Any:
    from snakepit.pool import memory

    return memory.arena()


def scheduler_of(executor: Any) -> Any:
    return executor._pool.scheduler
