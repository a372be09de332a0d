"""What does a tool cost beside a function: its name, checked arguments, deadlines, a session?

Then the closed loop of eight threads, each of which calls again as soon as it has its answer.
"""

import threading
import time
from typing import Any

from benches import work
from benches.suite import QUICK, Bench, Run, runs

CALLERS = 8
SECONDS = 0.3 if QUICK else 1.5
WORD = "hello"
KILOBYTE = b"x" * 1000


@runs(["snakepit", "snakepit-tools"], ["no-op"], sweeps=5)
def test_round_trip(bench: Bench, run: Run) -> None:
    call = bench.pool(1).call
    bench.rounds(lambda: call(work.noop), seconds=1.0, least=100, warm=100, warm_seconds=0.4)


@runs(["snakepit", "snakepit-tools"], ["echo"], sweeps=5)
def test_echo(bench: Bench, run: Run) -> None:
    call = bench.pool(1).call
    bench.rounds(lambda: call(work.echo, WORD), seconds=1.0, least=100, warm=100, warm_seconds=0.4)


@runs(["snakepit-tools"], ["echo, session"], sweeps=5)
def test_echo_in_a_session(bench: Bench, run: Run) -> None:
    call = bench.pool(1).view(session="a session").call
    bench.rounds(lambda: call(work.echo, WORD), seconds=1.0, least=100, warm=100, warm_seconds=0.4)


@runs(["snakepit", "snakepit-tools", "ppe"], ["1 KB, 8 callers"])
def test_many_callers(bench: Bench, run: Run) -> None:
    pool = bench.pool()
    bench.values(lambda: [_closed_loop(pool)])


def _closed_loop(pool: Any) -> float:
    """Have eight threads call for a while; return the seconds a call."""
    counts = [0] * CALLERS
    ready = threading.Barrier(CALLERS + 1)
    end = [0.0]

    def caller(place: int) -> None:
        ready.wait()
        call, count = pool.call, 0
        while time.perf_counter() < end[0]:
            call(work.echo, KILOBYTE)
            count += 1
        counts[place] = count

    threads = [threading.Thread(target=caller, args=(place,)) for place in range(CALLERS)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    end[0] = begun + SECONDS
    ready.wait()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begun) / sum(counts)
