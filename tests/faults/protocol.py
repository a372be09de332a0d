"""Kills a worker at every named point of the protocol, many times, and checks what is left.

    python -m tests.faults.protocol [POINT...] [--kills N] [--seed N] [--signal NAME]

Needs the debug build: `make faults` makes one apart and runs this in it. Each point has a process
of its own. After each kill every future is settled, at most the running task has failed, each
result is right and came from one execution, each stream has ended with all its chunks or, after the
first of them, with its worker's death, the pool is at its full size with every worker at work, no
slot is missing, and the arena holds nothing any more.

`--signal`: SIGKILL unless given. With SIGSTOP a worker stays at the point until the pool finds it
stuck, or, half of the times, until it is killed there.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import snakepit
from snakepit.testing import ProtocolPoints, have_points, kill_worker, point_names
from tests.faults import work
from tests.faults.bench import PATIENCE, WORKERS, Bench, FaultError, arena

ROUNDS = 60  # without an event, after which a point counts as not reached
BLOCK = 50  # most kills in one process: an arena's table only grows
ARENA_BYTES = 640 << 20
OWNER_ROOMS = ("place", "wake", "collect", "finish", "burial", "answer", "stream", "read")
# What is kept for these must stay below half of the arena: beyond, answers leave it.
SLAB_POINTS = ("arena.topped", "arena.slabbed")
# Passed while a table grows, which it does the less the more it has.
GROWTH_STEPS = ("backed", "committed", "cut", "entered", "counted", "listed")
OWNER_POINTS = ("mail.delivering", "mail.delivered")
SIGNALS = ("SIGKILL", "SIGSEGV", "SIGSTOP")
# So that a worker that is stopped is found within half a second.
ALERT = {"heartbeat_interval": 0.05, "heartbeat_timeout": 0.4, "max_missed": 3}


def load_for(point: str) -> Callable[[Bench], None]:
    """Return the load that passes a point."""
    room, _, step = point.partition(".")
    if point == "burial.entrusted":
        return Bench.dying_streams
    if room in ("chunk", "stream", "read"):
        return Bench.streams
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
    points: ProtocolPoints, point: str, kills: int, generator: random.Random, sig: signal.Signals
) -> dict[str, int]:
    """End a worker `kills` times at `point`; returns what happened. Raises FaultError."""
    if point == "worker.retiring":
        return run_retiring(points, kills, sig)
    crashed = done = tasks = 0
    load = load_for(point)
    health: dict[str, Any] = ALERT if sig == signal.SIGSTOP else {"heartbeat_interval": None}
    with snakepit.Executor(WORKERS, **health) as executor:
        bench = Bench(executor, generator, points, sig=sig)
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
        stats = executor.lifecycle_stats()
    found = {"kills": done, "crashed": crashed, "tasks": tasks, "restarts": stats.restarts}
    return found | ({"stuck": stats.stuck} if sig == signal.SIGSTOP else {})


class Ending(threading.Thread):
    """Kills, a moment later, the worker that was stopped at a point."""

    def __init__(self, points: ProtocolPoints, point: str, bench: Bench) -> None:
        super().__init__(name="ending", daemon=True)
        self.points = points
        self.point = point
        self.bench = bench
        self.due = points.fired(point) + 1
        self.delay = bench.generator.uniform(0, 0.1)
        self.over = threading.Event()

    def run(self) -> None:
        while self.points.fired(self.point) < self.due:
            if self.over.wait(0.001):
                return
        time.sleep(self.delay)
        owners = in_owner(self.point)
        pid = self.bench.target if owners else self.points.fired_pid(self.point)
        # The pool may have found it sooner.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def one_kill(
    points: ProtocolPoints, point: str, bench: Bench, load: Callable[[Bench], None], held: int
) -> tuple[int, int]:
    """End a worker at `point` and check what is left; returns how many tasks failed, and ran."""
    # Of a worker that starts, the pool's patience is its start_timeout.
    by_pool = not point.startswith("worker.") and bench.generator.random() < 0.5
    if bench.sig != signal.SIGSTOP or by_pool:
        return pass_point(points, point, bench, load, held)
    ending = Ending(points, point, bench)
    ending.start()
    try:
        return pass_point(points, point, bench, load, held)
    finally:
        ending.over.set()
        ending.join()


def pass_point(
    points: ProtocolPoints, point: str, bench: Bench, load: Callable[[Bench], None], held: int
) -> tuple[int, int]:
    """Have a worker meet its end at `point`, and check what is left."""
    deaths = 1
    before = points.fired(point)
    tasks = 0
    pids = bench.executor.worker_pids()
    needs_a_death = point.startswith(("worker.", "burial.")) and point != "burial.entrusted"
    nth = 1 if needs_a_death or point in SLAB_POINTS else bench.generator.choice([1, 1, 2, 3, 5, 9])
    if needs_a_death:
        deaths = 2
    for turn in range(ROUNDS):
        if turn % 6 == 0:
            if in_owner(point):
                bench.target = bench.generator.choice(bench.executor.worker_pids() or pids)
                points.kill_other_at(point, bench.target, nth, sig=bench.sig)
            else:
                points.kill_at(point, nth, sig=bench.sig)
        if needs_a_death:
            victims = [pid for pid in pids if not in_owner(point) or pid != bench.target]
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


def run_retiring(points: ProtocolPoints, kills: int, sig: signal.Signals) -> dict[str, int]:
    """End a worker that was told to end, in pools that are being closed."""
    tasks = 0
    name = "worker.retiring"
    for done in range(kills):
        executor = snakepit.Executor(2)
        executor.wait_ready(60)
        points.kill_at(name, sig=sig)
        futures = [executor.submit(work.square, 0, number) for number in range(20)]
        executor.shutdown(wait=True)
        if [future.result(0) for future in futures] != [number**2 for number in range(20)]:
            raise FaultError("a wrong result")
        tasks += len(futures)
        if points.fired(name) != done + 1:
            raise FaultError("the point was not reached")
    return {"kills": kills, "crashed": 0, "tasks": tasks, "restarts": 0}


# -- the command -----------------------------------------------------------------------------------


def run_here(point: str, kills: int, seed: int, sig: signal.Signals) -> int:
    """Run one point in this process; the exit status."""
    faulthandler.dump_traceback_later(600, exit=True)
    faulthandler.register(signal.SIGUSR1)
    path = work.make_counts()
    try:
        with ProtocolPoints() as points:
            result = run_point(points, point, kills, random.Random(seed), sig)
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


def run_apart(
    point: str, kills: int, seed: int, sig: signal.Signals = signal.SIGKILL
) -> tuple[bool, str]:
    """Run one point in processes of its own; whether it held, and what they said."""
    said = []
    left, block = kills, 0
    while left > 0:
        small = point in ("arena.emptying", "arena.emptied", "arena.waiting")
        now = min(left, kills_at_once(point))
        command = [sys.executable, "-m", "tests.faults.protocol", "--here", point]
        command += ["--kills", str(now), "--seed", str(seed + block), "--signal", sig.name]
        done = subprocess.run(
            command,
            env={**os.environ, "SNAKEPIT_ARENA_BYTES": str(ARENA_BYTES // (8 if small else 1))},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said.append(done.stdout.strip())
        if done.returncode:
            # Only now: a pool whose workers are ended says so in its log, each time.
            return False, "\n".join([*said, done.stderr.strip()])
        left -= now
        block += 1
    return True, " | ".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the points that the command line names; 1 if one of them broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.protocol", description=__doc__)
    parser.add_argument("points", nargs="*", metavar="POINT", help="default: all")
    parser.add_argument("--kills", type=int, default=20, help="kills at each point")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--signal", choices=SIGNALS, default="SIGKILL", help="what happens to a worker there"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not have_points():
        parser.error("this build has no protocol points: run `make faults`")
    unknown = set(options.points) - set(point_names())
    if unknown:
        parser.error(f"no such point: {', '.join(sorted(unknown))}")
    sig = signal.Signals[options.signal]
    if options.here:
        return run_here(options.points[0], options.kills, options.seed, sig)
    failed = []
    for point in options.points or point_names():
        begun = time.monotonic()
        held, said = run_apart(point, options.kills, options.seed, sig)
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
