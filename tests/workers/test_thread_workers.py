"""Workers of several threads: what they share, what they do not, and what force costs there."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import snakepit
from snakepit import errors
from snakepit.resources import usable_cpus
from tests.executor import tasks as common
from tests.executor.tasks import Gate, Log
from tests.support import is_running, results, wait_until

from . import tasks

Make = Callable[..., snakepit.Executor]
QUICK = {"flag": 0.01, "interrupt": 0.05, "terminate": 5.0}


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a function that makes executors of thread workers, ended after the test."""
    made: list[snakepit.Executor] = []

    def make_executor(workers: int = 1, threads: int = 2, **options: Any) -> snakepit.Executor:
        executor = snakepit.Executor(
            workers, profile="thread", threads_per_worker=threads, **options
        )
        made.append(executor)
        return executor

    yield make_executor
    for executor in made:
        executor.terminate_workers()
        executor.shutdown()


def state_of(thread: Path) -> str:
    """Return the letter that the kernel gives the state of a thread in /proc."""
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


def hold_all(executor: snakepit.Executor, gate: Any, count: int, release: Gate) -> list[Any]:
    """Start so many calls one after the other, each running before the next is submitted."""
    futures = []
    for number in range(count):
        started = gate(f"held-{number}")
        futures.append(executor.submit(tasks.whereabouts, started, release))
        started.wait()
    return futures


def hold_one_in_each(executor: snakepit.Executor, gate: Any) -> list[tuple[Any, Gate]]:
    """Start a call in each worker that runs until its gate is opened."""
    pool: Any = executor._pool
    workers = [worker.id for worker in executor.lifecycle_stats().workers]
    held: list[tuple[Any, Gate]] = []
    for number in itertools.count():
        started, release = gate(f"started-{number}"), gate(f"release-{number}")
        future = executor.submit(tasks.whereabouts, started, release)
        started.wait()
        if max(map(pool.roster.running, workers)) == 1:
            held.append((future, release))
            if len(held) == len(workers):
                break
        else:
            release.open()
            future.result(60)
    return held


# Sessions


def test_calls_of_a_session_share_its_worker(make: Make, gate: Any) -> None:
    """Though each of its threads is one lane: a free one beside that of the last call will do."""
    executor = make(2, 3)
    executor.wait_ready(60)
    view = executor.options(session="a")
    home = view.submit(os.getpid).result(60)
    release = gate("release")
    held: list[Any] = []
    engine: Any = executor._pool

    def others_wait() -> bool:
        counts = engine.scheduler.counts()
        return bool(counts["searching"] + counts["sleeping"] == 6 - len(held))

    for number in range(3):
        wait_until(others_wait, "threads to wait for calls")
        started = gate(f"started-{number}")
        held.append(view.submit(common.hold_pid, started, release))
        started.wait()
    # Its worker is full.
    assert view.submit(os.getpid).result(60) != home
    release.open()
    assert {future.result(60) for future in held} == {home}


# Construction


@pytest.mark.parametrize("profile", ["process", "local"])
def test_number_of_threads_needs_the_profile(profile: Any) -> None:
    with pytest.raises(ValueError, match="threads_per_worker is for profile='thread'"):
        snakepit.Executor(1, profile=profile, threads_per_worker=2)


@pytest.mark.parametrize("count", [0, -1])
def test_number_of_threads_must_be_positive(count: int) -> None:
    with pytest.raises(ValueError, match="threads_per_worker"):
        snakepit.Executor(1, profile="thread", threads_per_worker=count)


@pytest.mark.parametrize("count", ["two", 1.5, True])
def test_number_of_threads_must_be_a_number(count: Any) -> None:
    with pytest.raises(TypeError, match="threads_per_worker"):
        snakepit.Executor(1, profile="thread", threads_per_worker=count)


@pytest.mark.parametrize(("workers", "threads"), [(1, 1024), (200, 10), (1000, 2)])
def test_more_threads_than_there_can_be_are_refused(workers: int, threads: int) -> None:
    with pytest.raises(ValueError, match="at most 1024"):
        snakepit.Executor(workers, profile="thread", threads_per_worker=threads)


# Capacity


