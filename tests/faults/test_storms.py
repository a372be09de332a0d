"""Thousands of tasks while workers are killed at random instants."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.executor import tasks
from tests.support import results, send_signal, wait_until


class Killer(threading.Thread):
    """Kills a random worker after every random pause until it is told to stop.

    But never the last one: on a busy machine, workers start more slowly than these pauses pass.
    """

    def __init__(self, executor: snakepit.Executor, pause: float, seed: int) -> None:
        super().__init__(name="killer")
        self.executor = executor
        self.pause = pause
        self.random = random.Random(seed)
        self.enough = threading.Event()
        self.kills = 0

    def run(self) -> None:
        while not self.enough.wait(self.random.uniform(0, 2 * self.pause)):
            pids = self.executor.worker_pids()
            if len(pids) > 1 and send_signal(self.random.choice(pids)):
                self.kills += 1

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        self.join()


def check(
    outcomes: list[tuple[snakepit.Future[Any], Any]], kills: int, executor: snakepit.Executor
) -> int:
    """Check every future against what it must give, and return how many crashed."""
    crashed = 0
    for future, expected in outcomes:
        error = future.exception(120)
        if error is None:
            got = future.result(0)
            assert np.array_equal(got, expected), f"{got!r} is not {expected!r}"
        else:
            assert type(error) is errors.WorkerCrashedError, repr(error)
            crashed += 1
    assert crashed <= kills
    wait_until(lambda: executor.stats().busy == 0, "idle workers")
    stats = executor.stats()
    assert stats.queued == 0
    assert stats.submitted == stats.completed + stats.failed + stats.cancelled
    assert stats.failed == crashed
    return crashed


def expect_recovery(executor: snakepit.Executor, workers: int) -> None:
    wait_until(lambda: len(set(executor.worker_pids())) == workers, "the pool's full size")
    wait_until(lambda: executor.stats().ready == workers, "all workers to be ready")
    assert results(executor.submit(tasks.square, n) for n in range(200)) == [
        n * n for n in range(200)
    ]


def run_storm(make: Make, count: int, workers: int, pause: float, minimum: int, seed: int) -> None:
    executor = make(workers)
    executor.wait_ready(60)
    outcomes: list[tuple[snakepit.Future[Any], Any]] = []
    with Killer(executor, pause, seed) as killer:
        number = 0
        # At least `count` tasks, and as many more as it takes to meet enough deaths.
        while number < count or killer.kills < minimum:
            outcomes.append((executor.submit(tasks.square, number), number * number))
            number += 1
            if number % 500 == 0:
                outcomes[-250][0].exception(60)
        for future, _ in outcomes:
            future.exception(120)
    check(outcomes, killer.kills, executor)
    expect_recovery(executor, workers)


@pytest.mark.processes
def test_storm_of_small_tasks(make: Make) -> None:
    run_storm(make, count=5_000, workers=4, pause=0.03, minimum=30, seed=1)


@pytest.mark.slow
@pytest.mark.processes
def test_long_storm_of_small_tasks(make: Make) -> None:
    run_storm(make, count=100_000, workers=4, pause=0.03, minimum=500, seed=2)


@pytest.mark.processes
def test_storm_with_arrays(make: Make) -> None:
    """Deaths while segments are filled and read: none is lost, none is given out twice."""
    executor = make(3)
    executor.wait_ready(60)
    generator = random.Random(3)
    outcomes: list[tuple[snakepit.Future[Any], Any]] = []
    with Killer(executor, 0.04, 4) as killer:
        number = 0
        while number < 600 or killer.kills < 20:
            size = generator.choice([10, 1_300, 30_000, 200_000])
            array = np.full(size, number)
            outcomes.append((executor.submit(tasks.identity, array), array))
            number += 1
            if number % 20 == 0:
                future, expected = outcomes[-10]
                if future.exception(60) is None:
                    assert np.array_equal(future.result(0), expected)
            if number % 200 == 0:
                for future, expected in outcomes[:-20]:
                    error = future.exception(60)
                    assert error is not None or np.array_equal(future.result(0), expected)
                failed = [pair for pair in outcomes[:-20] if pair[0].exception(0) is not None]
                outcomes = failed + outcomes[-20:]
        for future, _ in outcomes:
            future.exception(120)
    crashed = 0
    for future, expected in outcomes:
        error = future.exception(0)
        if error is None:
            assert np.array_equal(future.result(0), expected)
        else:
            assert type(error) is errors.WorkerCrashedError, repr(error)
            crashed += 1
    assert crashed <= killer.kills
    expect_recovery(executor, 3)


@pytest.mark.processes
def test_storm_on_a_map(make: Make) -> None:
    """A map ends with its results in order or with the crash of a worker, never otherwise."""
    executor = make(3)
    executor.wait_ready(60)
    ended = {"whole": 0, "crashed": 0}
    with Killer(executor, 0.05, 5) as killer:
        while killer.kills < 20:
            try:
                assert list(executor.map(tasks.square, range(2_000))) == [
                    n * n for n in range(2_000)
                ]
                ended["whole"] += 1
            except errors.WorkerCrashedError:
                ended["crashed"] += 1
    assert ended["crashed"] <= killer.kills
    expect_recovery(executor, 3)


@pytest.mark.processes
def test_storm_with_several_submitting_threads(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(60)
    wrong: list[Any] = []
    crashes = [0] * 4

    def work(index: int, killer: Killer) -> None:
        number = 0
        while number < 300 or killer.kills < 15:
            number += 1
            futures = [executor.submit(tasks.add, index, number + k) for k in range(10)]
            for k, future in enumerate(futures):
                error = future.exception(60)
                if error is None and future.result(0) != index + number + k:
                    wrong.append((index, number, k))
                elif error is not None:
                    crashes[index] += 1
                    if type(error) is not errors.WorkerCrashedError:
                        wrong.append(error)

    with Killer(executor, 0.05, 6) as killer:
        threads = [threading.Thread(target=work, args=(n, killer)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert sum(crashes) <= killer.kills
    expect_recovery(executor, 3)


@pytest.mark.processes
def test_storm_on_nested_tasks(make: Make) -> None:
    """A death may fail a tree whose parts ran on the dead worker; no tree hangs."""
    executor = make(3)
    executor.wait_ready(60)
    with Killer(executor, 0.1, 7) as killer:
        while killer.kills < 10:
            futures = [executor.submit(tasks.nested_fibonacci, 5) for _ in range(4)]
            for future in futures:
                error = future.exception(60)
                assert error is not None or future.result(0) == 5
                assert error is None or isinstance(error, errors.WorkerCrashedError)
    expect_recovery(executor, 3)


@pytest.mark.processes
def test_storm_with_cancels_and_stops(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(60)
    generator = random.Random(8)
    with Killer(executor, 0.05, 9) as killer:
        rounds = 0
        while rounds < 60 or killer.kills < 10:
            rounds += 1
            futures = [executor.submit(tasks.square, n) for n in range(30)]
            for future in generator.sample(futures, 6):
                generator.choice([future.cancel, future.stop])()
            for number, future in enumerate(futures):
                if future.cancelled():
                    continue
                try:
                    error = future.exception(60)
                except errors.TaskStoppedError:
                    continue
                assert error is None or isinstance(
                    error, (errors.WorkerCrashedError, errors.TaskStoppedError)
                ), repr(error)
                assert error is not None or future.result(0) == number * number
    expect_recovery(executor, 3)


@pytest.mark.processes
def test_storm_with_recycling(make: Make) -> None:
    executor = make(3, max_tasks_per_child=20)
    executor.wait_ready(60)
    outcomes: list[tuple[snakepit.Future[Any], Any]] = []
    with Killer(executor, 0.05, 10) as killer:
        number = 0
        while number < 1_000 or killer.kills < 10:
            outcomes.append((executor.submit(tasks.square, number), number * number))
            number += 1
            if number % 100 == 0:
                outcomes[-50][0].exception(60)
        for future, _ in outcomes:
            future.exception(120)
    check(outcomes, killer.kills, executor)
    expect_recovery(executor, 3)
