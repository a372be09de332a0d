"""Whether the out-of-memory killer ended a worker: told by counters, not guessed."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snakepit.lifecycle import autopsy as autopsies
from tests.conftest import Make
from tests.executor import tasks
from tests.faults.test_crashes import expect_crash
from tests.support import run_script, wait_until


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Counted:
    """A watch of a counter that the test sets, and the time that it goes by."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self.victims(0)
        self.watch = autopsies.OomWatch()
        self.watch.start()

    def victims(self, number: int) -> None:
        self._path.write_text(f"oom_kill {number}\n")

    def later(self, seconds: float, *, look: bool = True) -> None:
        self._clock.now += seconds
        if look:
            self.watch.look()


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    counter = tmp_path / "memory.events"
    clock = Clock()
    monkeypatch.setattr(autopsies, "_group_files", lambda: [str(counter)])
    monkeypatch.setattr(autopsies, "time", clock)
    return Counted(counter, clock)


def test_an_earlier_victim_is_not_charged_to_a_worker(counted: Counted) -> None:
    counted.victims(1)  # a task's subprocess, an hour ago
    counted.later(3600)
    counted.later(1)
    assert counted.watch.verdict(True)[0] is False
    counted.victims(2)
    assert counted.watch.verdict(True)[0] is True
    assert counted.watch.verdict(True)[0] is False


def test_a_rise_that_nobody_looked_at_proves_nothing(counted: Counted) -> None:
    counted.victims(1)
    counted.later(3600, look=False)
    verdict, evidence = counted.watch.verdict(True)
    assert verdict is None and "since the pool last looked" in evidence
    counted.later(2, look=False)
    assert counted.watch.verdict(True)[0] is False


def test_no_rise_rules_the_killer_out_however_old_the_last_look_is(counted: Counted) -> None:
    counted.later(3600, look=False)
    assert counted.watch.verdict(True)[0] is False


def test_a_victim_that_takes_time_to_die_is_one(counted: Counted) -> None:
    counted.later(1)
    counted.victims(1)
    counted.later(0.3)  # a look between the kernel's count and the death
    counted.later(0.5, look=False)
    assert counted.watch.verdict(True)[0] is True
    # It is charged once, also when the looks have come that far.
    counted.later(1.5)
    counted.later(1.0)
    counted.victims(2)
    assert [counted.watch.verdict(True)[0] for _ in range(2)] == [True, False]


def test_looks_that_are_no_longer_needed_are_dropped(counted: Counted) -> None:
    for _ in range(100):
        counted.later(1)
    assert len(counted.watch._looks) <= 3


def test_a_counter_of_the_whole_machine_can_only_rule_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([7, 7, 7, 8])  # the first is only tried
    monkeypatch.setattr(autopsies, "_group_files", list)
    monkeypatch.setattr(autopsies, "_read_count", lambda path: next(counts))
    watch = autopsies.OomWatch()
    watch.start()
    assert watch.verdict(True)[0] is False
    assert watch.verdict(True)[0] is None


@pytest.mark.processes
def test_the_pool_looks_at_the_counter_again_and_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 0\n")
    monkeypatch.setattr(autopsies, "_group_files", lambda: [str(counter)])
    monkeypatch.setattr(autopsies, "DYING", 0.0)
    executor = make(1, heartbeat_interval=0.02)
    executor.wait_ready(60)
    watch: Any = executor._pool.supervisor.burial.oom  # type: ignore[union-attr]
    counter.write_text("oom_kill 1\n")
    wait_until(lambda: watch._looks[0][1] == 1, "a look at the counter")
    assert expect_crash(executor.submit(tasks.kill_self)).autopsy.oom_killed is False


# The real thing


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """Make a control group with a limit of memory in bytes; skip where that cannot be done."""
    name = f"snakepit-test-{uuid.uuid4().hex[:8]}"
    places = [Path(path).parent for path in autopsies._group_files()]
    why = ["this process is in no control group of memory"]
    for place in places:
        folder = place / name
        try:
            folder.mkdir()
        except OSError as error:
            why.append(f"{folder}: {error.strerror}")
            continue
        try:
            for file in ("memory.max", "memory.limit_in_bytes"):
                if (folder / file).exists():
                    (folder / file).write_text(str(limit))
                    break
            else:
                why.append(f"{folder} has no limit of memory")
                continue
            yield folder
            return
        finally:
            wait_until(partial(removed, folder), "the control group to be empty")
    pytest.skip(f"no control group can be made: {why[-1]}")


def removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def test_a_real_out_of_memory_kill_is_told_from_a_plain_one(tmp_path: Path) -> None:
    with memory_group(400 << 20) as folder:
        source = f"""
            import os, signal
            with open({str(folder / "cgroup.procs")!r}, "w") as file:
                file.write(str(os.getpid()))
            import snakepit

            def devour():
                kept = []
                while True:
                    kept.append(b"x" * (10 << 20))

            def kill_self():
                os.kill(os.getpid(), signal.SIGKILL)

            if __name__ == "__main__":
                with snakepit.Executor(1) as executor:
                    for call in (kill_self, devour, kill_self):
                        found = executor.submit(call).exception(60).autopsy
                        print(found.signal, found.oom_killed, found.oom_evidence.partition(" c")[0])
            """
        outcome = run_script(source, tmp_path)
        assert outcome.lines == [
            "SIGKILL False 0 more victims",
            "SIGKILL True 1 more victims",
            "SIGKILL False 0 more victims",
        ], outcome.stderr
