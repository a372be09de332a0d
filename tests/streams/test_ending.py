"""How streams end before their time: closed, dropped, cancelled, late, or with their pool."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

import snakepit
from snakepit.errors import PoolShutdownError, TaskStoppedError, TaskTimeoutError
from snakepit.pool.local_streams import ChunkBuffer
from tests.executor import tasks as calls
from tests.executor.tasks import Gate, Log
from tests.support import is_over, wait_for_interrupt_in, wait_until

from . import tasks

Make = Callable[..., snakepit.Executor]
GateMaker = Callable[[str], Gate]


def expect_closed(executor: snakepit.Executor, log: Log) -> None:
    """Expect that the generator has seen GeneratorExit, and that its worker goes on."""
    assert executor.submit(calls.square, 3).result(60) == 9
    executor.shutdown()
    assert log.lines() == ["closed", "finally"]


def test_close_ends_the_generator(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    assert next(stream) == 0
    stream.close()
    stream.close()
    assert is_over(stream)
    wait_until(stream.done, "the end of the call")
    expect_closed(executor, log)


@pytest.mark.processes
def test_closed_stream_counts_as_cancelled(make: Make, log: Log, gate: Any) -> None:
    executor = make(1)
    release = gate("release")
    # Its end is held up: a call that is over before it is cancelled is completed.
    with executor.stream(tasks.clean_up_slowly, log, release) as stream:
        next(stream)
    release.open()
    assert executor.submit(calls.square, 3).result(60) == 9
    stats = executor.stats()
    assert (stats.submitted, stats.completed, stats.failed, stats.cancelled) == (2, 1, 0, 1)


def test_stream_interrupted_at_a_lock_of_its_buffer_ends() -> None:
    taken = threading.Event()

    def chunks() -> Iterator[int]:
        wait_for_interrupt_in(ChunkBuffer.put, taken)
        while True:
            yield 1

    with snakepit.Executor(1, profile="local") as executor:
        stream = executor.stream(chunks)
        assert taken.wait(60)
        assert stream.future.stop()
        with pytest.raises(TaskStoppedError):
            list(stream)
        assert executor.submit(calls.square, 3).result(60) == 9


def test_local_pool_is_joined_while_streams_are_opened() -> None:
    with snakepit.Executor(1, profile="local") as executor, ThreadPoolExecutor(1) as threads:
        pool: Any = executor._pool

        def open_many() -> list[snakepit.Stream[int]]:
            return [executor.stream(tasks.count, 0) for _ in range(3000)]

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            opened = threads.submit(open_many)
            while not opened.done():
                pool.join(0)
        finally:
            sys.setswitchinterval(before)
        assert len(opened.result()) == 3000


def test_leaving_with_ends_the_generator(make: Make, log: Log) -> None:
    executor = make(1)
    with executor.stream(tasks.logging, log, 10**9) as stream:
        assert next(stream) == 0
    expect_closed(executor, log)


def test_leaving_the_loop_ends_the_generator(make: Make, log: Log) -> None:
    executor = make(1)
    for chunk in executor.stream(tasks.logging, log, 10**9):
        if chunk == 150:
            break
    gc.collect()
    expect_closed(executor, log)


def test_dropped_stream_ends_the_generator(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    assert next(stream) == 0
    del stream
    gc.collect()
    expect_closed(executor, log)


def test_clean_up_may_take_longer_than_the_ladder(make: Make, log: Log, gate: GateMaker) -> None:
    executor = make(1, stop_grace={"flag": 0.1, "interrupt": 0.1, "terminate": 0.1})
    release, later = gate("release"), threading.Event()
    stream = executor.stream(tasks.clean_up_slowly, log, release)
    assert next(stream) == 0
    stream.close()
    # Long after each of the ladder's rungs.
    later.wait(0.6)
    release.open()
    assert executor.submit(calls.square, 3).result(60) == 9
    assert log.lines() == ["finally"]
    executor.shutdown()
    if executor.worker_pids():
        assert executor.lifecycle_stats().crashes == 0


def test_generator_that_does_not_yield_again_is_stopped(
    make: Make, log: Log, gate: GateMaker
) -> None:
    executor = make(1)
    started = gate("started")
    stream = executor.stream(tasks.stuck, log, started)
    assert next(stream) == 1
    started.wait()
    stream.close()
    assert executor.submit(calls.square, 3).result(60) == 9
    assert log.lines() == ["finally"]


def test_queued_stream_that_is_closed_never_runs(make: Make, log: Log, gate: GateMaker) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    blocker = executor.submit(calls.hold, started, release)
    started.wait()
    stream = executor.stream(tasks.logging, log, 3)
    stream.close()
    assert is_over(stream) and stream.cancelled()
    release.open()
    blocker.result(60)
    executor.shutdown()
    assert log.lines() == []


def test_reader_in_another_thread_is_released_by_close(
    executor: snakepit.Executor, gate: GateMaker
) -> None:
    first, release = gate("first"), gate("release")
    first.open()
    stream = executor.stream(tasks.gated, [first, release])
    assert next(stream) == 0
    begun = threading.Event()

    def read() -> int | None:
        chunks = iter(stream)  # a loop that begins after the end is refused
        begun.set()
        return next(chunks, None)

    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        assert begun.wait(60)
        stream.close()
        assert reading.result(60) is None
    release.open()


def test_cancelled_stream_raises_after_its_chunks(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    assert next(stream) == 0
    assert stream.cancel()
    with pytest.raises(CancelledError):
        for _ in stream:
            pass
    assert stream.cancelled() and is_over(stream) and stream.cancel()
    expect_closed(executor, log)


def test_stopped_stream_raises_after_its_chunks(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    assert next(stream) == 0
    # The generator waits for its reader by now, or soon.
    assert stream.future.stop()
    with pytest.raises(TaskStoppedError):
        stream.future.result(60)
    seen = []
    with pytest.raises(TaskStoppedError):
        for chunk in stream:
            seen.append(chunk)
    assert seen == list(range(1, len(seen) + 1)) and len(seen) <= 100
    assert executor.submit(calls.square, 3).result(60) == 9
    executor.shutdown()
    assert log.lines() == ["closed", "finally"]


def test_deadline_is_for_the_whole_stream(make: Make, log: Log) -> None:
    executor = make(1)
    executor.submit(calls.square, 3).result(60)
    stream = executor.options(timeout=0.5).stream(tasks.logging, log, 10**9)
    seen = 0
    with pytest.raises(TaskTimeoutError, match=r"timeout of 0\.5 s"):
        for chunk in stream:
            assert chunk == seen
            seen += 1
    assert seen > 0 and is_over(stream)
    expect_closed(executor, log)


def test_deadline_ends_a_generator_that_waits_for_its_reader(make: Make, log: Log) -> None:
    executor = make(1)
    executor.submit(calls.square, 3).result(60)
    stream = executor.options(timeout=0.3).stream(tasks.logging, log, 10**9)
    with pytest.raises(TaskTimeoutError):
        stream.future.result(60)
    with pytest.raises(TaskTimeoutError):
        list(stream)
    expect_closed(executor, log)


def test_deadline_ends_a_reader_that_waits(make: Make, gate: GateMaker) -> None:
    executor = make(1)
    executor.submit(calls.square, 3).result(60)
    never = gate("never")
    stream = executor.options(timeout=0.3).stream(tasks.gated, [never])
    with pytest.raises(TaskTimeoutError):
        next(stream)
    never.open()


def test_shutdown_lets_another_thread_read_to_the_end(make: Make) -> None:
    executor = make(1)
    stream = executor.stream(tasks.count, 5_000)
    reading = threading.Event()

    def read() -> list[int]:
        chunks = [next(stream)]
        reading.set()
        return [*chunks, *stream]

    with ThreadPoolExecutor(1) as threads:
        chunks = threads.submit(read)
        reading.wait(60)
        executor.shutdown(wait=True)
        assert chunks.result(60) == list(range(5_000))


def test_shutdown_does_not_wait_for_its_own_thread_to_read(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    assert next(stream) == 0
    executor.shutdown(wait=True)
    assert log.lines() == ["closed", "finally"]
    seen = []
    with pytest.raises(PoolShutdownError, match="its pool was shut down by the thread"):
        for chunk in stream:
            seen.append(chunk)
    assert seen == list(range(1, len(seen) + 1)) and is_over(stream)


def test_shutdown_does_not_wait_for_a_thread_that_has_ended(make: Make, log: Log) -> None:
    executor = make(1)
    stream = executor.stream(tasks.logging, log, 10**9)
    reader = threading.Thread(target=next, args=(stream,))
    reader.start()
    reader.join()
    executor.shutdown(wait=True)
    assert log.lines() == ["closed", "finally"]
    with pytest.raises(PoolShutdownError):
        list(stream)


def test_shutdown_without_waiting_lets_this_thread_read_on(make: Make) -> None:
    executor = make(1)
    stream = executor.stream(tasks.count, 1_000)
    executor.shutdown(wait=False)
    assert list(stream) == list(range(1_000))


def test_stream_that_ended_survives_its_pool(make: Make) -> None:
    executor = make(1)
    stream = executor.stream(tasks.values_of, *[b"x" * 20_000] * 5)
    assert stream.future.result(60) == 5
    executor.shutdown(wait=True)
    assert [len(chunk) for chunk in stream] == [20_000] * 5


def test_unread_stream_of_large_chunks_leaves_nothing(executor: snakepit.Executor) -> None:
    from snakepit.pool.memory import arena

    executor.submit(calls.square, 3).result(60)
    gc.collect()
    before = arena().usage()["bytes_in_use"]
    stream = executor.stream(tasks.arrays, 20, 5_000)
    assert stream.future.result(60) == 20
    del stream
    stream = executor.stream(tasks.arrays, 10**9, 5_000)
    next(stream)
    stream.close()
    executor.shutdown()
    del stream
    gc.collect()
    # Less than the twenty chunks of 40 kB; the functions of the pool stay.
    assert arena().usage()["bytes_in_use"] < before + 300_000


def test_nested_stream_needs_no_free_thread() -> None:
    def outer() -> list[int]:
        return list(snakepit.current_pool().stream(tasks.count, 500))

    with snakepit.Executor(1, profile="local") as executor:
        assert executor.submit(outer).result(60) == list(range(500))
