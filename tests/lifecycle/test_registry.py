"""Owners in the registry: of one token, of several instances, of other places, in any time."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.lifecycle import orphans, run_id
from snakepit.lifecycle import registry as registries
from snakepit.lifecycle.database import Database, RunRow, file_in
from snakepit.lifecycle.place import Place
from snakepit.lifecycle.registry import Writer, registry
from tests.lifecycle.test_orphans import Sleep, dead_owner, enter, runs_in, started_at
from tests.lifecycle.test_orphans import sleep as sleep
from tests.support import LONG, Script, start_script, wait_until

MINE, OTHER, DEAD = (run_id.generate() for _ in range(3))
RIVAL = "uses the instance token"
DAY = 86_400.0


@pytest.fixture
def new_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Writer]]:
    """Return a function that makes the writer of an owner with a run id of its own."""
    writers: list[Writer] = []

    def make(run: str) -> Writer:
        writer = Writer(lambda: tmp_path)
        real = writer._opened

        def opened() -> Any:
            with monkeypatch.context() as patched:
                patched.setattr(run_id, "current", lambda: run)
                return real()

        writer._opened = opened  # type: ignore[method-assign]
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.close()


def times_told(caplog: pytest.LogCaptureFixture) -> int:
    return sum(RIVAL in record.getMessage() for record in caplog.records)


def test_both_owners_with_one_token_are_told_once(
    new_writer: Callable[[str], Writer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SNAKEPIT_INSTANCE_TOKEN", "x")
    earlier, later = new_writer(MINE), new_writer(OTHER)
    earlier.write([])
    assert times_told(caplog) == 0
    later.write([])
    assert times_told(caplog) == 1
    earlier.write([])
    assert times_told(caplog) == 2
    for writer in (earlier, later, earlier, later):
        writer.write([])
    assert times_told(caplog) == 2


def test_owners_that_start_at_the_same_time_do_not_miss_each_other(
    new_writer: Callable[[str], Writer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("SNAKEPIT_INSTANCE_TOKEN", "x")
    one, two = new_writer(MINE), new_writer(OTHER)
    writing = Database.writing

    @contextlib.contextmanager
    def late(self: Database) -> Iterator[None]:
        # The other starts, looks and enters itself just before this one's transaction.
        monkeypatch.setattr(Database, "writing", writing)
        two.write([])
        with writing(self):
            yield

    monkeypatch.setattr(Database, "writing", late)
    one.write([])
    assert times_told(caplog) == 1


def test_owners_without_a_token_are_no_rivals(
    new_writer: Callable[[str], Writer], caplog: pytest.LogCaptureFixture
) -> None:
    for writer in (new_writer(MINE), new_writer(OTHER)):
        writer.write([])
        writer.write([])
    assert times_told(caplog) == 0


OWNER = """
    import logging, sys
    logging.basicConfig()
    import snakepit
    from snakepit.lifecycle.registry import registry

    if __name__ == "__main__":
        with snakepit.Executor(1) as executor:
            executor.wait_ready(60)
            print(flush=True)
            sys.stdin.readline()
        registry.flush(60)
    """


def test_file_that_is_damaged_while_it_is_in_use_is_told_with_what_becomes_of_it(
    tmp_path: Path, new_writer: Callable[[str], Writer], caplog: pytest.LogCaptureFixture
) -> None:
    path = file_in(tmp_path)
    writer = new_writer(MINE)
    writer.write([])
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = b"This is no database. ".ljust(path.stat().st_size, b".")
    with path.open("r+b") as stream:
        stream.write(damaged)
    writer.write([lambda file: file.reserve(MINE, 1, "worker")])
    (told,) = [text for text in caplog.messages if "cannot be written" in text]
    assert f"the process registry {path} cannot be written" in told
    assert "the next program that starts a pool sets it aside" in told
    writer.close()
    assert path.read_bytes() == damaged
    # And so it does.
    new_writer(OTHER).write([])
    (aside,) = tmp_path.glob("*.aside")
    assert aside.read_bytes() == damaged
    assert runs_in(tmp_path) == [OTHER]


def has_runs(folder: Path, number: int) -> bool:
    return file_in(folder).exists() and len(runs_in(folder)) == number


def test_two_processes_with_one_token_are_both_told(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    owners: list[Script] = []
    try:
        for number in (1, 2):
            script = start_script(
                OWNER, tmp_path, stdin=subprocess.PIPE,
                env={"SNAKEPIT_DATA_DIR": str(folder), "SNAKEPIT_INSTANCE_TOKEN": "x"},
            )  # fmt: skip
            owners.append(script)
            script.read_line()
            wait_until(partial(has_runs, folder, number), "the owner's row")
        # What the first writes at its end lets it see the second.
        outcomes = [script.finish(stdin="\n") for script in owners]
    finally:
        for script in owners:
            script.stop()
    assert [outcome.stderr.count(RIVAL) for outcome in outcomes] == [1, 1]


# Instances


@pytest.mark.parametrize(("name", "token"), [("other", ""), ("default", "other's")])
def test_what_another_instance_left_is_spared_by_clean_and_start(
    tmp_path: Path, sleep: Sleep, monkeypatch: pytest.MonkeyPatch, name: str, token: str
) -> None:
    assert registry.flush(60)
    mine, others = sleep(), sleep()
    enter(tmp_path, MINE, *dead_owner(sleep), (mine.pid, started_at(mine.pid)))
    file = Database(tmp_path)
    file.add_run(RunRow(OTHER, *dead_owner(sleep), Place.here().text, name, token))
    file.reserve(OTHER, 1, "worker")
    file.activate(OTHER, 1, others.pid, started_at(others.pid), others.pid)
    file.close()
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    with snakepit.Executor(1) as executor:
        executor.wait_ready(60)
        assert mine.wait(LONG) == -15
        wait_until(lambda: MINE not in runs_in(tmp_path), "the dead run to be struck out")
    assert registry.flush(60)
    if name != "default":
        assert orphans.clean(folder=tmp_path, instance="default").found == []
    assert others.poll() is None and runs_in(tmp_path) == [OTHER]


# Time


def test_rows_of_another_place_are_forgotten_if_their_owner_does_not_renew_them(
    tmp_path: Path, new_writer: Callable[[str], Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    elsewhere = [RunRow(run, os.getpid(), 1, "elsewhere", "default", "") for run in (OTHER, DEAD)]
    file = Database(tmp_path)
    monkeypatch.setattr(time, "time", lambda: now - 8 * DAY)
    for run in elsewhere:
        file.add_run(run)
    monkeypatch.setattr(time, "time", lambda: now - DAY)
    file.renew(OTHER)
    file.close()
    monkeypatch.setattr(time, "time", lambda: now)
    new_writer(MINE).write([])
    assert sorted(runs_in(tmp_path)) == sorted([MINE, OTHER])


def test_a_living_owner_renews_its_row_though_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.flush(60)
    monkeypatch.setenv("SNAKEPIT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(registries, "RENEWAL", 0.05)
    with snakepit.Executor(1) as executor:
        executor.wait_ready(60)
        wait_until(lambda: file_in(tmp_path).exists() and runs_in(tmp_path), "the owner's row")
        file = Database(tmp_path)

        def created() -> float:
            query = "SELECT created FROM runs"
            return float(file._connection.execute(query).fetchone()[0])

        try:
            file._connection.execute("UPDATE runs SET created = 0")
            wait_until(created, "the row to be renewed")
        finally:
            file.close()


@pytest.mark.parametrize("days", [30, -30])
def test_a_jump_of_the_clock_makes_nobody_living_dead(
    tmp_path: Path, sleep: Sleep, new_writer: Callable[[str], Writer],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, days: int,
) -> None:  # fmt: skip
    child, left = sleep(), sleep()
    enter(tmp_path, OTHER, os.getpid(), started_at(os.getpid()), (child.pid, started_at(child.pid)))
    enter(tmp_path, DEAD, *dead_owner(sleep), (left.pid, started_at(left.pid)))
    now = time.time()
    with caplog.at_level(logging.WARNING, "snakepit"):
        for jump in (days * DAY, 0.0, days * DAY):
            monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
            writer = new_writer(MINE)
            writer.write([])
            # The dead are found all the same.
            assert left.wait(LONG) == -15
            wait_until(lambda: DEAD not in runs_in(tmp_path), "the dead run to be struck out")
            assert orphans.clean(folder=tmp_path).found == []
            assert set(runs_in(tmp_path)) == {MINE, OTHER}
            assert child.poll() is None
            writer.close()
