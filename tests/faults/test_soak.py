"""A short soak, and what a soak would see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults import audit, work
from tests.faults.callers import Tally
from tests.support import wait_until


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(work, "_counts", None)
    monkeypatch.setenv(work.VARIABLE, "")
    path = work.make_counts()
    yield
    work.counts().close()
    os.unlink(path)


def test_a_short_soak_loses_nothing() -> None:
    command = [sys.executable, "-m", "tests.faults.soak", "--seconds", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost, 0 wrong, 0 leaked" in done.stdout


def test_a_soak_sees_what_ran_twice(counts: None, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    [once, twice, never], [retried] = tally.new_indexes(3), tally.new_indexes(1, twice=True)
    for index in (once, twice, twice, retried, retried):
        work.note(index)
    tally.hear(never)
    tally.check_counters()
    assert tally.problems == [f"wrong: the task with counter {twice} ran 2 times"]
    work.note(retried)
    tally.hear(never)
    tally.check_counters()
    assert len(tally.problems) == 4
    assert capsys.readouterr().out.count("!! wrong") == 4


def test_a_soak_sees_processes_with_another_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(audit.MARK, "")
    audit.mark_children()
    before = audit.Holdings.now({})
    shell = subprocess.run(
        ["sh", "-c", "setsid sleep 600 >/dev/null & echo $!"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    pid = int(shell.stdout)
    try:
        monkeypatch.setattr(audit, "GONE_WITHIN", 0.0)
        wait_until(lambda: audit.wait_until_gone(before) == [pid], "the process to be seen")
        wait_until(
            lambda: list(audit.leaks(before, before, [pid])) == ["1 processes: ['sleep 600']"],
            "setsid to become what it runs",
        )
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not audit.marked(), "its end")
