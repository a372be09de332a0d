"""Streams read by `async for`."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

import snakepit
from snakepit.errors import StreamReadError, TaskTimeoutError
from tests.executor import tasks as calls
from tests.executor.tasks import Gate, Log

from . import tasks

Make = Callable[..., snakepit.Executor]
GateMaker = Callable[[str], Gate]


def test_async_for_reads_all(executor: snakepit.Executor) -> None:
    async def read() -> list[int]:
        return [chunk async for chunk in executor.stream(tasks.count, 3_000)]

    assert asyncio.run(read()) == list(range(3_000))


def test_async_for_waits_for_each_chunk(executor: snakepit.Executor, gate: GateMaker) -> None:
    gates = [gate(str(each)) for each in range(3)]

    async def read() -> list[int]:
        chunks = []
        stream = executor.stream(tasks.gated, gates)
        for each in gates:
            step = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.01)
            assert not step.done()
            each.open()
            chunks.append(await step)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return chunks

    assert asyncio.run(read()) == [0, 1, 2]


def test_loops_in_two_threads_read_a_stream_in_turn(executor: snakepit.Executor) -> None:
    # Without the GIL, both could wait for the same chunk, and be told of one.
    stream = executor.options(max_chunks=1).stream(tasks.count, 3_000)
    both = threading.Barrier(2)

    async def read() -> list[int]:
        chunks: list[int] = []
        both.wait()
        while True:
            try:
                chunks.append(await anext(stream))
            except StreamReadError:
                await asyncio.sleep(0)
            except StopAsyncIteration:
                return chunks

    with ThreadPoolExecutor(2) as threads:
        found = [each.result(60) for each in [threads.submit(asyncio.run, read()) for _ in "ab"]]
    assert sorted(found[0] + found[1]) == list(range(3_000))


def test_streams_share_a_loop_without_threads_of_their_own(make: Make) -> None:
    executor = make(3)
    executor.submit(calls.square, 2).result(60)

    async def read(number: int) -> int:
        return sum([chunk async for chunk in executor.stream(tasks.count, number)])

    async def read_all() -> tuple[list[int], int]:
        before = threading.active_count()
        sums = await asyncio.gather(*[read(1_000) for _ in range(6)])
        return sums, threading.active_count() - before

    # The pool may start its last threads meanwhile.
    sums, more = asyncio.run(read_all())
    assert sums == [sum(range(1_000))] * 6 and more <= 2


def test_loop_has_its_turn_while_chunks_are_plenty(executor: snakepit.Executor) -> None:
    async def read() -> int:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.ensure_future(count_turns())
        async for _ in executor.stream(tasks.count, 2_000):
            pass
        counting.cancel()
        return turns

    assert asyncio.run(read()) >= 10


def test_error_arrives_after_its_chunks(executor: snakepit.Executor) -> None:
    async def read() -> list[int]:
        chunks = []
        with pytest.raises(ValueError, match="enough"):
            async for chunk in executor.stream(tasks.fail_after, 10, ValueError("enough")):
                chunks.append(chunk)
        return chunks

    assert asyncio.run(read()) == list(range(10))


def test_deadline_ends_a_reader_that_waits(executor: snakepit.Executor, gate: GateMaker) -> None:
    never = gate("never")

    async def read() -> None:
        with pytest.raises(TaskTimeoutError):
            await anext(executor.options(timeout=0.3).stream(tasks.gated, [never]))

    asyncio.run(read())
    never.open()


def test_close_releases_a_reader_that_waits(executor: snakepit.Executor, gate: GateMaker) -> None:
    never = gate("never")

    async def read() -> None:
        stream = executor.stream(tasks.gated, [never])
        step = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        stream.close()
        with pytest.raises(StopAsyncIteration):
            await step

    asyncio.run(read())
    never.open()


def test_cancelled_reader_loses_nothing(executor: snakepit.Executor, gate: GateMaker) -> None:
    first = gate("first")

    async def read() -> list[int]:
        stream = executor.stream(tasks.gated, [first])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.02)
        first.open()
        return [chunk async for chunk in stream]

    assert asyncio.run(read()) == [0]


def test_second_task_is_told(executor: snakepit.Executor, gate: GateMaker) -> None:
    release = gate("release")

    async def read() -> None:
        stream = executor.stream(tasks.gated, [release])
        step = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="by another thread or task"):
            await anext(stream)
        release.open()
        assert await step == 0

    asyncio.run(read())


def test_leaving_ends_the_generator(make: Make, log: Log) -> None:
    executor = make(1)

    async def read() -> None:
        async with executor.stream(tasks.logging, log, 10**9) as stream:
            assert await anext(stream) == 0
        async with aclosing(executor.stream(tasks.count, 10**9)) as other:
            assert await anext(other) == 0

    asyncio.run(read())
    gc.collect()
    assert executor.submit(calls.square, 3).result(60) == 9
    executor.shutdown()
    assert log.lines() == ["closed", "finally"]
