"""Idle workers are asked after their health, busy ones are not, and who is unfit is replaced."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

import snakepit
from tests.executor.tasks import Gate, Log
from tests.pools.conftest import WITH_PROCESSES
from tests.pools.movers import Ledger, Patient
from tests.support import LONG, wait_until

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


@pytest.fixture(params=WITH_PROCESSES)
def new(request: pytest.FixtureRequest, new_pool: NewPool, log: Log) -> NewPool:
    """Return a function that makes a pool whose workers may fall ill."""

    def make(**options: Any) -> snakepit.Pool:
        options = {**WITH_PROCESSES[request.param], "health_interval": 0.02, **options}
        pool = new_pool(adapter=Patient, adapter_args={"log": log}, **options)
        pool.await_ready(LONG)
        return pool

    return make


def pids(pool: snakepit.Pool) -> set[int]:
    return {worker["pid"] for worker in pool.list_workers()}


def asked(log: Log) -> set[int]:
    return {int(line.split()[1]) for line in log.lines()}


@pytest.mark.parametrize(
    ("illness", "told"),
    [
        ("is unwell", "health() returned False"),
        ("raises", "ConnectionError: the database is away"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_an_unfit_worker_is_replaced(
    new: NewPool, caplog: pytest.LogCaptureFixture, illness: str, told: str
) -> None:
    pool = new()
    sick = pool.execute("fall_ill", {"illness": illness})
    wait_until(lambda: pool.get_stats()["recycled"]["unhealthy"] == 1, "the replacement")
    assert sick not in pids(pool)
    stats = pool.get_stats()
    assert (stats["health_check_failed"], stats["crashed"]) == (1, 0)
    assert told in caplog.text
    assert pool.execute("where") != sick


def test_idle_workers_are_asked_again_and_again_and_it_is_no_call(new: NewPool, log: Log) -> None:
    pool = new()
    wait_until(lambda: asked(log) == pids(pool), "a question to each worker")
    before = len(log.lines())
    wait_until(lambda: len(log.lines()) > before + 4, "more of them")
    stats = pool.get_stats()
    assert (stats["submitted"], stats["completed"], stats["health_check_failed"]) == (0, 0, 0)
    assert [worker["requests"] for worker in pool.list_workers()] == [0, 0]


def test_a_busy_worker_is_not_disturbed(new: NewPool, gates: Gates, log: Log) -> None:
    pool = new()
    started, release = gates("started"), gates("release")
    arguments = {"illness": "is unwell", "started": started, "release": release}
    busy = pool.submit("fall_ill_and_hold", arguments)
    started.wait()
    sick = next(worker["pid"] for worker in pool.list_workers() if worker["busy"])
    before = log.lines().count(f"asked {sick}")
    seen = len(log.lines())
    wait_until(lambda: len(log.lines()) > seen + 3, "questions to the other")
    assert log.lines().count(f"asked {sick}") == before
    assert sick in pids(pool)
    release.open()
    assert busy.result(LONG) == sick
    wait_until(lambda: sick not in pids(pool), "the replacement")


def test_calls_go_on_while_workers_are_asked(new: NewPool) -> None:
    pool = new(health_interval=0.001)
    futures = [pool.submit("where") for _ in range(500)]
    assert len([future.result(LONG) for future in futures]) == 500
    for _ in range(200):
        pool.execute("where")
    assert pool.get_stats()["health_check_failed"] == 0


def test_a_health_that_hangs_is_a_missing_sign_of_life(new: NewPool) -> None:
    pool = new(heartbeat_interval=0.05, heartbeat_timeout=0.3, max_missed=2)
    sick = pool.execute("fall_ill", {"illness": "hangs"})

    # Work has to stand idle beside it when somebody looks, and it must have come to rest before.
    while sick in pids(pool):
        for call in [pool.submit("where") for _ in range(100)]:
            call.result(LONG)
        threading.Event().wait(0.002)


def test_the_heartbeat_says_how_often_by_default(new_pool: NewPool, log: Log) -> None:
    pool = new_pool(adapter=Patient, adapter_args={"log": log}, heartbeat_interval=0.05)
    pool.await_ready(LONG)
    wait_until(lambda: asked(log) == pids(pool), "a question to each worker")
    for options in ({"heartbeat_interval": None}, {"health_interval": math.inf}):
        other = snakepit.Pool(Patient, adapter_args={"log": log}, **options)
        assert other._fitness is None


def test_an_adapter_without_health_is_never_asked(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Ledger)
    assert pool._fitness is None


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), ("5", ValueError), ([], TypeError)])
def test_bad_intervals_are_named(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="health_interval"):
        snakepit.Pool(Patient, health_interval=value)


@pytest.mark.parametrize(("strategy", "at_once"), [("pool", 3), ("hybrid", 3), ("profile", 1)])
def test_capacity_strategies(new_pool: NewPool, gates: Gates, strategy: str, at_once: int) -> None:
    options = {"profile": "thread", "pool_size": 1, "threads_per_worker": 3}
    pool = new_pool(
        adapter=Patient, capacity_strategy=strategy, adapter_args={"log": None}, **options
    )
    assert pool.get_stats()["lanes"] == at_once
    pool.await_ready(LONG)
    release = gates("release")
    arguments = {"illness": "is unwell", "release": release}
    futures = [
        pool.submit("fall_ill_and_hold", {**arguments, "started": gates(f"started-{n}")})
        for n in range(3)
    ]
    gates("started-0").wait()
    if at_once == 3:
        gates("started-1").wait()
        gates("started-2").wait()
    else:
        assert [worker["lanes"] for worker in pool.list_workers()] == [1]
        assert not gates("started-1").is_open()
    release.open()
    assert len({future.result(LONG) for future in futures}) == 1


def test_capacity_strategies_that_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="must be one of pool, profile, hybrid, not 'pools'"):
        snakepit.Pool(Ledger, capacity_strategy="pools")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="capacity_strategy='profile' is for workers"):
        snakepit.Pool(Ledger, profile="local", capacity_strategy="profile")
    assert snakepit.Pool(Ledger, profile="local", capacity_strategy="hybrid") is not None
