"""What an executor says of itself."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import results, wait_until

from . import tasks


def test_fields(executor: snakepit.Executor) -> None:
    stats = executor.stats()
    assert isinstance(stats, snakepit.PoolStats)
    assert dataclasses.is_dataclass(stats)
    names = {field.name for field in dataclasses.fields(stats)}
    assert names >= {
        "workers", "ready", "busy", "queued", "submitted", "completed", "failed", "cancelled",
        "crashed", "restarted", "bytes_in", "bytes_out", "latency_p50", "latency_p99", "run_p50",
        "run_p99",
    }  # fmt: skip


def test_every_call_is_counted_once(executor: snakepit.Executor) -> None:
    results(executor.submit(tasks.square, n) for n in range(70))
    for _ in range(30):
        executor.submit(tasks.fail, ValueError()).exception(60)
    executor.shutdown()
    stats = executor.stats()
    assert (stats.submitted, stats.completed + stats.failed) == (100, 100)
    assert (stats.failed, stats.cancelled) == (30, 0)
    assert (stats.queued, stats.busy) == (0, 0)


def test_cancelled_calls_are_counted(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release)
    started.wait()
    queued = [executor.submit(tasks.square, n) for n in range(10)]
    for future in queued[:4]:
        assert future.cancel()
    release.open()
    running.result(60)
    executor.shutdown()
    stats = executor.stats()
    assert (stats.submitted, stats.completed, stats.cancelled) == (11, 7, 4)


def test_calls_that_a_broken_pool_had_queued_count_as_failed(make: Make, gate: Any) -> None:
    door = gate("door")

    def prepare() -> None:
        door.wait()
        raise RuntimeError("no licence left")

    executor = make(1, initializer=prepare)
    futures = [executor.submit(tasks.square, n) for n in range(7)]
    assert futures[0].cancel()
    door.open()
    for future in futures[1:]:
        assert isinstance(future.exception(60), errors.PoolNotReadyError)
    executor.shutdown()
    stats = executor.stats()
    assert (stats.submitted, stats.completed, stats.failed, stats.cancelled) == (7, 0, 6, 1)


@pytest.mark.processes
def test_a_call_that_is_cancelled_while_it_runs_is_counted(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    future = executor.options(cancel_running=True).submit(tasks.sleep_long, started)
    started.wait()
    assert future.cancel()
    executor.submit(tasks.square, 2).result(60)
    stats = executor.stats()
    assert (stats.submitted, stats.completed, stats.failed, stats.cancelled) == (2, 1, 0, 1)


def test_load_is_shown(kind: str, executor: snakepit.Executor, gate: Any) -> None:
    executor.wait_ready(60)
    stats = executor.stats()
    workers = 1 if kind == "thread" else 2
    assert (stats.workers, stats.ready, stats.busy, stats.queued) == (workers, workers, 0, 0)
    assert stats.lanes == 2
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    running = [executor.submit(tasks.hold, door, release) for door in doors]
    for door in doors:
        door.wait()
    queued = [executor.submit(tasks.square, n) for n in range(5)]
    wait_until(lambda: executor.stats().busy == 2, "two busy workers")
    assert executor.stats().queued == 5
    release.open()
    results(running + queued)
    wait_until(lambda: executor.stats().busy == 0, "idle workers")


@pytest.mark.processes
def test_crashes_and_restarts_are_counted(executor: snakepit.Executor) -> None:
    for _ in range(3):
        executor.submit(tasks.exit_process).exception(60)
    wait_until(lambda: executor.stats().ready == 2, "the replacements")
    stats = executor.stats()
    assert (stats.crashed, stats.restarted) == (3, 3)


@pytest.mark.processes
def test_bytes_are_counted(executor: snakepit.Executor) -> None:
    before = executor.stats()
    executor.submit(len, bytes(1_000_000)).result(60)
    after = executor.stats()
    assert after.bytes_out - before.bytes_out + after.bytes_in - before.bytes_in >= 1_000_000
    assert max(after.bytes_out - before.bytes_out, after.bytes_in - before.bytes_in) < 1_100_000
    executor.submit(bytes, 1_000_000).result(60)
    last = executor.stats()
    assert last.bytes_in - before.bytes_in >= 1_000_000
    assert last.bytes_out - before.bytes_out >= 1_000_000


def test_times_are_seconds(executor: snakepit.Executor) -> None:
    results(executor.submit(time.sleep, 0.02) for _ in range(20))
    stats = executor.stats()
    assert 0.01 <= stats.run_p50 <= stats.run_p99 < 60
    assert 0.01 <= stats.latency_p50 <= stats.latency_p99 < 60
    executor.submit(time.sleep, 1.5).result(60)
    assert executor.stats().run_p99 > 1.2


def test_stats_and_repr_at_every_time(make: Make) -> None:
    executor = make(2)
    for step in (lambda: None, lambda: executor.submit(tasks.square, 2).result(60),
                 executor.shutdown):  # fmt: skip
        step()
        assert executor.stats().submitted in (0, 1)
        assert "Executor" in repr(executor)
