"""Workers that cannot be started do not harm those that work; the pool is whole again after."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle import supervisor
from snakepit.pool.mail import MailRoom
from snakepit.testing import kill_worker
from tests.conftest import Make
from tests.executor import tasks
from tests.support import send_signal, wait_until

pytestmark = pytest.mark.processes

RAISES, EXITS = "raises", "exits"


class Fault:
    """Makes so many starts fail, or all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fault"
        self.shares = folder / "shares"

    def arm(self, how: str, times: int | None = None) -> None:
        if times is not None:
            self.shares.mkdir()
            for number in range(times):
                (self.shares / str(number)).touch()
        self.path.write_text(how)

    def disarm(self) -> None:
        self.path.unlink(missing_ok=True)

    def strike(self) -> None:
        """Fail, in a worker that starts, if so many have not failed yet."""
        if not self.path.exists() or (self.shares.exists() and not self.take()):
            return
        if self.path.read_text() == EXITS:
            os._exit(3)
        raise OSError("the database is away")

    def take(self) -> bool:
        for share in self.shares.iterdir():
            with contextlib.suppress(FileNotFoundError):
                share.unlink()
                return True
        return False


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF", 0.1)


@pytest.fixture
def fault(tmp_path: Path) -> Fault:
    return Fault(tmp_path)


def occupy(executor: Any, gate: Any) -> tuple[Any, Any, int]:
    """Keep one worker of two busy; returns its future, what ends it, and the idle one's pid."""
    executor.wait_ready(60)
    started, release = gate("started"), gate("release")
    busy = executor.submit(tasks.hold, started, release, "done")
    started.wait()
    return busy, release, executor.submit(os.getpid).result(60)


def failures(executor: snakepit.Executor) -> int:
    return executor.lifecycle_stats().failed_starts


def expect_whole(executor: snakepit.Executor, size: int = 2) -> None:
    wait_until(lambda: len(executor.worker_pids()) == size, "the full size")
    assert executor.submit(tasks.square, 3).result(60) == 9


@pytest.mark.parametrize(("how", "times"), [(RAISES, 1), (RAISES, 4), (EXITS, 1), (EXITS, 4)])
def test_failed_replacement_leaves_the_neighbour_alone(
    make: Make, gate: Any, fault: Fault, caplog: pytest.LogCaptureFixture, how: str, times: int
) -> None:
    executor = make(2, initializer=fault.strike)
    busy, release, idle = occupy(executor, gate)
    fault.arm(how, times)
    assert send_signal(idle)
    wait_until(lambda: failures(executor) >= times, "the failed starts")
    assert not busy.done()
    expect_whole(executor)
    release.open()
    assert busy.result(60) == "done"
    assert "a worker cannot be started, tried again in" in caplog.text
    words = "OSError: the database is away" if how == RAISES else "exited with code 3"
    assert words in caplog.text


class Fragile(snakepit.Adapter):
    """Connects in `setup`, which fails while somebody has put a file there."""

    folder = ""

    def setup(self) -> None:
        Fault(Path(os.environ["FRAGILE"])).strike()

    @snakepit.tool()
    def hold(self, started: str, release: str) -> str:
        return str(tasks.hold(tasks.Gate(started), tasks.Gate(release), "done"))

    @snakepit.tool()
    def pid(self) -> int:
        return os.getpid()


def test_setup_that_raises_later_leaves_running_tools_alone(
    gate: Any, tmp_path: Path, fault: Fault
) -> None:
    with snakepit.Pool(Fragile, pool_size=4, adapter_env={"FRAGILE": str(tmp_path)}) as pool:
        pool.await_ready(60)
        release = gate("release")
        held = []
        for number in range(3):
            started = gate(f"started-{number}")
            paths = {"started": str(started.path), "release": str(release.path)}
            held.append(pool.submit("hold", paths))
            started.wait()
        idle = pool.execute("pid", {})
        fault.arm(RAISES, 3)
        assert send_signal(idle)
        wait_until(lambda: pool.lifecycle_stats().failed_starts >= 3, "the failed starts")
        wait_until(lambda: len(pool.worker_pids()) == 4, "the full size")
        release.open()
        assert [future.result(60) for future in held] == ["done"] * 3
        assert pool.execute("pid", {}) != idle


