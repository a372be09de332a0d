"""Loads pools at random while their workers die, stop and are replaced; says what was lost.

    python -m tests.faults.soak [--seconds N] [--seed N]        (`make soak`)

Four pools: a plain one, one whose workers are replaced by age and number of calls, one of thread
workers, and one that spawns its workers. Values, arrays, errors, trees of tasks, maps, streams,
session variables and host tools, deadlines, stops and cancels. Every outcome is compared with what
it must be, and every task counts how often it ran.

At the end the pools are closed, and what this process holds is compared with what it held:
descriptors, threads, segments; and every process that was started, also one that has another parent
by now, must be gone. Memory, of this process and of the templates, may have grown by 2 % between
the end of the warm-up and the end of the load, if the soak lasts five minutes or more. The exit
status is 1 if anything was lost, wrong or leaked.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import resource_tracker
from typing import Any

import snakepit
from tests.faults import audit, work
from tests.faults.callers import Caller, Tally, Target, Troubler

WARM_UP = 150.0  # seconds, or half of the time: caches and malloc's pools fill for a minute or so
STEADY = 2 * WARM_UP  # a shorter soak has no steady state that its end could be compared with
MEMORY_GROWTH = 0.02


def make_targets() -> list[Target]:
    return [
        Target("plain", snakepit.Executor(3, name="plain"), 3, 4),
        Target(
            "recycled",
            snakepit.Executor(3, name="recycled", worker_ttl=2.0, worker_max_requests=2000),
            3,
            4,
        ),
        Target(
            "thread",
            snakepit.Executor(2, name="thread", profile="thread", threads_per_worker=3),
            2,
            2,
            threads=3,
        ),
        # Its workers take long to start.
        Target("spawn", snakepit.Executor(2, name="spawn", start_method="spawn"), 2, 1),
    ]


def templates_of(targets: list[Target]) -> dict[str, int]:
    """Return the pids of the pools' templates, by the pool's name."""
    found = {}
    for target in targets:
        pool: Any = target.executor._pool
        template = pool.launcher.template
        if template is not None:
            found[target.name] = template._process.pid
    return found


def run_phase(targets: list[Target], tally: Tally, seconds: float, seed: int) -> None:
    """Load the pools and trouble them for some seconds; returns when every task is settled."""
    over = threading.Event()
    troubler = Troubler(targets, tally, seed, over)
    callers = [
        Caller(target, tally, seed * 1000 + 10 * place + number, over)
        for place, target in enumerate(targets)
        for number in range(target.callers)
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
    # The standard library's own, which it starts with the first process that it spawns, and keeps.
    resource_tracker.ensure_running()
    before = audit.Holdings.now({})
    targets = make_targets()
    for target in targets:
        target.prepare(tally)
    templates = templates_of(targets)
    warm_up = min(seconds / 2, WARM_UP)
    run_phase(targets, tally, warm_up, seed)
    middle = audit.Holdings.now(templates)
    run_phase(targets, tally, max(1.0, seconds - warm_up), seed + 1)
    # One that is too slow for its pool is replaced by another, whose memory says nothing yet.
    lasting = dict(templates.items() & templates_of(targets).items())
    tally.count("templates replaced", len(templates) - len(lasting))
    end = audit.Holdings.now(lasting)
    print(f"{len(end.processes)} processes at work", flush=True)
    while targets:
        close(targets.pop(), tally)
    del target
    tally.check_counters()
    for name, first, last in audit.growth_of(middle, end):
        growth = last / first - 1
        print(f"memory of {name}: {first / 1e6:.2f} MB after the warm-up, {last / 1e6:.2f} MB at "
              f"the end ({growth:+.1%})")  # fmt: skip
        if growth > MEMORY_GROWTH and seconds >= STEADY:
            tally.problem(f"leaked: memory of {name} grew by {growth:.1%}")
    print(f"resident: {middle.resident / 1e6:.1f} and {end.resident / 1e6:.1f} MB")
    left = audit.wait_until_gone(before)
    after = audit.Holdings.now({})
    print(f"before: {before.summary()}\nafter:  {after.summary()}")
    for leak in audit.leaks(before, after, left):
        tally.problem(f"leaked: {leak}")
    return tally


def close(target: Target, tally: Tally) -> None:
    """Shut a pool down, once its numbers add up."""
    stats = target.executor.stats()
    lifecycle = target.executor.lifecycle_stats()
    tally.count("crashes seen by the pools", stats.crashed)
    tally.count("restarts", stats.restarted)
    tally.count("recycled", sum(lifecycle.recycled.values()))
    if stats.queued:
        tally.problem(f"lost: {stats.queued} tasks are queued in the idle pool {target.name!r}")
    # A thread that has to be stopped by force takes the others of its process along.
    deaths = stats.crashed if target.threads == 1 else stats.restarted
    failed = tally.done[f"crashed in {target.name}"]
    if failed > deaths * target.threads:
        tally.problem(f"lost: {failed} tasks of {target.name!r} failed at {deaths} deaths")
    target.executor.shutdown(wait=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print the account, and return 1 if something was lost, wrong or leaked."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(arguments)
    faulthandler.register(signal.SIGUSR1)
    os.environ.setdefault("SNAKEPIT_ARENA_BYTES", str(1 << 30))
    audit.mark_children()
    path = work.make_counts()
    work.counts()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    try:
        tally = soak(options.seconds, options.seed)
    finally:
        os.unlink(path)
    for what, count in sorted(tally.done.items()):
        print(f"{count:10,}  {what}")
    kinds = [problem.partition(":")[0] for problem in tally.problems]
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in ("lost", "wrong", "leaked")))
    for problem in tally.problems:
        print(f"  {problem.splitlines()[0]}")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
