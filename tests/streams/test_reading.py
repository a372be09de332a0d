"""What a stream gives its reader: every chunk, in order, and then its end."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import snakepit
from snakepit.errors import DecodeError, EncodeError, PoolShutdownError, StreamReadError
from tests.executor import tasks as calls
from tests.executor.tasks import Gate, Log
from tests.support import is_over

from . import tasks

Make = Callable[..., snakepit.Executor]
GateMaker = Callable[[str], Gate]


def test_chunks_arrive_in_order_and_complete(executor: snakepit.Executor) -> None:
    assert list(executor.stream(tasks.count, 1000)) == list(range(1000))


def test_stream_without_chunks_is_empty(executor: snakepit.Executor) -> None:
    assert list(executor.stream(tasks.count, 0)) == []


def test_many_small_chunks(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 100_000)
    assert all(chunk == expected for expected, chunk in enumerate(stream))
    assert stream.future.result(60) == 100_000


def test_keywords_reach_the_generator(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count_by_keyword, place=3, number=6)
    assert list(stream) == [3, 4, 5]


def test_function_may_return_any_iterable(executor: snakepit.Executor) -> None:
    assert list(executor.stream(range, 3)) == [0, 1, 2]
    assert list(executor.stream(calls.identity, ["a", "b"])) == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [None, True, 2**70, 1.5, "text", b"bytes", [1, [2]], {"a": (1, 2)}, {1, 2}, "x" * 50_000],
    ids=lambda value: type(value).__name__,
)
def test_chunks_are_what_was_yielded(executor: snakepit.Executor, value: Any) -> None:
    assert list(executor.stream(tasks.values_of, value, value)) == [value, value]


def test_sizes_around_every_limit_arrive(executor: snakepit.Executor) -> None:
    sizes = [0, 1, 31, 32, 33, 10_239, 10_240, 10_241, 32_000, 33_000, 70_000, 300_000]
    chunks = [bytes([size % 251]) * size for size in sizes * 8]
    assert list(executor.stream(tasks.values_of, *chunks)) == chunks


def test_large_threshold_does_not_burst_the_ring() -> None:
    with snakepit.Executor(1, inline_threshold=1 << 20) as executor:
        chunks = [bytes([each]) * 200_000 for each in range(30)]
        assert list(executor.stream(tasks.values_of, *chunks)) == chunks


def test_arrays_are_correct_and_writable(executor: snakepit.Executor) -> None:
    kept = []
    for each, array in enumerate(executor.stream(tasks.arrays, 20, 30_000)):
        assert array.flags.writeable and (array == each).all()
        array += 1
        kept.append(array)
    assert all((array == each + 1).all() for each, array in enumerate(kept))


def test_views_of_a_shared_array_arrive_by_reference(executor: snakepit.Executor) -> None:
    array = snakepit.shared_array((10, 4), "i8", writable=True)
    rows = list(executor.stream(tasks.rows_of, array))
    array[:] += 100
    assert [row.tolist() for row in rows] == [[each + 100] * 4 for each in range(10)]


def test_shared_arrays_of_the_worker_outlive_its_generator(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.own_shared_arrays, 5)
    assert [array.tolist() for array in stream] == [[each] * 10 for each in range(5)]


def test_closures_and_lambdas_stream(executor: snakepit.Executor) -> None:
    factor = 3

    def triple(number: int) -> Any:
        for each in range(number):
            yield each * factor

    for _ in range(3):
        assert list(executor.stream(triple, 4)) == [0, 3, 6, 9]
        assert list(executor.stream(lambda text: iter(text), "abc")) == ["a", "b", "c"]


def test_several_streams_at_once(make: Make) -> None:
    executor = make(3)
    streams = [executor.stream(tasks.count, 2_000 + each) for each in range(3)]
    counts = [sum(1 for _ in group) for group in itertools.zip_longest(*streams)]
    assert len(counts) == 2_002


def test_calls_go_on_beside_a_stream_that_nobody_reads(make: Make) -> None:
    executor = make(2)
    with executor.stream(tasks.count, 10**9) as stream:
        assert next(stream) == 0
        assert list(executor.map(calls.square, range(50))) == [each**2 for each in range(50)]
        assert next(stream) == 1


def test_chunk_is_there_before_the_next_is_made(
    executor: snakepit.Executor, gate: GateMaker
) -> None:
    gates = [gate(str(each)) for each in range(4)]
    stream = executor.stream(tasks.gated, gates)
    for expected in range(4):
        gates[expected].open()
        assert next(stream) == expected
    assert is_over(stream)


def test_slow_reader_slows_the_generator(executor: snakepit.Executor, log: Log) -> None:
    view = executor.options(max_chunks=4)
    for number in view.stream(tasks.noting, log, 60):
        made = len(log.lines())
        # Four in flight, the one that was read, and the one that waits to be sent.
        assert made <= number + 6
    assert len(log.lines()) == 60


@pytest.mark.processes
def test_bytes_in_flight_are_bounded(executor: snakepit.Executor, log: Log) -> None:
    view = executor.options(max_bytes="100kB")
    stream = view.stream(tasks.values_of, *[b"x" * 40_000] * 12)
    assert [len(chunk) for chunk in stream] == [40_000] * 12
    # A chunk that is larger than what may be in flight goes alone.
    stream = view.stream(tasks.values_of, *[b"x" * 300_000] * 5)
    assert [len(chunk) for chunk in stream] == [300_000] * 5


@pytest.mark.processes
def test_memory_of_a_long_stream_is_bounded(executor: snakepit.Executor) -> None:
    from snakepit.pool.memory import arena

    most = 0
    for number, chunk in enumerate(executor.stream(tasks.values_of, *[b"x" * 50_000] * 600)):
        assert len(chunk) == 50_000
        if number % 50 == 0:
            most = max(most, arena().usage()["bytes_in_use"])
    # 100 chunks of 52 kB, the arguments of the call, and what the tests before left.
    assert most < 60_000_000


def test_error_after_chunks_arrives_after_them(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.fail_after, 150, ValueError("enough"))
    seen = []
    with pytest.raises(ValueError, match="enough"):
        for chunk in stream:
            seen.append(chunk)
    assert seen == list(range(150))
    assert is_over(stream)


@pytest.mark.processes
def test_chunk_that_cannot_be_pickled_is_named(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.locks_after, 3)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EncodeError, match=r"chunk 3 of the stream: cannot pickle a lock"):
        next(stream)
    assert is_over(stream)


@pytest.mark.processes
def test_chunk_that_cannot_be_rebuilt_is_named_and_ends_the_stream(
    executor: snakepit.Executor,
) -> None:
    stream = executor.stream(tasks.bad_to_load)
    assert next(stream) == 1
    with pytest.raises(DecodeError, match="chunk 1 of the stream cannot be rebuilt"):
        next(stream)
    assert is_over(stream)


@pytest.mark.processes
def test_arguments_that_cannot_be_pickled_are_the_streams_error(
    executor: snakepit.Executor,
) -> None:
    stream = executor.stream(tasks.values_of, threading.Lock())
    with pytest.raises(EncodeError):
        next(stream)
    assert is_over(stream)


def test_loop_over_a_stream_that_was_read_is_an_error(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 3)
    assert list(stream) == [0, 1, 2]
    for again in (list, lambda stream: stream.for_each(print), aiter):
        with pytest.raises(StreamReadError, match=r"has ended.*call stream\(\) again") as caught:
            again(stream)
        assert "'tests.streams.tasks.count' of pool 'default'" in str(caught.value)
        assert isinstance(caught.value, RuntimeError)
        assert caught.value.details == {
            "pool": "default",
            "function": "tests.streams.tasks.count",
            "problem": "ended",
        }
    assert next(stream, None) is None
    assert stream.done() and not stream.cancelled()


def test_first_loop_over_a_stream_that_ended_meanwhile_is_none(executor: snakepit.Executor) -> None:
    for number in (0, 3):
        stream = executor.stream(tasks.count, number)
        assert stream.future.result(60) == number
        assert list(stream) == list(range(number))


def test_loop_over_a_stream_whose_error_was_raised_is_an_error(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.fail_after, 1, ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        list(stream)
    assert is_over(stream)


def test_callback_must_be_callable(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 10**6)
    with pytest.raises(TypeError, match=r"callback must be callable.*None"):
        stream.for_each(None)  # type: ignore[arg-type]
    assert is_over(stream)


def test_second_loop_goes_on_where_the_first_stopped(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 6)
    assert list(itertools.islice(stream, 2)) == [0, 1]
    assert list(stream) == [2, 3, 4, 5]


def test_second_reader_is_told(executor: snakepit.Executor, gate: GateMaker) -> None:
    release = gate("release")
    stream = executor.stream(tasks.gated, [release])
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(next, stream)
        with pytest.raises(RuntimeError, match="is being read already"):
            while True:
                # Until the other thread is in there.
                stream.poll()
        release.open()
        assert first.result(60) == 0
    assert is_over(stream)


def test_stream_can_be_passed_to_another_thread(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 500)
    assert next(stream) == 0
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(list, stream).result(60) == list(range(1, 500))


def test_for_each_reads_all(executor: snakepit.Executor) -> None:
    seen: list[int] = []
    assert executor.stream(tasks.count, 200).for_each(seen.append) is True
    assert seen == list(range(200))


def test_halt_ends_the_stream(executor: snakepit.Executor, log: Log) -> None:
    seen: list[int] = []

    def callback(chunk: int) -> object:
        seen.append(chunk)
        return snakepit.HALT if chunk == 7 else None

    stream = executor.stream(tasks.logging, log, 10**6)
    assert stream.for_each(callback) is False
    assert seen == list(range(8)) and is_over(stream)
    executor.shutdown()
    assert log.lines() == ["closed", "finally"]


def test_stream_is_released_when_it_was_read(executor: snakepit.Executor) -> None:
    stream = executor.stream(tasks.count, 10)
    assert sum(stream) == 45
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (tasks.asynchronous, "is an async generator, which a stream cannot run"),
        (None, "stream takes a generator function, not None"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(
    executor: snakepit.Executor, function: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        executor.stream(function)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (tasks.returns_asynchronous, "'returns_asynchronous' is an async generator"),
        (tasks.returns_number, "'returns_number' returned a value of type 'int'"),
    ],
)
def test_what_gives_no_chunks_is_the_streams_error(
    executor: snakepit.Executor, function: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        next(executor.stream(function))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"retry": snakepit.RetryPolicy()}, "retry cannot be for a stream"),
        ({"idempotent": True}, "idempotent cannot be for a stream"),
        ({"breaker": snakepit.CircuitBreaker()}, "breaker cannot be for a stream"),
    ],
    ids=["retry", "idempotent", "breaker"],
)
def test_terms_of_several_attempts_are_refused(
    executor: snakepit.Executor, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        executor.options(**options).stream(tasks.count, 3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_chunks": 0}, ValueError),
        ({"max_chunks": 1.5}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": "3 apples"}, ValueError),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    executor: snakepit.Executor, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        executor.options(**options)


def test_closed_pool_takes_no_streams(executor: snakepit.Executor) -> None:
    executor.submit(calls.square, 2).result(60)
    executor.shutdown()
    with pytest.raises(PoolShutdownError):
        executor.stream(tasks.count, 3)
