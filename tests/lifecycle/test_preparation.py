"""The start of a pool: imports of the template, refused threads, and times that are far away."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.spawn
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import snakepit
from snakepit.errors import PoolNotReadyError, TaskTimeoutError
from snakepit.lifecycle import preparation
from snakepit.lifecycle import template as templates
from snakepit.lifecycle.identity import process_state
from snakepit.lifecycle.registry import registry
from tests.conftest import Make
from tests.support import send_signal, wait_until

pytestmark = pytest.mark.processes

FOREVER = 10_000.0


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Any) -> tuple[str, Any]:
    """Give the name of a module whose import waits at a gate, and the gate."""
    door = gate("import")
    source = "import os, time\nwhile not os.path.exists(%r):\n    time.sleep(0.005)\n"
    (tmp_path / "slow_to_import.py").write_text(source % str(door.path))
    monkeypatch.syspath_prepend(tmp_path)
    return "slow_to_import", door


def test_deadlines_hold_while_the_template_imports(
    make: Make, slow_module: tuple[str, Any]
) -> None:
    name, door = slow_module
    executor = make(1, start_method="template", preload=[name], start_timeout=FOREVER)
    error = executor.options(timeout=0.1).submit(abs, -1).exception(60)
    assert isinstance(error, TaskTimeoutError)
    assert name in str(error) and "busy" not in str(error)
    door.open()
    assert executor.submit(abs, -2).result(60) == 2


def test_deadline_of_a_call_that_waits_for_a_worker_tells_so(make: Make) -> None:
    executor = make(1, initializer=wait_here, start_timeout=FOREVER)
    error = executor.options(timeout=0.1).submit(abs, -1).exception(60)
    assert isinstance(error, TaskTimeoutError) and "busy" not in str(error)
    executor.kill_workers()


def wait_here() -> None:
    threading.Event().wait()


def test_template_that_hangs_is_given_up(make: Make, slow_module: tuple[str, Any]) -> None:
    name, _ = slow_module
    executor = make(1, start_method="template", preload=[name], start_timeout=0.1)
    error = executor.submit(abs, -1).exception(60)
    assert isinstance(error, PoolNotReadyError)
    assert "start_timeout=0.1" in str(error) and name in str(error)
    with pytest.raises(PoolNotReadyError):
        executor.wait_ready(60)


class Preloading(snakepit.Adapter):
    """Imports what takes for ever."""

    @classmethod
    def preload(cls) -> None:
        wait_here()

    @snakepit.tool
    def ping(self) -> str:
        return "pong"


class SettingUp(Preloading):
    @classmethod
    def preload(cls) -> None:
        """Nothing here takes long."""

    def setup(self) -> None:
        wait_here()


def test_template_that_has_longer_than_start_timeout_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preparation, "LEAST_PATIENCE", 0.3)
    with (
        snakepit.Pool(Preloading, pool_size=1, start_timeout=0.2) as pool,
        pytest.raises(PoolNotReadyError) as broken,
    ):
        pool.await_ready(60)
    words = "not ready within 0.3 s, the least that it has (start_timeout=0.2 s)"
    assert words in str(broken.value)
    assert str(broken.value).endswith("raise start_timeout above 0.3 s")
    assert broken.value.details["start_timeout"] == 0.2


def test_setup_that_hangs_is_told_by_the_option_that_limits_it() -> None:
    with (
        snakepit.Pool(SettingUp, pool_size=1, start_timeout=0.2) as pool,
        pytest.raises(PoolNotReadyError) as broken,
    ):
        pool.await_ready(60)
    words = "not ready within start_timeout=0.2 s and was ended for it: the constructor or setup()"
    assert words in str(broken.value) and SettingUp.__qualname__ in str(broken.value)
    assert str(broken.value).endswith(
        "takes longer, or hangs; raise start_timeout if it needs longer"
    )
    assert broken.value.details["start_timeout"] == 0.2


ENDINGS: list[Callable[[snakepit.Executor], object]] = [
    lambda executor: executor.shutdown(cancel_futures=True),
    lambda executor: executor.kill_workers(),
    lambda executor: executor.terminate_workers(),
]


@pytest.mark.parametrize("end", ENDINGS)
def test_pool_ends_while_the_template_imports(
    make: Make, slow_module: tuple[str, Any], end: Callable[[snakepit.Executor], object]
) -> None:
    name, _ = slow_module
    executor = make(1, start_method="template", preload=[name], start_timeout=FOREVER)
    future = executor.submit(abs, -1)
    end(executor)
    executor.shutdown()
    assert future.cancelled()


@pytest.mark.parametrize("refused", ["collector", "supervisor"])
def test_thread_that_cannot_start(
    make: Make, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """The call fails, and the next one starts each thread once."""
    start = threading.Thread.start
    failures: list[str] = []

    def fail_once(thread: threading.Thread) -> None:
        if thread.name.endswith(refused) and not failures:
            failures.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail_once)
    executor = make(1)
    with pytest.raises(RuntimeError, match="new thread"):
        executor.submit(abs, -1)
    assert executor.submit(abs, -1).result(60) == 1
    names = [thread.name for thread in threading.enumerate()]
    for role in ("collector", "supervisor"):
        assert names.count(f"snakepit-default-{role}") == 1, names
    executor.shutdown()
    assert failures


def test_thread_that_cannot_start_leaves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    executor = make(1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="new thread"):
                executor.submit(abs, -1)
    executor.shutdown()


@pytest.mark.parametrize(
    "options",
    [
        {"worker_ttl": "60d", "heartbeat_interval": None},
        {"heartbeat_interval": "30d", "heartbeat_timeout": "40d"},
    ],
)
def test_supervision_goes_on_with_its_next_look_months_away(
    make: Make, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """poll() takes no more than 24.8 days."""
    executor = make(1, start_timeout=60 * 86_400, **options)
    executor.wait_ready(60)
    (pid,) = executor.worker_pids()
    assert send_signal(pid)
    wait_until(lambda: executor.worker_pids() not in ([], [pid]), "a successor")
    assert executor.submit(os.getpid).result(60) != pid
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_supervision_goes_on_while_a_worker_does_not_read_what_it_is_to_do(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The initializer's argument is larger than what a pipe holds, and the worker is stopped."""
    stopped = tmp_path / "stopped"
    (tmp_path / "stops_the_first.py").write_text(
        "import os, signal\n"
        "def stop():\n"
        f"    descriptor = os.open({str(stopped)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n"
        "    if os.fstat(descriptor).st_size == 0:\n"
        "        os.write(descriptor, b'%d\\n' % os.getpid())\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "os.register_at_fork(after_in_child=stop)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    executor = make(
        1, start_method="template", preload=["stops_the_first"], start_timeout=FOREVER,
        initializer=keep_length, initargs=(bytes(1 << 20),),
    )  # fmt: skip
    error = executor.options(timeout=0.1).submit(abs, -1).exception(60)
    assert isinstance(error, TaskTimeoutError)
    pid = int(wait_until(lambda: stopped.exists() and stopped.read_text()))
    error = executor.options(timeout=0.1).submit(abs, -1).exception(60)
    assert isinstance(error, TaskTimeoutError)
    supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
    wait_until(lambda: [each.pid for each in supervising.workers.values()] == [pid], "the worker")
    assert process_state(pid) == "T"
    assert send_signal(pid, signal.SIGCONT)
    assert executor.submit(lambda: (os.getpid(), kept_length())).result(60) == (pid, 1 << 20)


_length = 0


def keep_length(content: bytes) -> None:
    global _length
    _length = len(content)


def kept_length() -> int:
    return _length


@pytest.mark.parametrize("executable", ["nowhere", "."])
def test_template_that_cannot_be_executed_is_an_error_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    before = multiprocessing.spawn.get_executable()
    with snakepit.Executor(1, start_method="template") as executor:
        multiprocessing.set_executable(str(tmp_path / executable))
        try:
            with pytest.raises(PoolNotReadyError, match=r"cannot be started with .*set_executable"):
                executor.submit(pow, 2, 3)
        finally:
            multiprocessing.set_executable(os.fsdecode(before))
        assert registry.flush(10)  # nothing is entered that does not exist
        assert executor.submit(pow, 2, 3).result(60) == 8


def test_template_is_out_of_reach_of_the_terminal_before_it_boots(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[bool] = []
    popen = subprocess.Popen

    def look(*args: Any, **options: Any) -> Any:
        process = popen(*args, **options)
        groups.append(os.getpgid(process.pid) == process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", look)
    assert make(1, start_method="template").submit(pow, 2, 3).result(60) == 8
    assert groups == [True]


def stop_template(executor: snakepit.Executor) -> Any:
    """Stop the template of a pool that is ready, and return it."""
    executor.wait_ready(60)
    template: Any = executor._pool.template  # type: ignore[union-attr]
    assert send_signal(template._process.pid, signal.SIGSTOP)
    wait_until(lambda: not template.runs(), "the template to stop")
    return template


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no template given up."""
    for module in (templates, preparation):
        monkeypatch.setattr(module, "ANSWER_PATIENCE", FOREVER)


@pytest.mark.usefixtures("patient")
def test_deadlines_hold_while_the_template_cannot_tell_how_a_worker_died(make: Make) -> None:
    executor = make(2, start_method="template")
    template = stop_template(executor)
    victim, other = executor.worker_pids()
    launches = template.launches
    assert send_signal(victim)
    supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
    wait_until(lambda: supervising.burial.reaping, "the burial")
    error = executor.options(timeout=0.2).submit(wait_here).exception(60)
    assert isinstance(error, TaskTimeoutError)
    # The one whose call was late has died of it, and is buried after the other.
    assert (template.launches, template.runs()) == (launches, False)
    assert send_signal(template._process.pid, signal.SIGCONT)
    wait_until(lambda: len(set(executor.worker_pids()) - {victim, other}) == 1, "the successor")
    executor.wait_ready(60)
    assert template.launches == launches
    assert executor.stats().crashed == 1
    assert executor.submit(abs, -1).result(60) == 1


@pytest.mark.usefixtures("patient")
def test_one_thread_asks_the_template_how_workers_died(make: Make) -> None:
    executor = make(12, start_method="template")
    template = stop_template(executor)
    before = executor.worker_pids()
    for pid in before:
        assert send_signal(pid)
    supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
    wait_until(lambda: supervising.burial.reaping == 12, "the burials")
    assert [thread.name for thread in threading.enumerate()].count("snakepit-default-reaper") == 1
    assert send_signal(template._process.pid, signal.SIGCONT)
    wait_until(lambda: not supervising.burial.reaping, "the end of the burials")
    executor.wait_ready(60)
    assert not set(executor.worker_pids()) & set(before)
    assert executor.lifecycle_stats().crashes == 12


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_worker_is_replaced_where_no_thread_can_start(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    executor = make(1, start_method="template")
    executor.wait_ready(60)
    start = threading.Thread.start
    failures: list[str] = []

    def fail(thread: threading.Thread) -> None:
        if thread.name.endswith("reaper"):
            failures.append(thread.name)
            raise error("no new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    (pid,) = executor.worker_pids()
    assert send_signal(pid)
    wait_until(lambda: executor.worker_pids() not in ([], [pid]), "a successor")
    assert len(failures) == 1
    assert executor.submit(abs, -1).result(60) == 1


@pytest.mark.usefixtures("patient")
def test_deadlines_hold_while_the_template_cannot_fork(make: Make) -> None:
    executor = make(2, start_method="template")
    template = stop_template(executor)
    before, launches = executor.worker_pids(), template.launches
    executor.recycle_worker(wait=False)
    supervising: Any = executor._pool.supervisor  # type: ignore[union-attr]
    wait_until(lambda: supervising.preparation._stalled_since, "a start that is put off")
    error = executor.options(timeout=0.2).submit(wait_here).exception(60)
    assert isinstance(error, TaskTimeoutError)
    assert (template.launches, template.runs()) == (launches, False)
    assert send_signal(template._process.pid, signal.SIGCONT)
    wait_until(lambda: not set(executor.worker_pids()) & set(before), "the successors")
    assert template.launches == launches
    assert executor.submit(abs, -1).result(60) == 1


def test_template_that_a_debugger_holds_is_left_alone(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "ANSWER_PATIENCE", 0.1)
    executor = make(1, start_method="template")
    executor.wait_ready(60)
    template: Any = executor._pool.template  # type: ignore[union-attr]
    before, launches = executor.worker_pids(), template.launches
    looks: list[int] = []

    def state(pid: int) -> str:
        looks.append(pid)
        return "t"

    with monkeypatch.context() as patch:
        patch.setattr(templates, "process_state", state)
        executor.recycle_worker(wait=False)
        wait_until(lambda: len(looks) > 60, "looks for longer than it may be stopped")
    wait_until(lambda: executor.worker_pids() not in ([], before), "the successor")
    assert template.launches == launches


class Stalling:
    """A template that runs or does not, as the test has it."""

    def __init__(self) -> None:
        self.running = True
        self.given_up = 0

    def begin(self) -> int:
        return -1

    def runs(self) -> bool:
        return self.running

    def is_traced(self) -> bool:
        return False

    def give_up_stalled(self) -> PoolNotReadyError:
        self.given_up += 1
        return PoolNotReadyError("it has not run")


def test_moments_in_which_a_template_does_not_run_do_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, template, looks = [1000.0], Stalling(), list[float]()
    supervising: Any = SimpleNamespace(
        burial=SimpleNamespace(reaping=0),
        at=lambda when, _note: looks.append(when),
        start_failed=lambda *_error, **_options: None,
    )
    monkeypatch.setattr(preparation, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    waiting = preparation.Preparation(
        SimpleNamespace(template=template),  # type: ignore[arg-type]
        supervising,
        select.poll(),
    )
    template.running = False
    assert waiting.is_awaited(spare=True) and looks
    # The spare is not needed any more, and the next one hours later.
    waiting._look_again()
    clock[0] += 7200
    assert waiting.is_awaited(spare=True) and template.given_up == 0
    # While one is needed, a template that goes on like that is given up.
    while not template.given_up:
        clock[0] = looks[-1]
        waiting._look_again()
        assert waiting.is_awaited(spare=True)
    assert 3.0 <= clock[0] - 8200 <= 3.1
    template.running = True
    assert not waiting.is_awaited(spare=True)


def test_template_that_stays_stopped_when_it_should_fork_is_replaced(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "ANSWER_PATIENCE", 0.1)
    executor = make(1, start_method="template")
    template = stop_template(executor)
    before, launches = executor.worker_pids(), template.launches
    executor.recycle_worker(timeout=60)
    assert template.launches == launches + 1
    assert executor.submit(os.getpid).result(60) not in before


@pytest.fixture
def debugger() -> Iterator[Callable[[int], None]]:
    """Have a process held by another, which traces it: killed, it stays until the test ends."""
    seize = 0x4206  # PTRACE_SEIZE
    tracers: list[subprocess.Popen[bytes]] = []

    def hold(pid: int) -> None:
        code = (
            f"import ctypes, sys; print(ctypes.CDLL(None).ptrace({seize}, {pid}, None, None), "
            "flush=True); sys.stdin.read()"
        )
        tracer = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        tracers.append(tracer)
        assert tracer.stdout is not None
        if tracer.stdout.readline() != b"0\n":
            pytest.skip("no process may trace another here")

    yield hold
    for tracer in tracers:
        tracer.communicate()


def test_a_template_that_does_not_die_is_not_waited_for(
    make: Make, monkeypatch: pytest.MonkeyPatch, debugger: Callable[[int], None]
) -> None:
    monkeypatch.setattr(preparation, "ANSWER_PATIENCE", 0.1)
    executor = make(1, start_method="template")
    executor.wait_ready(60)
    template: Any = executor._pool.template  # type: ignore[union-attr]
    pid = template._process.pid
    debugger(pid)
    # One that the kernel holds up is like this, and not known to have a debugger.
    monkeypatch.setattr(template, "is_traced", lambda: False)
    stop_template(executor)
    before = executor.worker_pids()
    executor.recycle_worker(timeout=60)
    assert executor.submit(os.getpid).result(60) not in before
    assert process_state(pid) == "Z"  # nobody has collected it
