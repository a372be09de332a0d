"""Replacing workers by age, work, memory and on request, without a gap or a lost call."""

from __future__ import annotations

import mmap
import os
import threading
from multiprocessing import util
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle import leaving, supervisor
from snakepit.lifecycle.recycling import RecyclingPolicy, own_memory, resident_memory
from tests.conftest import Make
from tests.support import new_executor, results, send_signal, wait_until

from . import tasks

pytestmark = pytest.mark.processes

KEPT: list[bytes] = []


def keep(size: int) -> int:
    """Leak so many bytes of touched memory."""
    KEPT.append(b"x" * size)
    return os.getpid()


def leave_thread() -> int:
    """Start a thread that outlives every test, and that the interpreter would wait for."""
    threading.Thread(target=threading.Event().wait).start()
    return os.getpid()


def hang_at_exit() -> int:
    util.Finalize(None, threading.Event().wait, exitpriority=10)
    return os.getpid()


def recycled(executor: snakepit.Executor, reason: str) -> int:
    return executor.lifecycle_stats().recycled[reason]


def test_workers_are_replaced_by_age(make: Make) -> None:
    executor = make(2, worker_ttl="100ms")
    pids = set()

    def replaced() -> bool:
        pids.add(executor.submit(os.getpid).result(60))
        return recycled(executor, "age") >= 4

    wait_until(replaced, "the replacements")
    assert len(pids) > 1
    stats = executor.lifecycle_stats()
    assert (stats.crashes, stats.recycled["requests"], stats.recycled["tasks"]) == (0, 0, 0)


def test_nobody_looks_at_the_age_of_who_does_not_serve(make: Make, gate: Any) -> None:
    started, release, door = gate("started"), gate("release"), gate("start")
    door.open()
    executor = make(1, worker_ttl="1h", initializer=door.wait)
    supervisor = executor._pool.supervisor  # type: ignore[union-attr]
    recycler, workers = supervisor.recycler, supervisor.workers
    future = executor.submit(tasks.hold, started, release)
    started.wait()
    door.path.unlink()
    (first,) = list(workers.values())
    first.ends_at = 0.0
    supervisor.tell(lambda: None)
    wait_until(lambda: len(workers) == 2, "the spare")
    (spare,) = [worker for worker in list(workers.values()) if worker is not first]
    wait_until(lambda: spare.ends_at, "its own time")
    spare.ends_at = 0.0
    # At a time that has passed it would look again and again.
    assert recycler.next_look() is None
    door.open()
    wait_until(lambda: spare.ready, "the spare to be ready")
    assert recycler.next_look() is None
    release.open()
    future.result(60)
    # It serves now, and is too old.
    wait_until(lambda: recycled(executor, "age") == 2, "its replacement")


def test_workers_are_replaced_by_the_number_of_their_calls(make: Make) -> None:
    executor = make(2, worker_max_requests=5)
    wait_until(
        lambda: (
            executor.submit(tasks.square, 3).result(60) == 9 and recycled(executor, "requests") >= 4
        )
    )
    assert executor.lifecycle_stats().crashes == 0


def test_workers_are_replaced_by_their_memory(make: Make) -> None:
    executor = make(1, memory_threshold_mb=150)
    pid = executor.submit(keep, 200_000_000).result(60)
    wait_until(lambda: recycled(executor, "memory") == 1, "the replacement")
    assert executor.submit(os.getpid).result(60) != pid
    # The successor is small.
    assert max(worker.memory for worker in executor.lifecycle_stats().workers) < 150_000_000


def test_memory_that_is_shared_is_not_a_workers_own() -> None:
    def own() -> int:
        return own_memory(os.getpid(), resident_memory(os.getpid()))

    before = own()
    shared = mmap.mmap(-1, 64 << 20)
    for _ in range(64):
        shared.write(b"x" * (1 << 20))
    assert own() - before < 32 << 20
    shared.close()


def test_one_worker_is_replaced_on_request(make: Make) -> None:
    executor = make(2)
    executor.wait_ready(60)
    first, second = executor.lifecycle_stats().workers
    executor.recycle_worker(first.id, timeout=60)
    pids = executor.worker_pids()
    assert len(pids) == 2
    assert first.pid not in pids
    assert second.pid in pids
    assert recycled(executor, "manual") == 1


