"""A worker that is stuck is told apart from one that is busy, and is replaced."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle import health
from snakepit.lifecycle.health import Health, HealthPolicy
from tests.conftest import Make
from tests.support import is_running, results, send_signal, wait_until

from . import tasks

pytestmark = pytest.mark.processes

SOON: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_timeout": 3.0, "max_missed": 3}


def looks(executor: snakepit.Executor) -> int:
    pool: Any = executor._pool
    return int(pool.supervisor.health._turn)


def test_stopped_worker_is_replaced_and_delays_no_call_for_long(make: Make) -> None:
    executor = make(2, **SOON)
    executor.wait_ready(60)
    victim = executor.worker_pids()[0]
    assert send_signal(victim, signal.SIGSTOP)

    # Work has to stand idle beside it when somebody looks.
    while victim in executor.worker_pids():
        for future in [executor.submit(tasks.square, 3) for _ in range(100)]:
            assert future.result(60) == 9
    wait_until(lambda: len(executor.worker_pids()) == 2, "the full size")
    stats = executor.lifecycle_stats()
    assert (stats.stuck, stats.crashes) == (1, 0)


def test_worker_stopped_in_the_middle_of_a_call_fails_it(make: Make, gate: Any) -> None:
    executor = make(1, **SOON)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release)
    started.wait()
    assert send_signal(executor.worker_pids()[0], signal.SIGSTOP)
    words = "found stuck: it is stopped and gave no sign of life for heartbeat_timeout=3 s"
    with pytest.raises(errors.WorkerCrashedError, match=f"SIGKILL from its own pool .{words}") as e:
        future.result(60)
    assert e.value.autopsy.ended_by_pool == words
    assert executor.submit(tasks.square, 3).result(60) == 9
    assert executor.lifecycle_stats().stuck == 1


def test_replacing_a_worker_that_is_stopped_comes_to_an_end(make: Make) -> None:
    executor = make(1, **SOON)
    executor.wait_ready(60)
    (pid,) = executor.worker_pids()
    assert send_signal(pid, signal.SIGSTOP)
    executor.recycle_worker(timeout=60)
    assert executor.submit(os.getpid).result(60) != pid
    assert executor.lifecycle_stats().stuck == 1


def test_idle_worker_that_is_too_old_and_stopped_is_replaced(make: Make) -> None:
    executor = make(1, worker_ttl=60, **SOON)
    executor.wait_ready(60)
    (pid,) = executor.worker_pids()
    assert send_signal(pid, signal.SIGSTOP)

    def age() -> None:
        (worker,) = executor._pool.supervisor.workers.values()  # type: ignore[union-attr]
        worker.ends_at = 0.0

    executor._pool.supervisor.tell(age)  # type: ignore[union-attr]
    wait_until(lambda: executor.worker_pids() not in ([], [pid]), "the replacement")
    wait_until(lambda: not is_running(pid), "its end")
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_spare_that_nobody_needs_and_that_is_stopped_is_ended(make: Make, gate: Any) -> None:
    executor = make(1, **SOON)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "done")
    started.wait()
    (served,) = executor.worker_pids()
    executor.recycle_worker(wait=False)

    def spares() -> list[int]:
        workers = executor.lifecycle_stats().workers
        return [worker.pid for worker in workers if worker.state == "spare"]

    (spare,) = wait_until(spares, "the spare")
    assert send_signal(spare, signal.SIGSTOP)
    supervising = executor._pool.supervisor  # type: ignore[union-attr]

    def think_better_of_it() -> None:
        for worker in supervising.workers.values():
            worker.due = None

    supervising.tell(think_better_of_it)
    wait_until(lambda: not is_running(spare), "its end")
    release.open()
    assert future.result(60) == "done"
    assert executor.submit(os.getpid).result(60) == served


def test_long_call_is_none_of_its_business(make: Make, gate: Any) -> None:
    executor = make(1, heartbeat_interval=0.02, heartbeat_timeout=0.02, max_missed=1)
    started, release = gate("started"), gate("release")
    future = executor.submit(tasks.hold, started, release, "done")
    queued = executor.submit(tasks.square, 4)
    started.wait()
    before = looks(executor)
    wait_until(lambda: looks(executor) > before + 20, "many looks")
    release.open()
    assert (future.result(60), queued.result(60)) == ("done", 16)
    assert executor.lifecycle_stats().stuck == 0


def test_idle_worker_is_left_alone(make: Make) -> None:
    executor = make(2, heartbeat_interval=0.02)
    executor.wait_ready(60)
    results(executor.submit(tasks.square, n) for n in range(4))
    pool: Any = executor._pool
    roster = pool.roster
    lanes = [worker.id for worker in executor.lifecycle_stats().workers]
    wait_until(lambda: pool.scheduler.counts()["sleeping"] == 2, "the workers to sleep")

    def settled() -> bool:
        # Asleep for good, not dozing.
        before = [roster.heartbeat(lane) for lane in lanes]
        time.sleep(0.01)
        return before == [roster.heartbeat(lane) for lane in lanes]

    wait_until(settled, "deep sleep")
    before, seen = looks(executor), [roster.heartbeat(lane) for lane in lanes]
    wait_until(lambda: looks(executor) > before + 10, "many looks")
    assert [roster.heartbeat(lane) for lane in lanes] == seen


def test_looks_can_be_switched_off(make: Make) -> None:
    executor = make(1, heartbeat_interval=None)
    assert executor.submit(tasks.square, 3).result(60) == 9
    assert looks(executor) == 0


# With a clock of our own


@dataclass
class FakeWorker:
    lane: int = 0
    lanes: range = range(1)
    draining: bool = False
    pid: int = 12345
    ready: bool = True
    expected: bool = False
    stuck: bool = False
    last_memory: int | None = None
    reason: str | None = None
    sent: list[int] = field(default_factory=list)

    def send(self, number: int, reason: str | None = None) -> None:
        self.sent.append(number)
        self.reason = reason


@dataclass
class FakePool:
    """A pool, its roster, scheduler and supervisor in one."""

    worker: FakeWorker = field(default_factory=FakeWorker)
    name: str = "fake"
    beat: int = 1
    answers: bool = False
    rung: int = 0
    running: int = 0
    has_work: bool = True
    long: list[int] = field(default_factory=list)
    told_to_go: bool = False
    lane_state: str = "ready"
    halfway: bool = False  # it holds a task and has not said so

    def __post_init__(self) -> None:
        self.roster = self.scheduler = self.supervisor = self
        self.workers = {self.worker.lane: self.worker}

    def worker_on(self, lane: int) -> FakeWorker | None:
        return self.workers.get(lane)

    def heartbeat(self, _lane: int) -> int:
        return self.beat

    def ring(self, _lane: int) -> None:
        self.rung += 1
        self.beat += self.answers

    def running_since(self, _lane: int) -> int:
        return self.running

    def retire(self, _lane: int) -> None:
        pass

    def lane_info(self, _lane: int) -> dict[str, str]:
        return {"state": self.lane_state}

    def lingering(self) -> list[int]:
        return [self.worker.lane] if self.told_to_go and self.lane_state == "ready" else []

    def stranded(self) -> list[int]:
        return [self.worker.lane] if self.halfway else []

    def overdue(self, _grace: int) -> tuple[list[int], list[int]]:
        return ([self.worker.lane] if self.has_work and not self.long else []), self.long


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what every process's state is said to be."""
    said = ["S"]
    monkeypatch.setattr(health, "process_state", lambda _pid: said[0])
    return said