def test_each_worker_runs_as_many_calls_as_it_has_threads(make: Make, gate: Any) -> None:
    executor = make(2, 3)
    executor.wait_ready(60)
    gates = [gate(str(number)) for number in range(6)]
    found = results([executor.submit(tasks.wait_together, gates, at) for at in range(6)])
    assert sorted(found.count(pid) for pid in set(found)) == [3, 3]
    stats = executor.stats()
    assert (stats.workers, stats.ready, stats.lanes) == (2, 2, 6)
    assert sorted(executor.worker_pids()) == sorted(set(found))


def test_calls_go_to_the_worker_with_the_fewest(make: Make, gate: Any) -> None:
    executor = make(3, 2)
    executor.wait_ready(60)
    # Lanes that have just looked for work would still be awake, and take it themselves.
    wait_until(lambda: executor._pool.scheduler.counts()["sleeping"] == 6)  # type: ignore[union-attr]
    release = gate("release")
    futures = hold_all(executor, gate, 3, release)
    wait_until(lambda: executor.stats().busy == 3)
    busy = [worker.busy for worker in executor.lifecycle_stats().workers]
    release.open()
    results(futures)
    assert busy == [1, 1, 1]


def test_threads_share_the_modules_and_the_initializer_ran_once(make: Make, gate: Any) -> None:
    executor = make(2, 2, initializer=tasks.note_start)
    release = gate("release")
    executor.wait_ready(60)
    held = hold_all(executor, gate, 3, release)
    found = [executor.submit(tasks.starts).result(60)]
    release.open()
    results(held)
    found += results([executor.submit(tasks.starts) for _ in range(20)])
    assert all(count == 1 and apart for _, count, apart in found)


def test_each_thread_knows_its_lane(make: Make) -> None:
    executor = make(1, 2)
    found = results([executor.submit(tasks.claims_of_my_lane) for _ in range(20)])
    assert {index for index, _ in found} <= {0, 1}
    assert all(runs for _, runs in found)


def test_failing_initializer_breaks_the_pool(make: Make) -> None:
    executor = make(1, 2, initializer=common.fail, initargs=(ValueError("no start"),))
    with pytest.raises(errors.PoolNotReadyError, match="no start"):
        executor.wait_ready(60)


def test_thread_locals_belong_to_one_lane(make: Make) -> None:
    executor = make(1, 2)
    seen: dict[tuple[int, int], int] = {}
    for future in [executor.submit(tasks.count_here) for _ in range(60)]:
        pid, thread, count = future.result(60)
        seen[pid, thread] = max(seen.get((pid, thread), 0), count)
    assert sum(seen.values()) == 60
    assert len(seen) <= 2


def test_blas_gets_the_cpus_shared_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    executor = make(1, 2)
    got = executor.submit(os.getenv, "OPENBLAS_NUM_THREADS").result(60)
    assert got == str(usable_cpus())


# Stopping


def test_interrupt_meets_its_task_alone(make: Make, gate: Any, log: Log) -> None:
    executor = make(1, 3, stop_grace={"flag": 0.01, "interrupt": 60.0})
    executor.wait_ready(60)
    release = gate("release")
    others = [executor.submit(tasks.watch_for_interrupts, gate(str(n)), release) for n in range(2)]
    for number in range(2):
        gate(str(number)).wait()
    pids = executor.worker_pids()
    for number in range(3):
        started = gate(f"stopped-{number}")
        future = executor.submit(tasks.spin_until_interrupted, started, log)
        started.wait()
        assert future.stop()
        with pytest.raises(errors.TaskStoppedError):
            future.result(60)
    release.open()
    assert results(others) == ["undisturbed"] * 2
    assert log.lines() == ["interrupted"] * 3
    assert executor.worker_pids() == pids


def test_flag_is_seen_by_its_task_alone(make: Make, gate: Any) -> None:
    executor = make(1, 2, stop_grace={"flag": 60.0})
    release = gate("release")
    first = executor.submit(tasks.cancelled_seen, gate("first"), release)
    second = executor.submit(tasks.cancelled_seen, gate("second"), release)
    gate("first").wait()
    gate("second").wait()
    assert first.stop()
    assert first.result(60) is True
    release.open()
    assert second.result(60) is False