def refuse() -> Any:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_fork_that_is_refused_leaves_the_neighbour_alone(
    gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with snakepit.Executor(2, start_method="fork") as executor:
        busy, release, idle = occupy(executor, gate)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fork", refuse)
            kill_worker(executor, idle)
            wait_until(lambda: failures(executor) >= 4, "the failed starts")
        assert not busy.done()
        expect_whole(executor)
        release.open()
        assert busy.result(60) == "done"


REFUSING = """
import os
fork = os.fork
def refuse():
    if os.path.exists({path!r}):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = refuse
"""


def test_fork_that_is_refused_to_the_template_leaves_it_and_the_neighbour_alone(
    gate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = gate("refused")
    (tmp_path / "refuses_to_fork.py").write_text(REFUSING.format(path=str(refused.path)))
    monkeypatch.syspath_prepend(tmp_path)
    with snakepit.Executor(2, start_method="template", preload=["refuses_to_fork"]) as executor:
        busy, release, idle = occupy(executor, gate)
        template: Any = executor._pool.template  # type: ignore[union-attr]
        launches = template.launches
        refused.open()
        assert send_signal(idle)
        wait_until(lambda: failures(executor) >= 4, "the failed starts")
        assert not busy.done()
        refused.path.unlink()
        expect_whole(executor)
        release.open()
        assert busy.result(60) == "done"
        assert template.launches == launches
    assert "the template process cannot fork a worker: [Errno 11]" in caplog.text


def test_template_that_cannot_be_started_again_leaves_the_neighbour_alone(
    gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with snakepit.Executor(2, start_method="template") as executor:
        busy, release, idle = occupy(executor, gate)
        template: Any = executor._pool.template  # type: ignore[union-attr]
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", lambda *_args, **_options: refuse())
            assert send_signal(template._process.pid)
            assert send_signal(idle)
            wait_until(lambda: failures(executor) >= 4, "the failed starts")
        assert not busy.done()
        expect_whole(executor)
        release.open()
        assert busy.result(60) == "done"


def test_waiting_for_all_workers_ends_when_starts_go_on_failing(
    make: Make, gate: Any, fault: Fault
) -> None:
    executor = make(2, initializer=fault.strike)
    busy, release, idle = occupy(executor, gate)
    fault.arm(RAISES)
    assert send_signal(idle)
    wait_until(lambda: failures(executor) > 0, "a failed start")
    with pytest.raises(errors.PoolNotReadyError, match=r"1 of 2 workers .*OSError: the database"):
        executor.wait_ready()
    assert not busy.done()
    fault.disarm()
    release.open()
    assert busy.result(60) == "done"
    executor.wait_ready(60)


def test_waiting_for_a_replacement_ends_when_starts_go_on_failing(make: Make, fault: Fault) -> None:
    executor = make(2, initializer=fault.strike)
    executor.wait_ready(60)
    before = executor.worker_pids()
    fault.arm(RAISES)
    with pytest.raises(
        errors.PoolNotReadyError,
        match=r"2 workers .* not replaced: 3 starts .* OSError: the database",
    ) as caught:
        executor.recycle_worker()
    assert caught.value.details == {"pool": "default", "left": 2}
    assert sorted(executor.worker_pids()) == sorted(before)
    assert executor.submit(tasks.square, 3).result(60) == 9
    fault.disarm()
    wait_until(lambda: not set(executor.worker_pids()) & set(before), "the replacements")
    executor.recycle_worker(timeout=60)


def test_waiting_for_a_replacement_bears_with_some_failed_starts(make: Make, fault: Fault) -> None:
    executor = make(2, initializer=fault.strike)
    executor.wait_ready(60)
    before = executor.worker_pids()
    fault.arm(RAISES, 2)
    executor.recycle_worker(timeout=60)
    assert not set(executor.worker_pids()) & set(before)


def test_shutdown_does_not_wait_for_a_start_that_was_put_off(
    make: Make, gate: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF", 3600.0)
    executor = make(2, initializer=fault.strike)
    busy, release, idle = occupy(executor, gate)
    fault.arm(EXITS)
    assert send_signal(idle)
    wait_until(lambda: failures(executor) >= 3, "the failed starts")
    put_off(executor)
    release.open()
    executor.shutdown()
    assert busy.result(60) == "done"


def put_off(executor: snakepit.Executor, times: int = 20) -> None:
    """Let so many starts have failed that the next is not tried for long."""
    supervising = executor._pool.supervisor  # type: ignore[union-attr]
    told = threading.Event()

    def fail() -> None:
        for _ in range(times):
            supervising.start_failed(RuntimeError("no licence left"))
        told.set()

    supervising.tell(fail)
    assert told.wait(60)


def test_death_of_the_last_ready_worker_ends_the_wait_for_the_next_try(
    make: Make, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF", 3600.0)
    executor = make(2)
    busy, _, idle = occupy(executor, gate)
    put_off(executor)
    assert send_signal(idle)
    wait_until(lambda: len(executor.worker_pids()) == 1, "the burial")
    assert send_signal(executor.worker_pids()[0])
    assert isinstance(busy.exception(60), errors.WorkerCrashedError)
    expect_whole(executor)


def test_spare_takes_the_place_of_who_is_missing_while_starts_are_put_off(
    make: Make, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_BACKOFF", 3600.0)
    executor = make(2)
    busy, release, idle = occupy(executor, gate)
    (due,) = (w for w in executor.lifecycle_stats().workers if w.pid != idle)
    executor.recycle_worker(due.id, wait=False)
    states = ["spare", "busy", "idle"]

    def is_held() -> bool:
        return sorted(states) == sorted(w.state for w in executor.lifecycle_stats().workers)

    wait_until(is_held, "the spare")
    put_off(executor)
    assert send_signal(idle)
    expect_whole(executor)
    assert not busy.done() and idle not in executor.worker_pids()
    release.open()
    assert busy.result(60) == "done"


def test_pool_that_was_ready_and_lost_all_its_workers_gives_up(make: Make, fault: Fault) -> None:
    executor = make(2, initializer=fault.strike)
    executor.wait_ready(60)
    fault.arm(EXITS)
    for pid in executor.worker_pids():
        assert send_signal(pid, signal.SIGKILL)
    with pytest.raises(errors.PoolNotReadyError, match="cannot start workers"):
        while True:
            executor.submit(tasks.square, 3).exception(60)


def test_pool_whose_starts_fail_for_hours_goes_on(make: Make, gate: Any, fault: Fault) -> None:
    executor = make(2, initializer=fault.strike)
    busy, release, idle = occupy(executor, gate)
    put_off(executor, 1500)
    fault.arm(EXITS, 2)
    assert send_signal(idle)
    wait_until(lambda: failures(executor) >= 1502, "the failed starts")
    expect_whole(executor)
    release.open()
    assert busy.result(60) == "done"


def test_started_workers_leave_no_timers(make: Make) -> None:
    executor = make(1, max_tasks_per_child=1, start_timeout=3600.0)
    pids = {executor.submit(os.getpid).result(60) for _ in range(40)}
    assert len(pids) == 40
    supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
    # Those that see to spares which start slowly come soon.
    wait_until(lambda: len(supervising._timers) < 15, "few timers")


@pytest.mark.parametrize("start_method", ["template", "spawn"])
def test_worker_that_starts_after_others_is_ended_in_its_time(gate: Any, start_method: str) -> None:
    """The timer of those that were ready in time is its own, too."""
    hangs = gate("hangs")

    def prepare() -> None:
        if hangs.is_open():
            hangs.path.unlink()
            threading.Event().wait()

    options: Any = {"start_method": start_method, "start_timeout": 3.0}
    with snakepit.Executor(2, initializer=prepare, **options) as executor:
        executor.wait_ready(60)
        hangs.open()
        kill_worker(executor, executor.worker_pids()[0])
        wait_until(lambda: failures(executor) >= 1, "the failed start")
        assert "start_timeout=3 s" in executor._pool.start_failures()[1]
        expect_whole(executor)


@pytest.mark.parametrize("start_method", ["template", "fork", "forkserver", "spawn"])
@pytest.mark.parametrize("late", [False, True])
def test_failed_start_is_counted_once(
    gate: Any, monkeypatch: pytest.MonkeyPatch, fault: Fault, start_method: str, late: bool
) -> None:
    """Whether the supervisor hears first why it failed, or sees the worker dead."""
    door, heard = gate("door"), threading.Event()

    def prepare() -> None:
        if fault.path.exists():
            door.wait()
            fault.strike()

    options: Any = {"start_method": start_method}
    with snakepit.Executor(2, initializer=prepare, **options) as executor:
        executor.wait_ready(60)
        supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
        hear = MailRoom._hear_failure

        def hear_and_tell(room: MailRoom, *message: Any) -> None:
            if late:
                wait_until(lambda: failures(executor) == 1, "the burial")
            hear(room, *message)
            heard.set()

        monkeypatch.setattr(MailRoom, "_hear_failure", hear_and_tell)

        def hold_until_both_are_there(starting: Any) -> None:
            door.open()
            wait_until(starting.is_dead, "the end of the worker")
            if not late:
                heard.wait(60)

        fault.arm(RAISES, 1)
        first, second = executor.worker_pids()
        kill_worker(executor, first)
        wait_until(lambda: new_workers(supervising, {first, second}), "the replacement")
        (starting,) = new_workers(supervising, {first, second})
        # As a timer: then the supervisor looks for notes and dead workers at the same time.
        supervising.after(0.0, lambda: hold_until_both_are_there(starting))
        expect_whole(executor)
        assert heard.wait(60)
        told = threading.Event()
        supervising.tell(told.set)
        assert told.wait(60)
        assert executor._pool.start_failures() == (1, "OSError: the database is away")


def new_workers(supervising: Any, known: set[int]) -> list[Any]:
    return [worker for worker in supervising.workers.values() if worker.pid not in known]
