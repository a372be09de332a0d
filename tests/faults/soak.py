"""Loads pools at random while their workers die, stop and are replaced; says what was lost.

    python -m tests.faults.soak [--seconds N] [--seed N]        (`make soak`)

Every outcome is compared with what it must be. At the end the pools are closed and what this
process holds is compared with what it held: processes, descriptors, threads, segments, memory. The
exit status is 1 if anything was lost, wrong or leaked.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import ctypes
import faulthandler
import gc
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import snakepit
from snakepit import errors
from snakepit.testing import kill_worker, suspend_worker
from tests.faults import work

PATIENCE = 90.0
WORKERS = 3
MEMORY_GROWTH = 0.02
BATCH = 40
CALLERS = 3


@dataclass
class Tally:
    """What was done and what came of it; shared by all threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    problems: list[str] = field(default_factory=list)

    def count(self, what: str, by: int = 1) -> None:
        with self.lock:
            self.done[what] += by

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(text)
        print(f"!! {text}", flush=True)


@dataclass
class Expected:
    """A future and the outcomes that are right for it."""

    kind: str
    future: Any
    value: Any
    errors: tuple[type[BaseException], ...] = ()


class Caller(threading.Thread):
    """One thread that submits random tasks, in batches, and checks what comes back."""

    def __init__(
        self, executor: snakepit.Executor, tally: Tally, seed: int, over: threading.Event
    ) -> None:
        super().__init__(name=f"caller-{seed}")
        self.executor = executor
        self.tally = tally
        self.random = random.Random(seed)
        self.over = over
        self.kinds: list[tuple[Callable[[], Expected], int]] = [
            (self.value, 12), (self.text, 4), (self.array, 6), (self.large, 1), (self.error, 3),
            (self.tree, 1), (self.arrays_in_tree, 1), (self.late, 1), (self.stopped, 2),
            (self.cancelled, 3), (self.session, 4), (self.made, 3),
        ]  # fmt: skip

    def run(self) -> None:
        makers = [maker for maker, weight in self.kinds for _ in range(weight)]
        try:
            while not self.over.is_set():
                if self.random.random() < 0.05:
                    self.map()
                batch = [self.random.choice(makers)() for _ in range(self.random.randint(1, BATCH))]
                if self.random.random() < 0.3:
                    futures = [expected.future for expected in batch]
                    if concurrent.futures.wait(futures, PATIENCE).not_done:
                        self.tally.problem("lost: wait() does not return")
                for expected in batch:
                    self.check(expected)
        except BaseException:
            self.tally.problem(f"a caller failed:\n{traceback.format_exc()}")

    def check(self, expected: Expected) -> None:
        self.tally.count(expected.kind)
        try:
            error = expected.future.exception(PATIENCE)
        except concurrent.futures.CancelledError as cancelled:
            error = cancelled
        except concurrent.futures.TimeoutError:
            self.tally.problem(f"lost: a task of kind {expected.kind} is never settled")
            return
        if error is None:
            if not np.array_equal(expected.future.result(0), expected.value):
                self.tally.problem(f"wrong: the result of a task of kind {expected.kind}")
        elif isinstance(error, errors.WorkerCrashedError):
            self.tally.count("crashed")
        elif isinstance(error, expected.errors):
            self.tally.count(f"{type(error).__name__}, as asked")
        else:
            self.tally.problem(f"wrong: a task of kind {expected.kind} failed with {error!r}")

    # -- kinds of tasks ----------------------------------------------------------------------------

    def submit(self, kind: str, value: Any, *call: Any, **terms: Any) -> Expected:
        executor: Any = self.executor.options(**terms) if terms else self.executor
        function, *args = call
        return Expected(kind, executor.submit(function, 0, *args), value)

    def value(self) -> Expected:
        number = self.random.randrange(10**6)
        return self.submit("value", number * number, work.square, number)

    def text(self) -> Expected:
        text = "ä" * self.random.randrange(20_000)
        return self.submit("text", text, work.echo, text)

    def array(self) -> Expected:
        array = np.arange(self.random.randrange(1, 60_000))
        return self.submit("array", array * 2, work.double, array)

    def large(self) -> Expected:
        array = np.full(self.random.randrange(1 << 20, 6 << 20), 3, np.uint8)
        return self.submit("large array", array * 2, work.double, array)

    def made(self) -> Expected:
        size, value = self.random.randrange(1, 200_000), self.random.randrange(256)
        return self.submit("made", np.full(size, value, np.uint8), work.make, size, value)

    def error(self) -> Expected:
        expected = self.submit("error", None, work.raise_error, "as asked")
        expected.errors = (work.TaskError,)
        return expected

    def tree(self) -> Expected:
        return self.submit("tree", 7, work.tree, 2)

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

    def map(self) -> None:
        count = self.random.randrange(1, 400)
        self.tally.count("map")
        try:
            got = list(self.executor.map(work.square, [0] * count, range(count), timeout=PATIENCE))
        except errors.WorkerCrashedError:
            self.tally.count("crashed")
        except TimeoutError:
            self.tally.problem("lost: a map does not end")
        else:
            if got != [number * number for number in range(count)]:
                self.tally.problem("wrong: the results of a map")