def test_stopped_task_takes_its_own_children_along(make: Make, gate: Any, log: Log) -> None:
    executor = make(1, 2, stop_grace={"flag": 0.01, "interrupt": 60.0})
    release = gate("release")
    other_log = Log(log.path.with_name("other"))
    other = executor.submit(tasks.child_until, gate("other"), release, other_log)
    gate("other").wait()
    future = executor.submit(tasks.stop_with_child, gate("started"), log)
    gate("started").wait()
    assert future.stop()
    with pytest.raises(errors.TaskStoppedError):
        future.result(60)
    (child,) = log.lines()
    wait_until(lambda: not psutil.pid_exists(int(child)) or not is_running(int(child)))
    release.open()
    assert other.result(60) is True


def test_force_waits_for_the_other_tasks(make: Make, gate: Any) -> None:
    executor = make(1, 2, stop_grace={**QUICK, "terminate": 60.0})
    executor.wait_ready(60)
    (pid,) = executor.worker_pids()
    release = gate("release")
    other = executor.submit(tasks.whereabouts, gate("other"), release)
    stuck = executor.submit(tasks.sleep_through, gate("stuck"))
    gate("other").wait()
    gate("stuck").wait()
    assert stuck.stop()
    # Before the old worker has gone, another serves with all its threads.
    wait_until(lambda: executor.worker_pids() not in ([pid], []), "the successor")
    (successor,) = set(executor.worker_pids()) - {pid}
    gates = [gate("one"), gate("two")]
    found = results([executor.submit(tasks.wait_together, gates, at) for at in range(2)])
    assert found == [successor] * 2
    assert not other.done()
    release.open()
    assert other.result(60)[0] == pid
    with pytest.raises(errors.TaskStoppedError, match="a thread cannot be killed alone"):
        stuck.result(60)
    assert executor.stats().crashed == 0


def test_pool_that_gives_up_lets_calls_end_first(make: Make, gate: Any) -> None:
    broken, release = gate("broken"), gate("release")

    def prepare() -> None:
        if broken.is_open():
            raise RuntimeError("no licence left")

    grace = {**QUICK, "terminate": 60.0}
    executor = make(1, 2, initializer=prepare, stop_grace=grace)
    other = executor.submit(tasks.whereabouts, gate("other"), release)
    stuck = executor.submit(tasks.sleep_through, gate("stuck"))
    gate("other").wait()
    gate("stuck").wait()
    broken.open()
    assert stuck.stop()
    # The successor cannot start, and the old worker only has its calls to end.
    pool: Any = executor._pool
    wait_until(lambda: pool.broken is not None, "the pool to give up")
    assert "no licence left" in str(pool.broken)
    assert not other.done()
    release.open()
    assert other.result(60)
    with pytest.raises(errors.TaskStoppedError):
        stuck.result(60)


def test_force_ends_who_does_not_end_in_time(make: Make, gate: Any) -> None:
    executor = make(1, 2, stop_grace={**QUICK, "terminate": 0.2})
    release = gate("release")
    other = executor.submit(tasks.whereabouts, gate("other"), release)
    stuck = executor.submit(tasks.sleep_through, gate("stuck"))
    gate("other").wait()
    gate("stuck").wait()
    assert stuck.stop()
    with pytest.raises(errors.TaskStoppedError):
        stuck.result(60)
    with pytest.raises(errors.WorkerCrashedError, match="shared that process with one that had"):
        other.result(60)
    assert executor.submit(common.square, 3).result(60) == 9


def test_two_stuck_tasks_of_a_worker_end_together(make: Make, gate: Any) -> None:
    executor = make(1, 2, stop_grace=QUICK)
    futures = [executor.submit(tasks.sleep_through, gate(str(n))) for n in range(2)]
    for number, future in enumerate(futures):
        gate(str(number)).wait()
        assert future.stop()
    for future in futures:
        with pytest.raises(errors.TaskStoppedError):
            future.result(60)
    assert executor.submit(common.square, 3).result(60) == 9


def test_late_call_fails_at_its_deadline(make: Make, gate: Any, log: Log) -> None:
    executor = make(1, 2, stop_grace=QUICK)
    release = gate("release")
    other = executor.submit(tasks.whereabouts, gate("other"), release)
    gate("other").wait()
    hurried = executor.options(timeout=0.3)
    with pytest.raises(errors.TaskTimeoutError):
        hurried.submit(tasks.spin_until_interrupted, gate("late"), log).result(60)
    wait_until(lambda: log.lines() == ["interrupted"])
    release.open()
    other.result(60)


# Crashes


