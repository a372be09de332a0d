"""The threads of a soak: those that call a pool and check what comes, and one that troubles it."""

from __future__ import annotations

import collections
import concurrent.futures
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import snakepit
from snakepit import errors
from snakepit.testing import kill_worker, suspend_worker
from tests.faults import work
from tests.faults.readings import Reading, random_stream

PATIENCE = 90.0
BATCH = 40
ASKS = 3  # sessions in which tasks ask their owner
# Arrays of random size have as many elements at least, of a byte or more. numpy keeps freed blocks
# below 1,024 bytes by their size, up to 3.6 MB, and those of comparisons too: random small sizes
# would fill that little by little, which looks like growth of the owner.
LEAST = 1024


@dataclass
class Tally:
    """What was done and what came of it; shared by all threads.

    A task counts its executions under an index: an odd one may be run twice, an even one once.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)
    heard: bytearray = field(default_factory=lambda: bytearray(work.SIZE))
    last_index: int = 0

    def count(self, what: str, by: int = 1) -> None:
        with self.lock:
            self.done[what] += by

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(text)
        print(f"!! {text}", flush=True)

    def new_indexes(self, count: int, *, twice: bool = False) -> range:
        """Return so many indexes whose counters are 0, every second number."""
        counts = work.counts()
        with self.lock:
            first = self.last_index + 2
            self.last_index += 2 * count
            found = range(first + twice, first + twice + 2 * count, 2)
            # Of a long soak, tasks that ended minutes ago had these counters.
            for index in found:
                counts[index % work.SIZE] = self.heard[index % work.SIZE] = 0
        return found

    def hear(self, index: int) -> int:
        """Count a question of a task: the tool of the host that workers call."""
        with self.lock:
            self.heard[index % work.SIZE] += 1
        return index

    def check_counters(self) -> None:
        """Look at all counters once more: nothing may have run again after its task was settled."""
        for name, counters in (("ran", work.counts()), ("asked", self.heard)):
            seen = np.frombuffer(counters, np.uint8)
            seen = seen - (np.arange(work.SIZE) % 2).astype(np.uint8) * (seen > 0)
            seen[0] = 0
            for index in np.flatnonzero(seen > 1)[:10]:
                self.problem(f"wrong: the task with counter {index} {name} {seen[index]} times")


@dataclass
class Target:
    """A pool that is soaked."""

    name: str
    executor: snakepit.Executor
    callers: int  # threads that call it
    weight: int  # how often it is troubled, beside the others
    threads: int = 1  # of each worker: the calls that a crash may fail

    def prepare(self, tally: Tally) -> None:
        """Wait for its workers, and make the sessions in which tasks ask."""
        self.executor.wait_ready(60)
        for number in range(ASKS):
            session = self.executor.session(f"asks {number}")
            session.register_variable("number", "integer", 0)
            session.register_variable("array", "tensor", np.zeros(20_000))
            session.register_tool("double", lambda value: value * 2)
            session.register_tool("hear", tally.hear)


@dataclass
class Expected:
    """A future and the outcomes that are right for it."""

    kind: str
    future: Any
    value: Any
    indexes: range  # of the counters of its executions
    errors: tuple[type[BaseException], ...] = ()
    reading: Reading | None = None  # of a stream
    heard: bool = False  # it has asked once


def is_same(found: Any, value: Any) -> bool:
    """Whether a result is what it must be."""
    if isinstance(value, np.ndarray):
        return isinstance(found, np.ndarray) and np.array_equal(found, value)
    # Not by numpy, which would make an array of a text: see `LEAST`.
    return bool(found == value)


class Caller(threading.Thread):
    """One thread that submits random tasks, in batches, and checks what comes back."""

    def __init__(self, target: Target, tally: Tally, seed: int, over: threading.Event) -> None:
        super().__init__(name=f"caller-{seed}")
        self.target = target
        self.executor = target.executor
        self.tally = tally
        self.random = random.Random(seed)
        self.over = over
        self.kinds: list[tuple[Callable[[], Expected], int]] = [
            (self.value, 12), (self.text, 4), (self.array, 6), (self.large, 1), (self.error, 3),
            (self.tree, 1), (self.arrays_in_tree, 1), (self.late, 1), (self.stopped, 2),
            (self.cancelled, 3), (self.session, 4), (self.made, 3), (self.stream, 2),
            (self.asked, 3), (self.asked_for_arrays, 1), (self.idempotent, 2),
        ]  # fmt: skip

    def run(self) -> None:
        makers = [maker for maker, weight in self.kinds for _ in range(weight)]
        try:
            while not self.over.is_set():
                if self.random.random() < 0.05:
                    self.map()
                batch = [self.random.choice(makers)() for _ in range(self.random.randint(1, BATCH))]
                if self.random.random() < 0.02:
                    batch.append(self.parent())
                if self.random.random() < 0.3:
                    futures = [expected.future for expected in batch]
                    if concurrent.futures.wait(futures, PATIENCE).not_done:
                        self.tally.problem("lost: wait() does not return")
                for expected in batch:
                    self.check(expected)
        except BaseException:
            self.tally.problem(f"wrong: a caller failed:\n{traceback.format_exc()}")

    def check(self, expected: Expected) -> None:
        self.tally.count(expected.kind)
        what = f"a task of kind {expected.kind!r} of the pool {self.target.name!r}"
        error: BaseException | None
        try:
            error = expected.future.exception(PATIENCE)
        except concurrent.futures.CancelledError as cancelled:
            error = cancelled
        except concurrent.futures.TimeoutError:
            self.tally.problem(f"lost: {what} is never settled")
            return
        if isinstance(error, errors.WorkerCrashedError):
            self.tally.count(f"crashed in {self.target.name}")
        if expected.reading is not None:
            self.check_stream(expected.reading, error)
        elif error is None:
            if not is_same(expected.future.result(0), expected.value):
                self.tally.problem(f"wrong: the result of {what}")
        elif isinstance(error, errors.WorkerCrashedError):
            pass
        elif isinstance(error, expected.errors):
            self.tally.count(f"{type(error).__name__}, as asked")
        else:
            self.tally.problem(f"wrong: {what} failed with {error!r}")
        self.check_executions(what, expected, error is None)

    def check_stream(self, reading: Reading, error: BaseException | None) -> None:
        problem = reading.verdict(PATIENCE, error)
        self.tally.count("chunks", reading.seen)
        if problem is not None:
            self.tally.problem(f"{problem} in the pool {self.target.name!r}")
        elif isinstance(error, concurrent.futures.CancelledError):
            self.tally.count("streams left before their end")

    def check_executions(self, what: str, expected: Expected, succeeded: bool) -> None:
        """Check that everything ran once at most, and once if it succeeded."""
        counts = work.counts()
        for index in expected.indexes:
            times = counts[index % work.SIZE]
            if times > 1 + index % 2 or (succeeded and not times):
                self.tally.problem(f"wrong: {what} ran {times} times")
        if expected.heard:
            times = self.tally.heard[expected.indexes[0] % work.SIZE]
            if times > 1 or (succeeded and not times):
                self.tally.problem(f"wrong: {what} was heard {times} times")

    # -- kinds of tasks ----------------------------------------------------------------------------

    def submit(
        self, kind: str, value: Any, *call: Any, count: int = 1, twice: bool = False, **terms: Any
    ) -> Expected:
        """Submit a call that has `count` indexes, with the first of them as its first argument."""
        executor: Any = self.executor.options(**terms) if terms else self.executor
        function, *args = call
        indexes = self.tally.new_indexes(count, twice=twice)
        return Expected(kind, executor.submit(function, indexes[0], *args), value, indexes)

    def value(self) -> Expected:
        number = self.random.randrange(10**6)
        return self.submit("value", number * number, work.square, number)

    def text(self) -> Expected:
        text = "ä" * self.random.randrange(20_000)
        return self.submit("text", text, work.echo, text)

    def array(self) -> Expected:
        array = np.arange(self.random.randrange(LEAST, 60_000))
        return self.submit("array", array * 2, work.double, array)

    def large(self) -> Expected:
        array = np.full(self.random.randrange(1 << 20, 6 << 20), 3, np.uint8)
        return self.submit("large array", array * 2, work.double, array)

    def made(self) -> Expected:
        size, value = self.random.randrange(LEAST, 200_000), self.random.randrange(256)
        return self.submit("made", np.full(size, value, np.uint8), work.make, size, value)

    def error(self) -> Expected:
        expected = self.submit("error", None, work.raise_error, "as asked")
        expected.errors = (work.TaskError,)
        return expected

    def tree(self) -> Expected:
        return self.submit("tree", 7, work.tree, 2, 2, count=7)

    def arrays_in_tree(self) -> Expected:
        return self.submit("tree of arrays", 160_000, work.tree_of_arrays, 40_000)

    def session(self) -> Expected:
        number, session = self.random.randrange(1000), f"session {self.random.randrange(5)}"
        return self.submit("session", number * number, work.square, number, session=session)

    def late(self) -> Expected:
        timeout = self.random.choice([0.001, 0.02, 0.05])
        expected = self.submit("late", 0.1, work.work_for, 0.1, timeout=timeout)
        expected.errors = (errors.TaskTimeoutError,)
        return expected

    def stopped(self) -> Expected:
        seconds = self.random.choice([0.0, 0.02, 0.2])
        function = self.random.choice([work.work_for, work.pause])
        expected = self.submit("stopped", seconds, function, seconds)
        expected.errors = (errors.TaskStoppedError, concurrent.futures.CancelledError)
        if self.random.random() < 0.5:
            time.sleep(self.random.choice([0, 0.001, 0.01]))
        expected.future.stop()
        return expected

    def cancelled(self) -> Expected:
        expected = self.submit("cancelled", 4, work.square, 2)
        if expected.future.cancel():
            expected.errors = (concurrent.futures.CancelledError,)
        return expected

    def idempotent(self) -> Expected:
        number = self.random.randrange(1000)
        return self.submit(
            "idempotent", number * number, work.square, number, twice=True, idempotent=True
        )

    def stream(self) -> Expected:
        kind, count, every, seconds = random_stream(self.random)
        indexes = self.tally.new_indexes(1)
        view = self.executor.options(max_chunks=self.random.choice([3, 20, 100]))
        stream = view.stream(work.chunks, indexes[0], kind, count, every, seconds)
        reading = Reading(stream, kind, count, self.random)
        reading.start()
        return Expected("stream", stream.future, count, indexes, reading=reading)

    def asked(self) -> Expected:
        session = f"asks {self.random.randrange(ASKS)}"
        index = self.tally.new_indexes(1)
        view = self.executor.options(session=session)
        future = view.submit(work.ask_once, index[0])
        return Expected("asked", future, index[0], index, heard=True)

    def asked_for_arrays(self) -> Expected:
        session = f"asks {self.random.randrange(ASKS)}"
        if self.random.random() < 0.5:
            return self.submit("asked in threads", 3, work.ask_in_threads, 3, session=session)
        array = np.full(20_000, 2.0)
        return self.submit("asked with arrays", True, work.ask_with_array, array, session=session)

    def parent(self) -> Expected:
        alone = self.random.random() < 0.5
        return self.submit("left a child process", True, work.leave_child, alone)

    def map(self) -> None:
        count = self.random.randrange(1, 400)
        self.tally.count("map")
        indexes = self.tally.new_indexes(count)
        crashed = False
        try:
            got = list(self.executor.map(work.square, indexes, range(count), timeout=PATIENCE))
        except errors.WorkerCrashedError:
            crashed = True
            self.tally.count(f"crashed in {self.target.name}")
        except TimeoutError:
            self.tally.problem("lost: a map does not end")
            return
        else:
            if got != [number * number for number in range(count)]:
                self.tally.problem("wrong: the results of a map")
        counts = work.counts()
        times = {counts[index % work.SIZE] for index in indexes}
        if not times <= ({0, 1} if crashed else {1}):
            self.tally.problem(f"wrong: items of a map ran {sorted(times)} times")


class Troubler(threading.Thread):
    """Kills, stops and replaces workers at random instants."""

    def __init__(
        self, targets: list[Target], tally: Tally, seed: int, over: threading.Event
    ) -> None:
        super().__init__(name="troubler")
        self.executors = [target.executor for target in targets]
        self.weights = [target.weight for target in targets]
        self.tally = tally
        self.random = random.Random(seed)
        self.over = over

    def run(self) -> None:
        while not self.over.wait(self.random.expovariate(6)):
            [executor] = self.random.choices(self.executors, self.weights)
            choice = self.random.random()
            try:
                if choice < 0.6:
                    sig = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV])
                    kill_worker(executor, sig=sig)
                    self.tally.count("kills")
                elif choice < 0.8:
                    with suspend_worker(executor):
                        self.over.wait(self.random.uniform(0.01, 0.4))
                    self.tally.count("suspensions")
                else:
                    worker = self.random.choice(executor.lifecycle_stats().workers)
                    executor.recycle_worker(worker.id, wait=False)
                    self.tally.count("replacements by hand")
            except (IndexError, LookupError, ValueError, OSError):
                continue  # It was gone before we came to it.