def test_all_workers_are_replaced_on_request(make: Make) -> None:
    executor = make(3)
    executor.wait_ready(60)
    before = executor.worker_pids()
    executor.recycle_worker(timeout=60)
    after = executor.worker_pids()
    assert len(after) == 3
    assert not set(before) & set(after)
    assert recycled(executor, "manual") == 3


def test_worker_that_was_starting_when_all_were_to_be_replaced(make: Make, gate: Any) -> None:
    """Its successor is ready before it is."""
    slow, release = gate("slow"), gate("release")
    executor = make(2, initializer=tasks.wait_if_first, initargs=(slow, release))
    executor.wait_ready(60)
    before = executor.worker_pids()
    slow.open()
    assert send_signal(before[0])
    wait_until(lambda: not slow.is_open(), "the start of a worker")
    executor.recycle_worker(wait=False)

    def exchanged() -> bool:
        states = [worker.state for worker in executor.lifecycle_stats().workers]
        return before[1] not in executor.worker_pids() and "spare" in states

    wait_until(exchanged, "the first exchange, and the next spare")
    release.open()
    wait_until(lambda: recycled(executor, "manual") == 2, "the second exchange")


@pytest.mark.parametrize("options", [{}, {"max_tasks_per_child": 1}])
def test_threads_of_tasks_do_not_keep_the_place_of_their_worker(
    make: Make, options: dict[str, Any]
) -> None:
    executor = make(1, **options)
    pids = set()
    for _ in range(5):
        pids.add(executor.submit(leave_thread).result(60))
        if not options:
            executor.recycle_worker(timeout=60)
    assert len(pids) == 5
    assert executor.lifecycle_stats().crashes == 0
    executor.terminate_workers()


def test_process_that_does_not_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "LEAVE_GRACE", 0.05)
    monkeypatch.setattr(leaving, "LOOK", 0.05)
    executor = make(1)
    pid = executor.submit(hang_at_exit).result(60)
    executor.recycle_worker(timeout=60)
    assert executor.submit(os.getpid).result(60) != pid
    stats = executor.lifecycle_stats()
    assert (stats.crashes, stats.recycled["manual"]) == (0, 1)


def test_unknown_worker_cannot_be_replaced(make: Make) -> None:
    executor = make(1)
    executor.wait_ready(60)
    with pytest.raises(ValueError, match="has no worker 77; its workers are: 0"):
        executor.recycle_worker(77)


def test_pool_that_has_not_started_has_nothing_to_replace(make: Make) -> None:
    executor = make(2)
    executor.recycle_worker(timeout=60)
    executor.shutdown()
    executor.recycle_worker(timeout=60)


def test_threads_cannot_be_replaced() -> None:
    with new_executor("local") as executor:
        with pytest.raises(ValueError, match="profile='local'"):
            executor.recycle_worker()
        assert executor.lifecycle_stats().workers == ()
    with pytest.raises(ValueError, match="worker_ttl is for workers that are processes"):
        new_executor("local", worker_ttl=5)


def test_running_call_is_not_disturbed(make: Make, gate: Any) -> None:
    """Who is due and busy goes on; its successor waits, and others are replaced meanwhile."""
    executor = make(2)
    executor.wait_ready(60)
    started, release = gate("started"), gate("release")
    busy = executor.submit(tasks.hold_pid, started, release)
    started.wait()
    before = set(executor.worker_pids())
    executor.recycle_worker(wait=False)
    wait_until(lambda: recycled(executor, "manual") == 1, "the idle worker's replacement")
    wait_until(
        lambda: [w for w in executor.lifecycle_stats().workers if w.state == "spare"],
        "the busy worker's successor",
    )
    with pytest.raises(TimeoutError, match="were not replaced within"):
        executor.recycle_worker(timeout=0.01)
    assert executor.submit(tasks.square, 7).result(60) == 49
    assert len(before & set(executor.worker_pids())) == 1
    release.open()
    assert busy.result(60) in before
    wait_until(lambda: not before & set(executor.worker_pids()), "the busy worker's end")


def test_no_more_calls_run_at_once_than_there_are_workers(make: Make, log: tasks.Log) -> None:
    executor = make(2, max_tasks_per_child=2)
    assert results(executor.submit(tasks.log_both, log, n) for n in range(60)) == list(range(60))
    level = most = 0
    for line in log.lines():
        level += 1 if line == "+" else -1
        most = max(most, level)
    assert most <= 2