class Troubler(threading.Thread):
    """Kills, stops and replaces workers at random instants."""

    def __init__(
        self, executors: list[snakepit.Executor], tally: Tally, seed: int, over: threading.Event
    ) -> None:
        super().__init__(name="troubler")
        self.executors = executors
        self.tally = tally
        self.random = random.Random(seed)
        self.over = over

    def run(self) -> None:
        while not self.over.wait(self.random.expovariate(6)):
            executor = self.random.choice(self.executors)
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


# -- the audit -------------------------------------------------------------------------------------


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost",
    )]  # fmt: skip


def used_memory() -> int:
    """Return the bytes that this process has allocated and not freed, by the allocators' own count.

    What is resident says less: the blocks that glibc keeps for itself make it swing by a quarter.
    """
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    used = libc.mallinfo2()
    # The allocator of small Python objects counts blocks; they have 70 bytes or so.
    return int(used.uordblks + used.hblkhd + 70 * sys.getallocatedblocks())


def resident_memory() -> int:
    """Return the bytes of this process's own resident memory, without the arena's pages."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say how much anonymous memory there is")


@dataclass(frozen=True)
class Holdings:
    """What this process holds."""

    children: int
    descriptors: int
    threads: int
    segments: int
    memory: int  # bytes allocated
    resident: int

    @classmethod
    def now(cls) -> Holdings:
        from snakepit.pool.memory import arena

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        usage = arena().usage()
        own = psutil.Process()
        return cls(
            len(own.children(recursive=True)), own.num_fds(), threading.active_count(),
            usage["held"] + usage["shared"], used_memory(), resident_memory(),
        )  # fmt: skip


def run_phase(executors: list[snakepit.Executor], tally: Tally, seconds: float, seed: int) -> None:
    """Load the executors and trouble them for some seconds; returns when every task is settled."""
    over = threading.Event()
    troubler = Troubler(executors, tally, seed, over)
    callers = [
        Caller(executor, tally, seed * 100 + number, over)
        for number, executor in enumerate(executors * CALLERS)
    ]
    for thread in (troubler, *callers):
        thread.start()
    try:
        time.sleep(seconds)
    finally:
        over.set()
        for thread in (troubler, *callers):
            thread.join()


def soak(seconds: float, seed: int) -> Tally:
    """Run the soak and return what it did and what was wrong."""
    tally = Tally()
    before = Holdings.now()
    executors = [
        snakepit.Executor(WORKERS, name="plain"),
        snakepit.Executor(WORKERS, name="recycled", worker_ttl=2.0, worker_max_requests=2000),
    ]
    for executor in executors:
        executor.wait_ready(60)
    warm_up = max(5.0, seconds * 0.25)
    run_phase(executors, tally, warm_up, seed)
    middle = Holdings.now()
    run_phase(executors, tally, max(1.0, seconds - warm_up), seed + 1)
    end = Holdings.now()
    for executor in executors:
        stats = executor.stats()
        tally.count("crashes seen by the pools", stats.crashed)
        tally.count("restarts", stats.restarted)
        if stats.queued:
            tally.problem(f"{stats.queued} tasks are queued in an idle pool")
        executor.shutdown(wait=True)
    del executors, executor
    after = Holdings.now()
    audit(tally, before, middle, end, after)
    return tally


def audit(tally: Tally, before: Holdings, middle: Holdings, end: Holdings, after: Holdings) -> None:
    """Compare what is held at the end with what was held before."""
    growth = end.memory / middle.memory - 1
    print(f"memory: {middle.memory / 1e6:.1f} MB after the warm-up, {end.memory / 1e6:.1f} MB at "
          f"the end ({growth:+.1%}); resident {middle.resident / 1e6:.1f} and "
          f"{end.resident / 1e6:.1f} MB")  # fmt: skip
    print(f"before: {before}\nafter:  {after}")
    if growth > MEMORY_GROWTH:
        tally.problem(f"leaked: memory grew by {growth:.1%}")
    if after.children > before.children:
        tally.problem(f"leaked: {after.children - before.children} processes")
    if after.threads > before.threads:
        tally.problem(f"leaked: {[thread.name for thread in threading.enumerate()]}")
    if after.descriptors > before.descriptors:
        names = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")[:-1]]
        tally.problem(f"leaked: {after.descriptors - before.descriptors} descriptors of {names}")
    if after.segments > before.segments:
        tally.problem(f"leaked: {after.segments - before.segments} segments")
    if tally.done["crashed"] > tally.done["crashes seen by the pools"]:
        tally.problem("lost: more tasks failed than workers died")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print the account, and return 1 if something was lost, wrong or leaked."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    faulthandler.register(signal.SIGUSR1)
    os.environ.setdefault("SNAKEPIT_ARENA_BYTES", str(1 << 30))
    path = work.make_counts()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    try:
        tally = soak(options.seconds, options.seed)
    finally:
        os.unlink(path)
    for what, count in sorted(tally.done.items()):
        print(f"{count:10,}  {what}")
    print(f"{len(tally.problems)} lost, wrong or leaked" + "".join(
        f"\n  {problem.splitlines()[0]}" for problem in tally.problems))  # fmt: skip
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
