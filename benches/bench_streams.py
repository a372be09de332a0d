"""Streams: how many small chunks a second, how soon the first, what does a slow reader cost?"""

import multiprocessing as mp
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benches import work
from benches.processes import pss_of_descendants
from benches.suite import KB, MB, QUICK, Bench, Run, runs

OWN = ["snakepit"]
QUEUE = "mp.Queue"
CHUNKS = 10_000 if QUICK else 100_000


@runs(OWN, ["small chunks"], limits=[QUEUE])
def test_small_chunks(bench: Bench, run: Run) -> None:
    bench.note(f"{CHUNKS:,} chunks")
    if run.peer == QUEUE:
        bench.values(lambda: [_through_queue() / CHUNKS for _ in range(1 if QUICK else 3)])
        return
    executor = bench.pool().executor

    def drain() -> None:
        for _ in executor.stream(work.count, CHUNKS):
            pass

    bench.rounds(drain, seconds=1.0, least=1, most=10, per=CHUNKS, warm=1, warm_seconds=0.01)


def _through_queue() -> float:
    """Seconds from the first number to the last, sent by a process that has started."""
    context = mp.get_context("forkserver")
    queue: Any = context.Queue()
    process = context.Process(target=work.fill_queue, args=(queue, CHUNKS))
    process.start()
    queue.get()
    begun = time.perf_counter()
    for _ in range(CHUNKS - 1):
        queue.get()
    seconds = time.perf_counter() - begun
    process.join()
    return seconds


def _timed(executor: Any, begin: Callable[[Any], Callable[[], object]]) -> list[float]:
    """Time from the call to what `begin` says is the first thing that comes back."""
    times = []
    for _ in range(200 if QUICK else 3_000):
        begun = time.perf_counter()
        rest = begin(executor)
        times.append(time.perf_counter() - begun)
        rest()
        # The end of what it kept is not a part of the next one's beginning.
        del rest
    return times


def _call(executor: Any) -> Callable[[], object]:
    executor.submit(work.noop).result()
    return list


def _first_chunk(executor: Any) -> Callable[[], object]:
    stream = executor.stream(work.count, 1)
    next(stream)
    return lambda: list(stream)


@runs(OWN, ["plain call", "first chunk"], cases_inside=True)
def test_first_chunk(bench: Bench, run: Run) -> None:
    executor = bench.pool().executor
    begin = _call if run.case == "plain call" else _first_chunk
    _timed(executor, begin)
    bench.values(lambda: _timed(executor, begin))


@runs(OWN, ["reader 100 times slower"], sweeps=1)
def test_memory(bench: Bench, run: Run) -> None:
    executor = bench.pool().executor
    size, total = 64 * KB, (32 if QUICK else 1024) * MB

    def growth() -> Sequence[float]:
        list(executor.stream(work.count, 100))
        before = pss_of_descendants()
        pace = executor.submit(work.pace_of_chunks, size).result()
        most = before
        with executor.stream(work.produce_chunks, size, total // size) as stream:
            for number, _ in enumerate(_slowly(stream, 100 * pace)):
                if number % 100 == 50:
                    most = max(most, pss_of_descendants())
        bench.note(f"{total // MB} MB in chunks of 64 kB, one in {100 * pace * 1e3:.2f} ms")
        return [(most - before) / 1e6]

    bench.values(growth, unit="MB")


def _slowly(stream: Iterator[Any], seconds: float) -> Iterator[Any]:
    for chunk in stream:
        yield chunk
        time.sleep(seconds)
