"""Executors under asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import snakepit

from . import tasks


def test_run_in_executor(executor: snakepit.Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, tasks.square, n) for n in range(100)]
        return list(await asyncio.gather(*calls))

    assert asyncio.run(main()) == [n * n for n in range(100)]


def test_wrap_future(executor: snakepit.Executor) -> None:
    async def main() -> Any:
        return await asyncio.wrap_future(executor.submit(tasks.square, 7))

    assert asyncio.run(main()) == 49


def test_wrapping_a_settled_future(executor: snakepit.Executor) -> None:
    future = executor.submit(tasks.square, 7)
    future.result(60)

    async def main() -> Any:
        return await asyncio.wrap_future(future)

    assert asyncio.run(main()) == 49


def test_exception_reaches_the_awaiting_task(executor: snakepit.Executor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(executor, tasks.fail, ValueError("awaited"))

    with pytest.raises(ValueError, match="awaited"):
        asyncio.run(main())


def test_cancelling_the_awaiting_task_cancels_what_is_queued(
    executor: snakepit.Executor, gate: Any
) -> None:
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release) for door in doors]
    for door in doors:
        door.wait()

    async def main() -> bool:
        future = executor.submit(tasks.square, 3)
        waiting = asyncio.ensure_future(asyncio.wrap_future(future))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while not future.cancelled():  # the loop passes the cancel on in a later turn
            await asyncio.sleep(0)
        return True

    assert asyncio.run(main()) is True
    release.open()
    for future in running:
        future.result(60)


def test_wait_for_with_a_timeout(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(executor, tasks.hold, started, release, "late")
        while not started.is_open():
            await asyncio.sleep(0.002)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(call), 0.05)
        release.open()
        return await call

    assert asyncio.run(main()) == "late"


def test_the_loop_stays_responsive(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")

    async def main() -> int:
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(executor, tasks.hold, started, release)
        turns = 0
        while not started.is_open() or turns < 100:
            turns += 1
            await asyncio.sleep(0)
        release.open()
        await call
        return turns

    assert asyncio.run(main()) >= 100


def test_several_loops_one_after_another(executor: snakepit.Executor) -> None:
    async def main(number: int) -> int:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, tasks.square, number)

    assert [asyncio.run(main(n)) for n in range(5)] == [0, 1, 4, 9, 16]


def test_task_may_run_a_loop(executor: snakepit.Executor) -> None:
    def work() -> int:
        async def main() -> int:
            await asyncio.sleep(0.001)
            return 5

        return asyncio.run(main())

    assert [executor.submit(work).result(60) for _ in range(3)] == [5] * 3