def test_crash_fails_what_ran_in_the_process_and_nothing_else(make: Make, gate: Any) -> None:
    executor = make(2, 2)
    executor.wait_ready(60)
    release, death = gate("release"), gate("death")
    held = hold_all(executor, gate, 3, release)
    doomed = executor.submit(tasks.die, gate("doomed"), death)
    gate("doomed").wait()
    queued = [executor.submit(common.square, number) for number in range(50)]
    pids = {worker.pid for worker in executor.lifecycle_stats().workers}
    death.open()
    with pytest.raises(errors.WorkerCrashedError, match="SIGKILL"):
        doomed.result(60)
    wait_until(lambda: sum(future.done() for future in held) >= 1)
    victims = [future for future in held if future.done()]
    assert len(victims) == 1
    assert isinstance(victims[0].exception(), errors.WorkerCrashedError)
    assert results(queued) == [number * number for number in range(50)]
    release.open()
    survivors = results(future for future in held if future not in victims)
    assert len({pid for pid, _ in survivors}) == 1
    assert {pid for pid, _ in survivors} < pids


# Nested tasks


def test_every_thread_may_wait_for_tasks_of_its_own(make: Make) -> None:
    executor = make(1, 3)
    assert results([executor.submit(tasks.wait_for_nested, 4) for _ in range(6)]) == [16] * 6


def test_task_that_waits_for_a_nested_one_is_interrupted(make: Make, gate: Any) -> None:
    executor = make(1, 2, stop_grace={"flag": 0.01, "interrupt": 60.0})
    executor.wait_ready(60)
    pids = executor.worker_pids()
    release = gate("release")
    future = executor.submit(tasks.wait_for_a_task_that_waits, gate("inner"), release)
    gate("inner").wait()
    assert future.stop()
    with pytest.raises(errors.TaskStoppedError):
        future.result(60)
    release.open()
    assert results([executor.submit(tasks.wait_for_nested, 3) for _ in range(2)]) == [8] * 2
    assert executor.worker_pids() == pids


# Replacing workers


def test_worker_is_replaced_as_a_whole_without_a_gap(make: Make, gate: Any) -> None:
    executor = make(1, 2)
    executor.wait_ready(60)
    (old,) = executor.worker_pids()
    release = gate("release")
    held = executor.submit(tasks.whereabouts, gate("held"), release)
    gate("held").wait()
    executor.recycle_worker(wait=False)
    # The idle thread has handed over; the other one waits for its task.
    wait_until(lambda: old in executor.worker_pids() and len(executor.worker_pids()) == 2)
    pid, _ = executor.submit(tasks.whereabouts).result(60)
    assert pid != old
    assert executor._pool.roster.census()[0] == 2  # type: ignore[union-attr]
    release.open()
    assert held.result(60)[0] == old
    wait_until(lambda: executor.worker_pids() == [pid], "the end of the old worker")
    gates = [gate("one"), gate("two")]
    assert results([executor.submit(tasks.wait_together, gates, n) for n in range(2)]) == [pid] * 2
    wait_until(lambda: executor.lifecycle_stats().recycled["manual"] == 1)


@pytest.mark.parametrize(("most_in_part", "serving"), [(None, [1, 4]), (99, [1, 1])])
def test_workers_with_long_calls_do_not_keep_others_from_being_replaced(
    make: Make, gate: Any, most_in_part: int | None, serving: list[int]
) -> None:
    """However many are left in part; that should be few, or there is no place for a spare."""
    executor = make(2, 4)
    executor.wait_ready(60)
    pool: Any = executor._pool
    if most_in_part is not None:
        pool.supervisor.recycler._most_in_part = most_in_part
    held = hold_one_in_each(executor, gate)
    before = {worker.id: worker.pid for worker in executor.lifecycle_stats().workers}
    executor.recycle_worker(wait=False)
    wait_until(lambda: sorted(map(pool.roster.serving, before)) == serving, "the first exchanges")
    second = set(executor.worker_pids()) - set(before.values())
    executor.recycle_worker(wait=False)
    wait_until(lambda: not second & set(executor.worker_pids()), "their own replacement")
    assert set(before.values()) <= set(executor.worker_pids())
    for _, release in held:
        release.open()
    assert {pid for pid, _ in results([future for future, _ in held])} == set(before.values())
    wait_until(lambda: not set(before.values()) & set(executor.worker_pids()), "the others'")
    executor.recycle_worker(timeout=60)
    assert executor.lifecycle_stats().crashes == 0


