"""Leftovers of dead owners are ended; strangers, and what a live owner has, are not."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.cli.clean import clean_up
from snakepit.lifecycle import database, orphans, process_killer, run_id
from snakepit.lifecycle.database import VERSION, Database, RunRow, file_in
from snakepit.lifecycle.identity import process_alive, start_time
from snakepit.lifecycle.place import Place
from snakepit.lifecycle.registry import registry
from tests.support import ROOT, is_running, start_script, wait_until

Sleep = Callable[..., "subprocess.Popen[bytes]"]
# Made up anew: another interpreter may run the same tests on this machine at the same time.
DEAD, LIVE, ELSEWHERE, OTHER = (run_id.generate() for _ in range(4))
STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


@pytest.fixture
def sleep() -> Iterator[Sleep]:
    """Return a function that starts processes, which are ended after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, run: str = "", **options: Any) -> subprocess.Popen[bytes]:
        env = {**os.environ, **({run_id.ENVIRONMENT: run} if run else {})}
        process = subprocess.Popen(
            command or ("sleep", "600"), env=env, start_new_session=True, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def started_at(pid: int) -> int:
    start = start_time(pid)
    assert start is not None
    return start


def enter(folder: Path, run: str, pid: int, start: int, *children: tuple[int, int]) -> None:
    """Write an owner and the processes it started into the registry of `folder`."""
    file = Database(folder)
    file.add_run(RunRow(run, pid, start, Place.here().text, "default", ""))
    for number, (child, began) in enumerate(children):
        file.reserve(run, number, "worker")
        file.activate(run, number, child, began, child)
    file.close()


def dead_owner(sleep: Sleep) -> tuple[int, int]:
    """Return pid and start time of a process that is gone."""
    process = sleep()
    start = started_at(process.pid)
    process.kill()
    process.wait()
    return process.pid, start


def runs_in(folder: Path) -> list[str]:
    file = Database(folder)
    try:
        return [run.run_id for run in file.runs()]
    finally:
        file.close()


def test_what_a_dead_owner_left_is_ended(tmp_path: Path, sleep: Sleep) -> None:
    child = sleep()
    enter(tmp_path, DEAD, *dead_owner(sleep), (child.pid, started_at(child.pid)))
    report = orphans.clean(folder=tmp_path)
    assert [one.pid for one in report.found] == [child.pid] and report.left == []
    assert child.wait(60) == -15
    assert runs_in(tmp_path) == []


def test_what_ignores_sigterm_is_killed(
    tmp_path: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans.end_leftovers, "__defaults__", (0.05,))
    child = sleep(sys.executable, "-c", STUBBORN, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    enter(tmp_path, DEAD, *dead_owner(sleep), (child.pid, started_at(child.pid)))
    assert orphans.clean(folder=tmp_path).left == []
    assert child.wait(60) == -9


def test_a_stranger_with_the_same_pid_is_spared(tmp_path: Path, sleep: Sleep) -> None:
    stranger = sleep()
    enter(tmp_path, DEAD, *dead_owner(sleep), (stranger.pid, started_at(stranger.pid) - 1))
    assert orphans.clean(folder=tmp_path).found == []
    assert stranger.poll() is None
    assert runs_in(tmp_path) == []


def test_what_a_live_owner_has_is_spared(tmp_path: Path, sleep: Sleep) -> None:
    child = sleep(run=LIVE)
    enter(
        tmp_path, LIVE, os.getpid(), started_at(os.getpid()),
        (child.pid, started_at(child.pid)),
    )  # fmt: skip
    assert orphans.clean(folder=tmp_path).found == []
    assert child.poll() is None
    assert runs_in(tmp_path) == [LIVE]


def test_an_owner_of_another_boot_or_container_is_not_judged(tmp_path: Path, sleep: Sleep) -> None:
    child = sleep()
    pid, start = dead_owner(sleep)
    file = Database(tmp_path)
    file.add_run(RunRow(ELSEWHERE, pid, start, "elsewhere", "default", ""))
    file.reserve(ELSEWHERE, 1, "worker")
    file.activate(ELSEWHERE, 1, child.pid, started_at(child.pid), child.pid)
    file.close()
    assert orphans.clean(folder=tmp_path).found == []
    assert child.poll() is None and runs_in(tmp_path) == [ELSEWHERE]


def test_grandchildren_are_found_by_the_run_id(tmp_path: Path, sleep: Sleep) -> None:
    owner = dead_owner(sleep)
    by_environment = sleep(run=DEAD)
    by_command = sleep(sys.executable, "-c", "import time; time.sleep(600)", "--run-id", DEAD)
    other = sleep(run=OTHER)
    enter(tmp_path, DEAD, *owner)

    def command_is_there() -> bool:
        return DEAD in process_killer.get_process_command(by_command.pid)

    wait_until(command_is_there, "the command to be executed")
    found = {one.pid for one in orphans.clean(folder=tmp_path).found}
    assert found == {by_environment.pid, by_command.pid}
    assert other.poll() is None


def test_what_started_before_the_owner_is_not_of_its_run(tmp_path: Path, sleep: Sleep) -> None:
    older = sleep(run=DEAD)
    pid, start = dead_owner(sleep)
    enter(tmp_path, DEAD, pid, max(start, started_at(older.pid)) + 1)
    assert orphans.clean(folder=tmp_path).found == []
    assert older.poll() is None


def test_dry_run_only_tells(tmp_path: Path, sleep: Sleep) -> None:
    child = sleep()
    enter(tmp_path, DEAD, *dead_owner(sleep), (child.pid, started_at(child.pid)))
    assert [one.pid for one in orphans.clean(folder=tmp_path, dry_run=True).found] == [child.pid]
    assert child.poll() is None and runs_in(tmp_path) == [DEAD]


def test_clean_on_the_command_line(
    tmp_path: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    child = sleep()
    enter(tmp_path, DEAD, *dead_owner(sleep), (child.pid, started_at(child.pid)))

    def clean(*options: str) -> str:
        command = [sys.executable, "-m", "snakepit", "clean", *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert f"would end process {child.pid} of run {DEAD}" in clean("--dry-run")
    assert f"ended process {child.pid} of run {DEAD}" in clean()
    assert clean() == "nothing was left behind\n"
    assert child.wait(60) == -15


def test_the_next_owner_ends_what_a_dead_one_left(
    tmp_path: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    child = sleep()
    enter(tmp_path, DEAD, *dead_owner(sleep), (child.pid, started_at(child.pid)))
    with caplog.at_level(logging.WARNING, "snakepit"), snakepit.Executor(1) as executor:
        executor.wait_ready(60)
        assert child.wait(60) == -15
        wait_until(lambda: f"left behind by dead run {DEAD}" in caplog.text, "the log")


# The registry's file


def test_rows_come_and_go_with_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    with snakepit.Executor(2) as executor:
        executor.wait_ready(60)

        def active() -> set[int]:
            if not file_in(tmp_path).exists():
                return set()
            file = Database(tmp_path)
            try:
                rows = file.processes(run_id.current())
                return {row.pid for row in rows if row.pid and row.kind == "worker"}
            finally:
                file.close()

        wait_until(lambda: active() == set(executor.worker_pids()), "the rows of both workers")
    assert registry.flush(60)
    assert runs_in(tmp_path) == []


def test_a_killed_owner_is_found_dead_and_struck_out(tmp_path: Path) -> None:
    source = """
        import time, snakepit
        with snakepit.Executor(1) as executor:
            executor.wait_ready(60)
            print(flush=True)
            time.sleep(600)
        """
    folder = tmp_path / "data"
    script = start_script(source, tmp_path, env={"SNAKEPIT_DATA_DIR": str(folder)})
    script.read_line()
    wait_until(lambda: file_in(folder).exists() and runs_in(folder), "the owner's row")
    script.process.kill()
    script.process.wait(60)
    script.expect_nothing_left()
    script.finish()
    orphans.clean(folder=folder)  # May still find what is just ending.
    assert runs_in(folder) == []


@pytest.mark.parametrize("content", [b"no database at all, for sure" * 100, b"SQLite format 3\0xx"])
def test_a_corrupt_file_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file_in(tmp_path).write_bytes(content)
    assert runs_in(tmp_path) == []
    (aside,) = tmp_path.glob("*.aside")
    assert aside.read_bytes() == content
    assert "set aside" in caplog.text


def test_a_file_of_a_newer_version_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    connection = sqlite3.connect(file_in(tmp_path))
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = file_in(tmp_path).stat().st_ino
    with snakepit.Executor(1) as executor:
        assert executor.submit(pow, 2, 3).result(60) == 8
        wait_until(lambda: "pools go on without it" in caplog.text, "the warning")
    assert "newer than" in caplog.text
    assert registry.flush(60)
    assert file_in(tmp_path).stat().st_ino == before and not list(tmp_path.glob("*.aside"))


OPENER = """
    import os, sys
    from pathlib import Path
    from snakepit.lifecycle.database import Database, RunRow
    print("ready", flush=True)
    sys.stdin.readline()
    file = Database(Path(sys.argv[1]))
    file.add_run(RunRow(f"run{os.getpid() % 10000:04}", 1, 1, "here", "default", ""))
    print("entered", flush=True)
    sys.stdin.readline()
    """


def test_owners_that_meet_a_corrupt_file_together_begin_one_new_one(tmp_path: Path) -> None:
    file_in(tmp_path).write_bytes(b"no database at all, for sure" * 100)
    command = [sys.executable, "-c", textwrap.dedent(OPENER), str(tmp_path)]
    openers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(6)
    ]
    try:
        for word in ("ready", "entered"):
            for opener in openers:
                assert opener.stdout is not None and opener.stdin is not None
                assert opener.stdout.readline() == f"{word}\n"
            if word == "ready":
                for opener in openers:
                    assert opener.stdin is not None
                    opener.stdin.write("\n")
                    opener.stdin.flush()
        assert len(runs_in(tmp_path)) == 6
        assert len(list(tmp_path.glob("*.aside"))) == 1
    finally:
        for opener in openers:
            opener.communicate()


def test_who_finds_a_file_replaced_uses_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_in(tmp_path).write_bytes(b"no database at all, for sure" * 100)
    claimed = database._claimed
    winners: list[Database] = []

    @contextlib.contextmanager
    def late(folder: Path, *, exclusive: bool) -> Iterator[None]:
        if exclusive and not winners:
            monkeypatch.setattr(database, "_claimed", claimed)
            winners.append(Database(folder))  # another was faster
        with claimed(folder, exclusive=exclusive):
            yield

    monkeypatch.setattr(database, "_claimed", late)
    loser = Database(tmp_path)
    winners[0].add_run(RunRow("live000", 1, 1, "here", "default", ""))
    assert [run.run_id for run in loser.runs()] == ["live000"]
    assert len(list(tmp_path.glob("*.aside"))) == 1
    loser.close()
    winners[0].close()


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("content", ["corrupt", "newer"])
def test_clean_leaves_a_file_that_it_cannot_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    content: str, options: list[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    file = file_in(tmp_path)
    if content == "newer":
        connection = sqlite3.connect(file)
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.close()
    else:
        file.write_bytes(b"no database at all, for sure" * 100)
    before = file.stat().st_ino
    assert clean_up(dry_run=bool(options), instance=None) == 2
    told = capsys.readouterr().err
    assert str(file) in told
    # One of a newer version is in use by others, most likely: nobody sets that aside.
    is_set_aside = "the next program that starts a pool sets it aside" in told
    assert is_set_aside is (content == "corrupt")
    assert file.stat().st_ino == before and not list(tmp_path.glob("*.aside"))


def test_a_locked_file_does_not_stop_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.flush(60)
    monkeypatch.setattr("snakepit.lifecycle.database.BUSY_SECONDS", 0.0)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    Database(tmp_path).close()
    blocker = sqlite3.connect(file_in(tmp_path), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        with snakepit.Executor(1) as executor:
            assert executor.submit(pow, 2, 3).result(60) == 8
        assert registry.flush(60)
    finally:
        blocker.close()


# As root os.access() says of both that they are writable.
@pytest.mark.parametrize("folder", ["/proc/nowhere", "/sys/kernel"])
def test_a_data_dir_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", folder)
    with snakepit.Executor(1) as executor:
        with pytest.raises(errors.DataDirError, match=f"SNAKEPIT_DATA_DIR='{folder}'") as caught:
            executor.submit(pow, 2, 3)
        assert isinstance(caught.value, OSError)
        monkeypatch.delenv("SNAKEPIT_DATA_DIR")
        monkeypatch.setenv("SNAKEPIT_DATA_DIR", os.environ["SNAKEPIT_TEST_DATA_DIR"])
        assert executor.submit(pow, 2, 3).result(60) == 8


def test_a_data_dir_that_is_no_longer_asked_for_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path / "asked"))
    with snakepit.Executor(1) as executor:
        executor.submit(pow, 2, 3).result(60)
        wait_until(lambda: file_in(tmp_path / "asked").exists(), "the registry")
    assert registry.flush(60)
    monkeypatch.delenv("SNAKEPIT_DATA_DIR")
    with snakepit.Executor(1) as executor:
        executor.submit(pow, 2, 3).result(60)
        wait_until(lambda: file_in(tmp_path / "state" / "snakepit").exists(), "the registry")
    assert registry.flush(60)


# Killing by name


def test_kill_process_spares_who_started_at_another_time(sleep: Sleep) -> None:
    child = sleep()
    start = started_at(child.pid)
    assert not process_killer.kill_process(child.pid, start=start + 1)
    assert not process_alive(child.pid, start + 1)
    assert child.poll() is None
    assert process_killer.kill_process(child.pid, start=start)
    assert child.wait(60) == -9


def test_kill_with_escalation_ends_a_stopped_process(sleep: Sleep) -> None:
    child = sleep()
    process_killer.kill_process(child.pid, 19)
    assert process_killer.kill_with_escalation(child.pid, 10.0)
    assert child.wait(60) == -15


def test_kill_by_run_id(sleep: Sleep) -> None:
    mine, other = sleep(run=DEAD), sleep(run=OTHER)
    assert process_killer.kill_by_run_id(DEAD) == [mine.pid]
    assert other.poll() is None
    with pytest.raises(ValueError, match="not a run id"):
        process_killer.kill_by_run_id("")


def test_kill_process_group(sleep: Sleep) -> None:
    leader = sleep("sh", "-c", "sleep 600 & echo; wait", stdout=subprocess.PIPE)
    assert leader.stdout is not None and leader.stdout.readline()
    members = process_killer.group_members(leader.pid)
    assert leader.pid in members and len(members) == 2
    start = started_at(leader.pid)
    assert process_killer.kill_process_group(leader.pid, not_before=start + 10**9) == []
    assert sorted(process_killer.kill_process_group(leader.pid, not_before=start)) == sorted(
        members
    )
    wait_until(lambda: not any(is_running(pid) for pid in members), "the group to end")


def test_the_caller_is_never_signalled() -> None:
    assert not process_killer.kill_process(os.getpid(), 0)
    assert not process_killer.kill_process(1, 0)
    assert process_killer.kill_process_group(os.getpgrp(), 0) == []
