"""Queues of a bounded length and patience, and deadlines that cost nothing until they come."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.errors import PoolSaturatedError, QueueTimeoutError, TaskTimeoutError
from tests.executor.tasks import Gate, Log
from tests.pools.adapters import GatedPreload
from tests.support import LONG, wait_until

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


def occupy(pool: snakepit.Pool, gates: Gates, workers: int = 2) -> tuple[list[Any], Gate]:
    """Keep every worker busy until the gate is opened."""
    pool.await_ready(LONG)
    release = gates("release")
    held = []
    for number in range(workers):
        started = gates(f"started-{number}")
        held.append(pool.submit("hold", {"started": started, "release": release}))
        started.wait()
    return held, release


def test_a_full_queue_refuses_at_once(new_pool: NewPool, profile: str, gates: Gates) -> None:
    pool = new_pool(profile, max_queue_size=3)
    held, release = occupy(pool, gates)
    waiting = [pool.submit("echo", {"value": number}) for number in range(3)]
    with pytest.raises(PoolSaturatedError, match=r"'default'.*3 calls wait") as full:
        pool.submit("echo", {"value": 4})
    assert isinstance(full.value, queue.Full)
    assert full.value.details == {"pool": "default", "max_queue_size": 3}
    assert waiting[0].cancel()
    waiting[0] = pool.submit("echo", {"value": 5})
    # A part of a map is no call that could be refused.
    mapped = pool.map("echo", [{"value": 6}])
    release.open()
    assert [future.result(LONG) for future in waiting] == [5, 1, 2]
    assert list(mapped) == [6]
    assert [future.result(LONG) for future in held] == [None, None]


def test_idle_workers_do_not_count_as_a_queue(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, max_queue_size=1)
    pool.await_ready(LONG)
    for number in range(200):
        wait_until(lambda: pool.get_stats()["queued"] == 0)
        assert pool.execute("echo", {"value": number}) == number


def test_no_more_calls_wait_than_may_from_many_threads(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile, max_queue_size=50)
    _, release = occupy(pool, gates)
    accepted: list[Any] = []
    refused: list[BaseException] = []

    def submit() -> None:
        for number in range(30):
            try:
                accepted.append(pool.submit("echo", {"value": number}))
            except PoolSaturatedError as error:
                refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(accepted), len(refused)) == (50, 190)
    release.open()
    for future in accepted:
        future.result(LONG)


def test_a_call_that_waits_too_long_never_runs(
    new_pool: NewPool, profile: str, gates: Gates, log: Log
) -> None:
    # Long enough for the calls that are to run, however slow the machine is.
    pool = new_pool(profile, queue_timeout=1.5, adapter_args={"log": log})
    held, release = occupy(pool, gates)
    began = time.monotonic()
    futures = [pool.submit("record", {"line": f"call {number}"}) for number in range(5)]
    urgent = pool.submit("record", {"line": "urgent"}, priority="high")
    for future in [*futures, urgent]:
        with pytest.raises(QueueTimeoutError, match=r"queue_timeout=1\.5") as late:
            future.result(LONG)
        assert late.value.details["ran"] == 0.0
    assert time.monotonic() - began >= 1.5
    assert not held[0].done()  # it had started in time
    release.open()
    pool.stop()
    assert not any(line.startswith(("call", "urgent")) for line in log.lines())


def test_streams_that_nobody_reads_are_named_as_what_keeps_workers(
    new_pool: NewPool, profile: str
) -> None:
    # Long enough for the streams, which are to run, however slow the machine is.
    pool = new_pool(profile, queue_timeout=1.5)
    pool.await_ready(LONG)
    lanes = pool.stats().lanes
    left = [pool.stream("endless") for _ in range(lanes)]
    for stream in left:
        for _ in stream:
            break
    engine: Any = pool._engine
    wait_until(lambda: engine.unread_streams() == lanes)
    which = f"{lanes} calls that run are streams that nobody reads at the moment"
    with pytest.raises(QueueTimeoutError, match=which) as late:
        pool.execute("echo", {"value": 1})
    assert late.value.details["unread_streams"] == lanes
    with pytest.raises(TaskTimeoutError, match=r"busy \(.*" + which) as short:
        pool.execute("echo", {"value": 1}, timeout=0.1)
    assert short.value.details["unread_streams"] == lanes
    for stream in left:
        stream.close()
    assert engine.unread_streams() == 0
    assert pool.execute("echo", {"value": 2}, timeout=LONG) == 2


def test_no_streams_are_named_where_other_calls_keep_the_workers(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile)
    _, release = occupy(pool, gates)
    with pytest.raises(TaskTimeoutError) as late:
        pool.execute("echo", {"value": 1}, timeout=0.1)
    assert "streams" not in str(late.value) and "unread_streams" not in late.value.details
    release.open()


def test_a_shorter_deadline_that_comes_later_is_met_first(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile)
    _, release = occupy(pool, gates)
    long = pool.submit("echo", {"value": 1})
    short = pool.submit("echo", {"value": 2}, timeout=0.15)
    shorter = pool.submit("echo", {"value": 3}, timeout=0.05)
    with pytest.raises(TaskTimeoutError, match=r"0\.05 s") as late:
        shorter.result(LONG)
    assert not isinstance(late.value, QueueTimeoutError) and not short.done()
    with pytest.raises(TaskTimeoutError, match=r"0\.15 s"):
        short.result(LONG)
    release.open()
    assert long.result(LONG) == 1


def test_a_call_that_started_in_time_still_has_its_deadline(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile, queue_timeout=0.05, timeout=0.3)
    pool.await_ready(LONG)
    future = pool.submit("hold", {"started": gates("started"), "release": gates("release")})
    with pytest.raises(TaskTimeoutError, match=r"0\.3 s") as late:
        future.result(LONG)
    assert late.value.details["phase"] == "running"


def test_thousands_of_deadlines_that_pass_unneeded_leave_nothing(new_pool: NewPool) -> None:
    pool = new_pool(timeout=0.05, queue_timeout=math.inf)
    pool.await_ready(LONG)
    stop = time.monotonic() + 0.3
    while time.monotonic() < stop:
        assert pool.execute("echo", {"value": 1}, timeout=5) == 1
    # The next call's deadline is met, whatever was watched before.
    with pytest.raises(TaskTimeoutError):
        pool.execute("hold", {"started": Gate("/dev/null"), "release": Gate("/nowhere")})


def test_timers_of_deadlines_do_not_pile_up(new_pool: NewPool, profile: str, gates: Gates) -> None:
    pool = new_pool(profile, queue_timeout=math.inf, max_queue_size=math.inf)
    _, release = occupy(pool, gates)
    for _ in range(300):
        far = pool.submit("echo", {"value": 1}, timeout=3600)
        near = pool.submit("echo", {"value": 2}, timeout=0.001)
        assert isinstance(near.exception(LONG), TaskTimeoutError)
        assert far.cancel()
    engine: Any = pool._engine
    timers = engine.timekeeper._notes if profile == "local" else engine.supervisor._timers
    assert len(timers) < 30
    # The timer that stands came first, and the others' deadlines are met all the same.
    nearer = pool.submit("echo", {"value": 3}, timeout=0.2)
    nearest = pool.submit("echo", {"value": 4}, timeout=0.1)
    for future in (nearest, nearer):
        assert isinstance(future.exception(LONG), TaskTimeoutError)
    release.open()


def test_deadline_after_a_timer_of_a_call_that_is_done_is_met(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile, queue_timeout=math.inf)
    held, release = occupy(pool, gates)
    late = pool.submit("echo", {"value": 1}, timeout=0.4)
    done = pool.submit("echo", {"value": 2}, timeout=0.2)
    first = pool.submit("echo", {"value": 3}, timeout=0.05)
    # The next timer is that of the call which is done by then, and too early for the one after.
    assert done.cancel()
    assert isinstance(first.exception(LONG), TaskTimeoutError)
    assert isinstance(late.exception(LONG), TaskTimeoutError)
    assert not held[0].done()
    release.open()


def test_profiles_of_timeouts(new_pool: NewPool) -> None:
    pool = new_pool(timeout_profile="batch", queue_timeout="2m")
    limits = pool._limits
    assert (limits.timeout, limits.stream_timeout, limits.queue_timeout) == (3600.0, None, 120.0)
    assert new_pool()._limits == new_pool(timeout_profile="production")._limits
    endless = new_pool(timeout=math.inf, queue_timeout=math.inf, max_queue_size=math.inf)
    assert endless.execute("echo", {"value": 1}, timeout=math.inf) == 1


def test_a_retried_call_waits_no_longer_than_it_may(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(
        profile, queue_timeout=0.1, retry=snakepit.RetryPolicy(max_attempts=2, retry_on=OSError)
    )
    held, release = occupy(pool, gates)
    with pytest.raises(QueueTimeoutError):
        pool.execute("echo", {"value": 1})
    release.open()
    assert held[0].result(LONG) is None


def test_a_call_that_waits_for_the_first_worker_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("SNAKEPIT_TEST_GATE", str(gate))
    with snakepit.Pool(GatedPreload, pool_size=1, queue_timeout=0.2) as pool:
        with pytest.raises(QueueTimeoutError, match=r"still .*await_ready"):
            pool.execute("ping")
        with open(gate, "w"):
            pass
        pool.await_ready(LONG)
        assert pool.execute("ping") == "pong"


def test_wait_longer_than_the_time_that_it_is_part_of(new_pool: NewPool) -> None:
    for name in ("timeout", "stream_timeout"):
        with pytest.raises(ValueError, match=rf"queue_timeout \(10 s\) must be at most {name}"):
            new_pool(queue_timeout=10, **{name: 1})
    # A default gives way, and no limit is none to contradict.
    assert new_pool(timeout=1)._limits.timeout == 1
    assert new_pool(timeout=1, queue_timeout=math.inf)._limits.queue_timeout is None
    assert new_pool(timeout=10, queue_timeout=10)._limits.queue_timeout == 10
    assert new_pool(timeout_profile="batch", timeout=60)._limits.queue_timeout == 300
