"""Kills a worker at every named point of the protocol, many times, and checks what is left.

    python -m tests.faults.protocol [POINT...] [--kills N] [--seed N]

Needs the debug build: `make faults` makes one apart and runs this in it. Each point has a process
of its own. After each kill every future is settled, at most the running task has failed, each
result is right and came from one execution, the pool is at its full size with every worker at work,
no slot is missing, and the arena holds nothing any more.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import faulthandler
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import snakepit
from snakepit import errors
from snakepit.testing import ProtocolPoints, have_points, kill_worker, point_names
from tests.faults import work

WORKERS = 3
PATIENCE = 30.0
ROUNDS = 60  # without an event, after which a point counts as not reached
BLOCK = 50  # most kills in one process: an arena's table only grows
ARENA_BYTES = 640 << 20
OWNER_ROOMS = ("place", "wake", "collect", "finish", "burial", "answer")
# What is kept for these must stay below half of the arena: beyond, answers leave it.
SLAB_POINTS = ("arena.topped", "arena.slabbed")
# Passed while a table grows, which it does the less the more it has.
GROWTH_STEPS = ("backed", "committed", "cut", "entered", "counted", "listed")
OWNER_POINTS = ("mail.delivering", "mail.delivered")


class FaultError(Exception):
    """The protocol broke a promise."""


@dataclass
class Call:
    """A task under way, and what must come of it."""

    future: snakepit.Future[Any]
    expected: Any
    index: int  # of its counter; 0: its executions are not counted
    fails: bool = False  # it raises TaskError(expected)


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
        counts = work.counts()
        for call in self.calls:
            try:
                error = call.future.exception(PATIENCE)
            except concurrent.futures.TimeoutError:
                raise FaultError(f"task {call.index} is never settled") from None
            if isinstance(error, errors.WorkerCrashedError):
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


def load_for(point: str) -> Callable[[Bench], None]:
    """Return the load that passes a point."""
    room, _, step = point.partition(".")
    if point in ("lane.stole", "place.offered"):
        return Bench.sessions
    if point in ("lane.chose", "lane.counted"):
        return Bench.passed_on
    if room == "wake":
        return Bench.bursts
    if room == "mail":
        return Bench.trees
    if room in ("ask", "answer"):
        return Bench.questions
    if step in ("topped", "slabbed"):
        return Bench.slabs
    if step in ("emptying", "emptied"):
        return Bench.large
    if step == "waiting":
        return Bench.crowded
    if room == "arena" or step in ("adopted", "let_go"):
        return Bench.arrays
    if room in ("finish", "collect", "burial", "worker"):
        return Bench.everything
    return Bench.small


def in_owner(point: str) -> bool:
    return point.partition(".")[0] in OWNER_ROOMS or point in OWNER_POINTS


def run_point(
    points: ProtocolPoints, point: str, kills: int, generator: random.Random
) -> dict[str, int]:
    """Kill a worker `kills` times at `point`; returns what happened. Raises FaultError."""
    if point == "worker.retiring":
        return run_retiring(points, kills)
    crashed = done = tasks = 0
    load = load_for(point)
    with snakepit.Executor(WORKERS, heartbeat_interval=None) as executor:
        bench = Bench(executor, generator, points)
        executor.wait_ready(60)
        # The first call of each function leaves the function's definition in the arena.
        for warm_up in (Bench.small, Bench.arrays, Bench.bursts, load):
            warm_up(bench)
        bench.check_calls(0)
        bench.check_pool(1 << 30)
        held = arena().usage()["held"] - len(bench.kept)
        while done < kills:
            crashed_now, tasks_now = one_kill(points, point, bench, load, held)
            crashed += crashed_now
            tasks += tasks_now
            done += 1
        stats = executor.stats()
    return {"kills": done, "crashed": crashed, "tasks": tasks, "restarts": stats.restarted}


def one_kill(
    points: ProtocolPoints, point: str, bench: Bench, load: Callable[[Bench], None], held: int
) -> tuple[int, int]:
    deaths = 1
    before = points.fired(point)
    tasks = 0
    pids = bench.executor.worker_pids()
    needs_a_death = point.startswith(("worker.", "burial."))
    nth = 1 if needs_a_death or point in SLAB_POINTS else bench.generator.choice([1, 1, 2, 3, 5, 9])
    if needs_a_death:
        deaths = 2
    for turn in range(ROUNDS):
        if turn % 6 == 0:
            if in_owner(point):
                target = bench.generator.choice(pids)
                points.kill_other_at(point, target, nth)
            else:
                points.kill_at(point, nth)
        if needs_a_death:
            victims = [pid for pid in pids if not in_owner(point) or pid != target]
            kill_worker(bench.executor, bench.generator.choice(victims))
        load(bench)
        if needs_a_death:
            points.wait_fired(point, before + 1, PATIENCE)
        # No name here may be a call's: it would keep the last answer.
        concurrent.futures.wait([call.future for call in bench.calls], PATIENCE)
        tasks += len(bench.calls)
        if points.fired(point) == before and turn < ROUNDS - 1:
            bench.check_calls(0)
            nth = max(1, nth // 2)
            continue
        break
    points.disarm(point)
    if points.fired(point) != before + 1:
        raise FaultError(f"the point was not reached in {ROUNDS} rounds of its load")
    crashed = bench.check_calls(deaths)
    bench.check_pool(held)
    return crashed, tasks


def run_retiring(points: ProtocolPoints, kills: int) -> dict[str, int]:
    """Kill a worker that was told to end, in pools that are being closed."""
    tasks = 0
    name = "worker.retiring"
    for done in range(kills):
        executor = snakepit.Executor(2)
        executor.wait_ready(60)
        points.kill_at(name)
        futures = [executor.submit(work.square, 0, number) for number in range(20)]
        executor.shutdown(wait=True)
        if [future.result(0) for future in futures] != [number**2 for number in range(20)]:
            raise FaultError("a wrong result")
        tasks += len(futures)
        if points.fired(name) != done + 1:
            raise FaultError("the point was not reached")
    return {"kills": kills, "crashed": 0, "tasks": tasks, "restarts": 0}


# -- the command -----------------------------------------------------------------------------------


def run_here(point: str, kills: int, seed: int) -> int:
    """Run one point in this process; the exit status."""
    faulthandler.dump_traceback_later(600, exit=True)
    faulthandler.register(signal.SIGUSR1)
    path = work.make_counts()
    try:
        with ProtocolPoints() as points:
            result = run_point(points, point, kills, random.Random(seed))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # A pool that lost something may never end.
        os._exit(1)
    finally:
        os.unlink(path)
    print(" ".join(f"{name}={value}" for name, value in result.items()), flush=True)
    return 0


def kills_at_once(point: str) -> int:
    """Return how many kills one process makes at a point."""
    if point in SLAB_POINTS:
        return 3
    room, _, step = point.partition(".")
    return 10 if room == "arena" and step in GROWTH_STEPS else BLOCK


def run_apart(point: str, kills: int, seed: int) -> tuple[bool, str]:
    """Run one point in processes of its own; whether it held, and what they said."""
    said = []
    left, block = kills, 0
    while left > 0:
        small = point in ("arena.emptying", "arena.emptied", "arena.waiting")
        now = min(left, kills_at_once(point))
        command = [sys.executable, "-m", "tests.faults.protocol", "--here", point]
        command += ["--kills", str(now), "--seed", str(seed + block)]
        done = subprocess.run(
            command,
            env={**os.environ, "SNAKEPIT_ARENA_BYTES": str(ARENA_BYTES // (8 if small else 1))},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        said.append(done.stdout.strip())
        if done.returncode:
            return False, "\n".join(said)
        left -= now
        block += 1
    return True, " | ".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the points that the command line names; 1 if one of them broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.protocol", description=__doc__)
    parser.add_argument("points", nargs="*", metavar="POINT", help="default: all")
    parser.add_argument("--kills", type=int, default=20, help="kills at each point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not have_points():
        parser.error("this build has no protocol points: run `make faults`")
    unknown = set(options.points) - set(point_names())
    if unknown:
        parser.error(f"no such point: {', '.join(sorted(unknown))}")
    if options.here:
        return run_here(options.points[0], options.kills, options.seed)
    failed = []
    for point in options.points or point_names():
        begun = time.monotonic()
        held, said = run_apart(point, options.kills, options.seed)
        verdict = "ok    " if held else "BROKEN"
        print(f"{verdict} {point:20} {time.monotonic() - begun:5.1f} s  {said}",
              flush=True)  # fmt: skip
        if not held:
            failed.append(point)
    print(
        f"{len(failed)} points broke a promise: {', '.join(failed)}"
        if failed
        else "every promise held"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