def watch(pool: Any, *times: float) -> None:
    watcher = Health(pool, pool, HealthPolicy(1.0, 5.0, 3))
    watcher._last = 0.0
    for now in times:
        watcher.look(now)


@pytest.mark.parametrize(("answers", "sent"), [(False, [signal.SIGKILL]), (True, [])])
def test_silence_in_the_midst_of_a_claim_ends_a_worker(
    state: list[str], answers: bool, sent: list[int]
) -> None:
    pool = FakePool(has_work=False, halfway=True, answers=answers)
    watch(pool, 1, 2, 3, 4, 5, 6)
    assert pool.worker.sent == sent


def test_silence_of_the_whole_timeout_ends_a_worker(state: list[str]) -> None:
    pool = FakePool()
    watch(pool, 1, 2, 3, 4, 5)
    assert pool.worker.sent == []
    watch(pool, 1, 2, 3, 4, 5, 6)
    assert pool.worker.sent == [signal.SIGKILL]


def test_an_answer_clears_a_worker(state: list[str]) -> None:
    pool = FakePool(answers=True)
    watch(pool, *range(1, 30))
    assert pool.worker.sent == []
    assert pool.rung > 0


@pytest.mark.parametrize("expected", [False, True])
def test_silence_of_who_was_told_to_go_ends_it_too(state: list[str], expected: bool) -> None:
    pool = FakePool(FakeWorker(expected=expected), has_work=False, told_to_go=True)
    watch(pool, 1, 2, 3, 4, 5)
    assert pool.worker.sent == []
    watch(pool, 1, 2, 3, 4, 5, 6)
    assert pool.worker.sent == [signal.SIGKILL]


def test_who_has_left_may_take_its_time_to_end(state: list[str]) -> None:
    pool = FakePool(has_work=False, told_to_go=True)
    watcher = Health(pool, pool, HealthPolicy(1.0, 5.0, 3))  # type: ignore[arg-type]
    watcher._last = 0.0
    watcher.look(1)
    pool.lane_state = "retiring"
    for now in range(2, 30):
        watcher.look(now)
    assert pool.worker.sent == []


def test_time_in_which_the_owner_stood_still_too_does_not_count(state: list[str]) -> None:
    pool = FakePool()
    watch(pool, 1, 2, 3, 4, 500, 501, 502, 503, 504)
    assert pool.worker.sent == []


def test_work_that_another_took_does_not_clear_a_silent_worker(state: list[str]) -> None:
    pool = FakePool()
    watcher = Health(pool, pool, HealthPolicy(1.0, 5.0, 3))  # type: ignore[arg-type]
    watcher._last = 0.0
    watcher.look(1)
    pool.has_work = False
    for now in range(2, 7):
        watcher.look(now)
    assert pool.worker.sent == [signal.SIGKILL]


def test_worker_under_a_debugger_is_left_alone(state: list[str]) -> None:
    state[0] = "t"
    pool = FakePool()
    watch(pool, *range(1, 30))
    assert pool.worker.sent == []


def test_worker_that_claimed_at_the_last_moment_ends_after_its_call(state: list[str]) -> None:
    pool = FakePool(running=77)
    watch(pool, *range(1, 8))
    assert pool.worker.sent == []
    assert pool.worker.expected


def test_worker_that_was_continued_goes_on(state: list[str]) -> None:
    state[0] = "T"
    pool = FakePool(long=[0])
    watcher = Health(pool, pool, HealthPolicy(1.0, 5.0, 3))  # type: ignore[arg-type]
    watcher._last = 0.0
    for now in range(1, 5):
        watcher.look(now)
    state[0] = "R"
    for now in range(5, 30):
        watcher.look(now)
    assert pool.worker.sent == []