def test_worker_that_dies_while_it_is_replaced_fails_its_call_only(make: Make, gate: Any) -> None:
    executor = make(2)
    started, release = gate("started"), gate("release")
    lost = executor.submit(tasks.hold_pid, started, release)
    started.wait()
    victim = next(w for w in executor.lifecycle_stats().workers if w.state == "busy")
    done = threading.Event()

    def replace() -> None:
        executor.recycle_worker(victim.id)
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    wait_until(
        lambda: [w for w in executor.lifecycle_stats().workers if w.state == "spare"], "the spare"
    )
    assert send_signal(victim.pid)
    with pytest.raises(errors.WorkerCrashedError):
        lost.result(60)
    thread.join(60)
    assert done.is_set()
    wait_until(lambda: len(executor.worker_pids()) == 2, "the full size")
    assert results(executor.submit(tasks.square, n) for n in range(20)) == [
        n * n for n in range(20)
    ]
    # The spare took the dead one's place: none is kept that nobody is waiting for.
    wait_until(lambda: len(executor.lifecycle_stats().workers) == 2, "the spare's place")


def test_killed_spare_is_replaced(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    busy = executor.submit(tasks.hold_pid, started, release)
    started.wait()
    executor.recycle_worker(wait=False)

    def spares() -> list[int]:
        return [w.pid for w in executor.lifecycle_stats().workers if w.state == "spare"]

    (first,) = wait_until(spares, "the spare")
    assert send_signal(first)
    wait_until(lambda: spares() and spares() != [first], "another spare")
    release.open()
    pid = busy.result(60)
    wait_until(lambda: executor.worker_pids() and pid not in executor.worker_pids())
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.parametrize("leaves_thread", [False, True])
def test_worker_goes_on_while_its_successor_cannot_start(
    make: Make, gate: Any, caplog: pytest.LogCaptureFixture, leaves_thread: bool
) -> None:
    broken = gate("broken")

    def prepare() -> None:
        if broken.is_open():
            if leaves_thread:
                leave_thread()
            raise RuntimeError("no licence left")

    executor = make(1, initializer=prepare)
    pid = executor.submit(os.getpid).result(60)
    broken.open()
    executor.recycle_worker(wait=False)
    # More than there are lanes for.
    wait_until(lambda: caplog.text.count("no licence left") >= 4, "several tries")
    assert executor.submit(os.getpid).result(60) == pid
    broken.path.unlink()
    wait_until(lambda: executor.worker_pids() not in ([], [pid]), "the replacement")
    assert executor.submit(os.getpid).result(60) != pid


def test_crashed_worker_is_replaced_while_spares_are_put_off(
    make: Make, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF", 3600.0)
    dying = gate("dying")

    def prepare() -> None:
        if dying.is_open():
            dying.path.unlink()
            os._exit(3)

    executor = make(1, initializer=prepare)
    pid = executor.submit(os.getpid).result(60)
    supervising = executor._pool.supervisor  # type: ignore[union-attr]
    told = threading.Event()

    def fail() -> None:
        for _ in range(20):
            supervising.start_failed(RuntimeError("no licence left"), spare=True)
        told.set()

    supervising.tell(fail)
    assert told.wait(60)
    dying.open()
    assert send_signal(pid)
    wait_until(lambda: pid not in executor.worker_pids(), "the burial")
    # The first replacement dies while it starts, and the second serves.
    assert executor.submit(os.getpid).result(60) != pid
    assert executor.lifecycle_stats().crashes == 2


@pytest.mark.parametrize("options", [{"worker_ttl": 0.02}, {"max_tasks_per_child": 1}])
def test_shutdown_while_workers_are_replaced(make: Make, options: dict[str, Any]) -> None:
    for _ in range(5):
        executor = make(2, **options)
        futures = [executor.submit(tasks.square, n) for n in range(30)]
        executor.recycle_worker(wait=False)
        executor.shutdown()
        assert results(futures) == [n * n for n in range(30)]


def test_waiting_for_a_replacement_ends_with_the_pool(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release)
    started.wait()
    thread = threading.Thread(target=executor.recycle_worker)
    thread.start()
    wait_until(lambda: len(executor.lifecycle_stats().workers) == 2, "the spare")
    executor.kill_workers()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(future.exception(60), errors.WorkerCrashedError)


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="no idle class of scheduling")
def test_successors_serve_in_the_ordinary_class(make: Make) -> None:
    executor = make(1)
    policy = executor.submit(os.sched_getscheduler, 0).result(60)
    executor.recycle_worker(timeout=60)

    def policies() -> set[int]:
        threads = os.listdir("/proc/self/task")
        return {os.sched_getscheduler(int(thread)) for thread in threads}

    assert executor.submit(policies).result(60) == {policy}


def test_hard_limit_is_announced_before_it_is_reached() -> None:
    def worn(**limits: int) -> int | None:
        return RecyclingPolicy(**limits).tasks_until_worn()

    assert worn() is None
    assert worn(max_tasks=1) == 0
    assert worn(max_tasks=5) == 4
    assert worn(max_tasks=100) == 90
    assert worn(max_requests=7) == 7
    assert worn(max_requests=7, max_tasks=100) == 7


def test_worker_is_due_a_little_before_its_age_limit() -> None:
    lives = [RecyclingPolicy(ttl=100.0).life_of_one() for _ in range(50)]
    assert all(life is not None and 90 <= life <= 100 for life in lives)
    assert len(set(lives)) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker_ttl": "1 fortnight"}, "unknown unit 'fortnight'; the units are ms, s, m"),
        ({"worker_ttl": "90"}, "has no unit; the units are ms, s"),
        ({"worker_ttl": -1}, "worker_ttl must be a number of seconds above 0"),
        ({"worker_ttl": "-5s"}, "worker_ttl must be a number of seconds above 0"),
        ({"worker_ttl": float("nan")}, "worker_ttl must be a number of seconds above 0"),
        ({"worker_ttl": "soon"}, "worker_ttl must be a number of seconds above 0"),
        ({"worker_max_requests": 0}, "worker_max_requests must be >= 1"),
        ({"memory_threshold_mb": "2Gb"}, "unknown unit 'Gb'; the units are B, kB"),
        ({"memory_threshold_mb": 0}, "memory_threshold_mb must be a number of megabytes above 0"),
        ({"heartbeat_interval": 0}, "heartbeat_interval must be a number of seconds above 0"),
        ({"heartbeat_interval": 5, "heartbeat_timeout": 1}, "must be at least heartbeat_interval"),
        ({"max_missed": 0}, "max_missed must be >= 1"),
        (
            {"heartbeat_interval": 1, "heartbeat_timeout": 2, "max_missed": 50},
            r"max_missed \(50\) looks every heartbeat_interval \(1 s\) take 50 s, longer than "
            r"heartbeat_timeout \(2 s\): lower",
        ),
        (
            {"heartbeat_interval": None, "heartbeat_timeout": 5},
            r"heartbeat_timeout \(5 s\) means nothing with heartbeat_interval=None.*leave",
        ),
        (
            {"heartbeat_interval": None, "max_missed": 5},
            r"max_missed \(5\) means nothing with heartbeat_interval=None.*leave",
        ),
        (
            {"worker_max_requests": 100, "max_tasks_per_child": 10},
            r"worker_max_requests \(100\) must be at most max_tasks_per_child \(10\).*leave",
        ),
        (
            {"worker_ttl": 0.001},
            r"worker_ttl \(0.001 s\) must be at least 0.01 s.*worker_max_requests",
        ),
        ({"start_timeout": "1 fortnight"}, "start_timeout='1 fortnight' has the unknown unit"),
        ({"start_timeout": "0s"}, "start_timeout must be a number of seconds above 0"),
    ],
)
def test_senseless_limits_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        snakepit.Executor(1, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"heartbeat_interval": 0.1, "heartbeat_timeout": 0.3, "max_missed": 3},  # to the tick
        {"heartbeat_interval": 1, "max_missed": 50},  # what is at its default gives way
        {"heartbeat_interval": 5, "heartbeat_timeout": 12},
        {"heartbeat_interval": 30},
        {"worker_max_requests": 10, "max_tasks_per_child": 10},
        {"worker_ttl": "10ms"},
        {"start_timeout": "90s"},
    ],
)
def test_limits_that_agree_are_taken(make: Make, options: dict[str, Any]) -> None:
    make(1, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"start_timeout": b"1"},
        {"worker_ttl": True},
        {"worker_max_requests": 1.5},
        {"memory_threshold_mb": b"1"},
    ],
)
def test_limits_of_a_wrong_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        snakepit.Executor(1, **options)
