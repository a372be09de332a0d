"""Pools that tasks make, and the shared memory of the pool that runs the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit.pool import memory
from tests.conftest import Make

pytestmark = pytest.mark.processes


def look_twice(array: Any, started: Any, release: Any) -> tuple[float, float]:
    before = float(array.sum())
    started.open()
    release.wait()
    return before, float(array.sum())


def use_inner_pool(workers: int) -> list[int]:
    with snakepit.Executor(workers) as inner:
        inner.wait_ready(60)
        return [inner.submit(abs, -number).result(60) for number in range(workers)]


def pass_on(array: Any) -> tuple[float, Any, float]:
    """Give an argument to a pool of the task's own; return what came of it."""
    with snakepit.Executor(1) as inner:
        column = array[:, 3]
        return (
            inner.submit(np.sum, array).result(60),
            inner.submit(np.multiply, array, 2).result(60),
            inner.submit(lambda part: float(part.sum()), column).result(60),
        )


def reclaim(client: int) -> int:
    return memory.arena().reclaim(client)


def test_pool_in_a_task_leaves_the_arguments_of_other_tasks_alone(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    held = executor.submit(look_twice, np.ones(500_000), started, release)
    started.wait()
    assert executor.submit(use_inner_pool, 3).result(60) == [0, 1, 2]
    # What was given back in error would be given out again here.
    kept = [executor.submit(np.full, 500_000, 7.0).result(60) for _ in range(4)]
    release.open()
    assert held.result(60) == (500_000, 500_000)
    assert all(array[0] == 7 for array in kept)


@pytest.mark.parametrize("share", [False, True])
def test_pool_in_a_task_gets_copies_of_the_tasks_arguments(
    executor: snakepit.Executor, share: bool
) -> None:
    array = np.arange(50_000.0).reshape(250, 200)
    total, doubled, column = executor.submit(
        pass_on, snakepit.share(array) if share else array
    ).result(60)
    assert total == array.sum()
    assert np.array_equal(doubled, 2 * array)
    assert column == array[:, 3].sum()


def test_only_the_owner_reclaims(executor: snakepit.Executor) -> None:
    error = executor.submit(reclaim, 1).exception(60)
    assert isinstance(error, RuntimeError) and "only the process that made" in str(error)
