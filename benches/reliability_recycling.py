"""What does recycling cost the calls? p99 with and without it, at 1,000 calls a second.

Two workers, one caller, calls that do nothing. In the second pool every worker is replaced once
every two seconds. Rounds alternate, so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence

import snakepit

RATE = 1000  # calls a second
TTL = 2.1  # seconds; with its jitter, a worker lives 2.0 s on average
BAR = 1.2


def paced(seconds: float) -> Iterator[None]:
    """Yield at each instant at which a call is due, for some seconds."""
    started = time.perf_counter()
    for number in range(int(seconds * RATE)):
        pause = started + number / RATE - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        yield


def call_steadily(executor: snakepit.Executor, seconds: float) -> list[float]:
    """Call at a steady rate for some seconds; return what each call took, in microseconds."""
    took = []
    clock = time.perf_counter
    for _ in paced(seconds):
        before = clock()
        executor.submit(int).result()
        took.append((clock() - before) * 1e6)
    return took


def quantile(values: list[float], q: float) -> float:
    """Return the value below which the share `q` of the values lies."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return 1 if the bar is missed."""
    parser = argparse.ArgumentParser(prog="recycling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="a round (default: 4)")
    options = parser.parse_args(argv)
    found: dict[str, list[list[float]]] = {"without": [], "with": []}
    replaced = 0
    for _ in range(options.rounds):
        for kind, ttl in (("without", None), ("with", TTL)):
            # One pool at a time: the other's replacements would disturb this one's calls.
            with snakepit.Executor(2, worker_ttl=ttl) as executor:
                executor.wait_ready()
                call_steadily(executor, 1.0)
                found[kind].append(call_steadily(executor, options.seconds))
                replaced += executor.lifecycle_stats().recycled["age"]
    p99 = {}
    for kind, rounds in found.items():
        p99[kind] = statistics.median(quantile(values, 0.99) for values in rounds)
        p50 = statistics.median(quantile(values, 0.5) for values in rounds)
        each = ", ".join(f"{quantile(values, 0.99):.0f}" for values in rounds)
        worst = statistics.median(max(values) for values in rounds)
        print(
            f"{kind:>7} recycling: p50 {p50:.0f} us, p99 {p99[kind]:.0f} us (rounds: {each}), "
            f"worst {worst:.0f} us"
        )
    ratio = p99["with"] / p99["without"]
    print(f"{replaced} workers were replaced; p99 ratio {ratio:.2f} (bar: {BAR})")
    return int(ratio > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