def test_worker_that_serves_in_part_is_replaced(make: Make, gate: Any) -> None:
    """Its own lanes that are held do not take over from one another."""
    executor = make(1, 2)
    executor.wait_ready(60)
    roster: Any = executor._pool.roster  # type: ignore[union-attr]
    release, let_go = gate("release"), gate("let-go")
    (long,) = hold_all(executor, gate, 1, release)
    (first,) = executor.lifecycle_stats().workers
    executor.recycle_worker(wait=False)

    def in_part() -> list[int]:
        ids = [w.id for w in executor.lifecycle_stats().workers if w.pid != first.pid]
        return [id for id in ids if (roster.serving(id), roster.held(id)) == (1, 1)]

    (second,) = wait_until(in_part, "the first exchange")
    started = gate("started")
    short = executor.submit(tasks.whereabouts, started, let_go)
    started.wait()
    executor.recycle_worker(second, wait=False)
    wait_until(
        lambda: [w for w in executor.lifecycle_stats().workers if w.state == "spare"], "the spare"
    )
    let_go.open()
    pid, _ = short.result(60)
    assert pid != first.pid
    wait_until(lambda: pid not in executor.worker_pids(), "the exchange with the spare")
    assert not long.done()
    release.open()
    assert long.result(60)[0] == first.pid
    wait_until(lambda: len(executor.lifecycle_stats().workers) == 1, "the end of the first")
    assert roster.census() == (2, 0)


def test_calls_of_all_threads_count_towards_the_limit(make: Make) -> None:
    executor = make(1, 2, worker_max_requests=10)

    def replaced() -> bool:
        results([executor.submit(common.square, number) for number in range(6)])
        return executor.lifecycle_stats().recycled["requests"] >= 2

    wait_until(replaced, "the replacements")
    assert executor.lifecycle_stats().crashes == 0


def test_no_worker_runs_more_calls_than_it_may(make: Make) -> None:
    executor = make(1, 2, max_tasks_per_child=5)
    pids = [
        future.result(60)[0] for future in [executor.submit(tasks.whereabouts) for _ in range(30)]
    ]
    assert max(pids.count(pid) for pid in pids) <= 5
    assert executor.lifecycle_stats().crashes == 0


# Looking inside


def test_dump_shows_every_thread(make: Make, gate: Any) -> None:
    executor = make(1, 2, name="crew")
    release = gate("release")
    futures = hold_all(executor, gate, 2, release)
    report = executor.dump()
    release.open()
    results(futures)
    assert report.profile == "thread"
    assert len(report.workers) == 2
    assert {worker.worker for worker in report.workers} == {0}
    for number, worker in enumerate(report.workers, 1):
        assert worker.thread is not None and worker.thread.endswith(f"thread {number} of 2")
        assert [frame.function for frame in worker.stack][-1] == "whereabouts"
    assert "1 workers of 2 threads, 2 running" in str(report)


# The end


@pytest.mark.parametrize("end", ["terminate_workers", "kill_workers"])
def test_workers_are_ended_with_all_that_they_run(make: Make, gate: Any, end: str) -> None:
    executor = make(1, 2)
    futures = [executor.submit(tasks.sleep_through, gate(str(n))) for n in range(2)]
    for number in range(2):
        gate(str(number)).wait()
    wait_until(executor.worker_pids)
    (pid,) = executor.worker_pids()
    getattr(executor, end)()
    for future in futures:
        with pytest.raises(errors.WorkerCrashedError):
            future.result(60)
    wait_until(lambda: not psutil.pid_exists(pid))


def test_stopped_process_is_told_from_a_busy_one(make: Make, gate: Any) -> None:
    executor = make(1, 2, heartbeat_interval=0.1, heartbeat_timeout=0.5, max_missed=2)
    executor.wait_ready(60)
    (pid,) = executor.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    # A thread that still ran would take the call, and it would fail with its process.
    tasks_of_it = Path(f"/proc/{pid}/task")
    wait_until(lambda: all(state_of(thread) == "T" for thread in tasks_of_it.iterdir()))
    assert executor.submit(common.square, 3).result(60) == 9
    assert executor.lifecycle_stats().stuck == 1
