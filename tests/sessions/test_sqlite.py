"""What a store with a file has survives a restart, a crash, and damage to the file."""

from __future__ import annotations

import logging
import math
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import snakepit
from snakepit.errors import DecodeError, EncodeError, SessionStoreError, VersionConflictError
from snakepit.sessions import file as file_module
from tests.support import LONG

from .conftest import MakeStore
from .support import Clock, in_threads

Reopen = Callable[..., snakepit.SessionStore]


@pytest.fixture
def reopen(make_store: MakeStore, tmp_path: Path) -> Reopen:
    """Return a function that closes the store of the test's file and opens it again."""
    last: list[snakepit.SessionStore] = []

    def open_again(**options: Any) -> snakepit.SessionStore:
        for store in last:
            store.close()
        last[:] = [make_store(backend=tmp_path / "store.db", **options)]
        return last[0]

    return open_again


# Restarts


def test_everything_but_tools_survives_a_restart(reopen: Reopen) -> None:
    store = reopen()
    session = store.create_session("alice", ttl=77, metadata={"plan": ("free", 1)})
    store.create_session("bob \ud800", metadata={})
    session.register_variable("x", "integer", 1, {"min": 0, "max": 10**30}, {"unit": "m"})
    session.set_variable("x", 10**29)
    session.register_variable("gone", "string", "a")
    session.delete_variable("gone")
    session.store_program("plan", {"steps": [1]})
    session.store_program("other", 1)
    session.delete_program("other")
    session.register_tool("tool", str)
    store.store_global_program("shared", b"bytes")
    store = reopen()
    assert store.list_sessions() == ["alice", "bob \ud800"]
    session = store.get_session("alice")
    assert (session.ttl, session.metadata) == (77.0, {"plan": ("free", 1)})
    (x,) = session.list_variables()
    assert (x.name, x.type, x.value, x.version) == ("x", "integer", 10**29, 2)
    assert (x.constraints, x.metadata) == ({"min": 0, "max": 10**30}, {"unit": "m"})
    assert session.get_program("plan") == {"steps": [1]} and session.list_programs() == ["plan"]
    assert session.tools == {}
    assert store.get_global_program("shared") == b"bytes"
    # Versions go on, deleted variables' as well.
    with pytest.raises(VersionConflictError):
        session.compare_and_set_variable("x", 1, 5)
    assert session.set_variable("x", 3) == 3
    assert session.register_variable("gone", "string", "b") == 2


def test_deleted_sessions_stay_deleted_and_new_ones_are_new(reopen: Reopen) -> None:
    store = reopen()
    store.create_session("alice").register_variable("x", "integer", 1)
    store.create_session("bob").store_program("p", 1)
    store.delete_session("alice")
    store.update_session("bob", lambda _: {"a": 1})
    store = reopen()
    assert store.list_sessions() == ["bob"]
    assert store.create_session("alice").list_variables() == []
    store = reopen()
    assert store.get_session("alice").list_variables() == []
    assert store.get_session("bob").metadata == {"a": 1}


def test_what_was_done_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    script = (
        "import os, signal, sys, snakepit\n"
        "session = snakepit.SessionStore(backend=sys.argv[1]).create_session('alice')\n"
        "session.register_variable('x', 'integer', 0)\n"
        "for number in range(1, 21): session.set_variable('x', number)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], timeout=LONG, check=False)
    with snakepit.SessionStore(backend=path) as store:
        assert store.get_session("alice").read_variable("x") == (20, 21)


def test_store_left_open_closes_its_file_at_the_exit(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    script = (
        "import sys, snakepit\n"
        "store = snakepit.SessionStore(backend=sys.argv[1])\n"
        "store.create_session('alice')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, path],
        timeout=LONG,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "" and os.listdir(tmp_path) == ["store.db"]


def test_more_sessions_than_allowed_are_kept_but_not_added_to(reopen: Reopen) -> None:
    store = reopen()
    for number in range(5):
        store.create_session(f"s{number}")
    store = reopen(max_sessions=3)
    assert len(store.list_sessions()) == 5
    with pytest.raises(snakepit.errors.SessionQuotaError):
        store.create_session("one more")


def test_threads_write_through_one_file(reopen: Reopen) -> None:
    store = reopen()
    store.create_session("shared").register_variable("x", "integer", 0)

    def work(number: int) -> None:
        own = store.create_session(f"s{number}")
        own.register_variable("x", "integer", 0)
        for turn in range(15):
            own.set_variable("x", turn)
            store.get_session("shared").update_variable("x", lambda value: value + 1)

    in_threads(8, work)
    store = reopen()
    assert store.get_session("shared").read_variable("x") == (120, 121)
    assert {store.get_session(f"s{number}").get_variable("x") for number in range(8)} == {14}


# Values


PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(st.characters()),
    "integer": st.integers(),
    "float": st.floats(),
    "boolean": st.booleans(),
    "tensor": st.lists(st.lists(st.floats(), min_size=3, max_size=3), max_size=4),
    "embedding": st.lists(st.floats(), max_size=8),
}


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return (left.dtype, left.tobytes()) == (right.dtype, right.tobytes())
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and str(left) == str(right)


@settings(max_examples=20)
@given(
    st.lists(
        st.sampled_from(sorted(PLAIN)).flatmap(lambda name: st.tuples(st.just(name), PLAIN[name])),
        min_size=1,
        max_size=12,
    )
)
def test_values_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("values") / "store.db"
    with snakepit.SessionStore(backend=path) as store:
        session = store.create_session("s")
        for number, (name, value) in enumerate(values):
            session.register_variable(f"v{number:03}", name, value)
        kept = [variable.value for variable in session.list_variables()]
    with snakepit.SessionStore(backend=path) as store:
        back = [variable.value for variable in store.get_session("s").list_variables()]
    assert len(back) == len(values)
    assert all(same(left, right) for left, right in zip(kept, back, strict=True))


def test_arrays_come_back_read_only(reopen: Reopen) -> None:
    session = reopen().create_session("s")
    session.register_variable("t", "tensor", np.arange(4, dtype=">i2").reshape(2, 2))
    value = reopen().get_session("s").get_variable("t")
    assert value.dtype == np.dtype(">i2") and value.tolist() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="read-only"):
        value[0, 0] = 1


def test_what_cannot_be_pickled_is_refused_and_changes_nothing(reopen: Reopen) -> None:
    store = reopen()
    session = store.create_session("s", metadata={"a": 1})
    lock = threading.Lock()
    for use in (
        lambda: session.store_program("p", lock),
        lambda: store.store_global_program("p", lock),
        lambda: store.update_session("s", lambda _: {"lock": lock}),
        lambda: store.create_session("t", metadata={"lock": lock}),
    ):
        with pytest.raises(EncodeError, match="cannot be pickled"):
            use()
    assert session.list_programs() == [] and session.metadata == {"a": 1}
    assert store.list_sessions() == ["s"]


class Vanishing:
    """A class that is not there when its pickle is read."""


def test_program_that_cannot_be_rebuilt_spoils_no_other(
    reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = reopen().create_session("s")
    session.store_program("bad", Vanishing())
    session.store_program("good", 1)
    store = reopen()
    monkeypatch.delattr(sys.modules[__name__], "Vanishing")
    session = store.get_session("s")
    with pytest.raises(DecodeError, match="program 'bad'"):
        session.get_program("bad")
    assert session.get_program("good") == 1
    session.delete_program("bad")


# Time


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The clocks that go on between two stores, to be set by the test."""
    clocks: dict[str, Any] = {"wall": 1e9, "boot": 5000.0, "id": "first boot"}
    monkeypatch.setattr(file_module, "wall_clock", lambda: clocks["wall"])
    monkeypatch.setattr(file_module, "boot_clock", lambda: clocks["boot"])
    monkeypatch.setattr(file_module, "boot_id", lambda: clocks["id"])
    return clocks


def test_time_goes_on_while_the_store_is_closed(reopen: Reopen, clocks: dict[str, Any]) -> None:
    store = reopen()
    store.create_session("short", ttl=10).register_variable("x", "integer", 1)
    store.create_session("long", ttl=100)
    clocks["boot"] += 11
    clocks["wall"] += 11
    store = reopen()
    assert store.list_sessions() == ["long"]
    assert store.create_session("short").list_variables() == []


def test_use_counts_after_a_restart(reopen: Reopen, clock: Clock, clocks: dict[str, Any]) -> None:
    store = reopen()
    store.create_session("used", ttl=10)
    store.create_session("unused", ttl=10)
    clock.now += 8
    clocks["boot"] += 8
    store.get_session("used")
    store = reopen()
    clock.now += 8
    assert store.list_sessions() == ["used"]


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_wall_clock_that_is_set_neither_kills_nor_immortalises(
    reopen: Reopen, clock: Clock, clocks: dict[str, Any], jump: float
) -> None:
    reopen().create_session("s", ttl=10)
    clocks["wall"] += jump
    clocks["boot"] += 4
    store = reopen()
    clock.now += 5.9
    assert store.session_exists("s")
    clock.now += 0.2
    assert not store.session_exists("s")


@pytest.mark.parametrize(("wall", "lives"), [(4, True), (11, False), (-1e6, True)])
def test_after_a_reboot_the_wall_clock_counts(
    reopen: Reopen, clock: Clock, clocks: dict[str, Any], wall: float, lives: bool
) -> None:
    reopen().create_session("s", ttl=10)
    clocks.update(id="second boot", boot=3.0, wall=clocks["wall"] + wall)
    store = reopen()
    assert store.session_exists("s") is lives
    clock.now += 10
    assert not store.session_exists("s")


# The file


def test_file_serves_one_store_at_a_time(reopen: Reopen, tmp_path: Path) -> None:
    store = reopen()
    session = store.create_session("s")
    path = tmp_path / "store.db"
    with pytest.raises(SessionStoreError, match="in use by another store") as caught:
        snakepit.SessionStore(backend=path)
    assert OSError in SessionStoreError.__mro__
    assert caught.value.details == {"path": str(path)}
    script = (
        "import sys, snakepit\n"
        "try: snakepit.SessionStore(backend=sys.argv[1])\n"
        "except snakepit.errors.SessionStoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], timeout=LONG, capture_output=True, text=True
    )
    assert "in use by another store" in done.stdout
    session.store_program("p", 1)
    assert reopen().get_session("s").get_program("p") == 1


@pytest.mark.parametrize("damage", ["garbage", "truncated", "no tables"])
def test_corrupt_file_is_set_aside_and_never_deleted(
    reopen: Reopen, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    caplog.set_level(logging.WARNING, "snakepit")
    store = reopen()
    for number in range(50):
        store.create_session(f"s{number}", metadata={"text": "x" * 1000})
    store.close()
    path = tmp_path / "store.db"
    if damage == "garbage":
        path.write_bytes(b"This is no database. " * 500)
    elif damage == "truncated":
        with path.open("r+b") as stream:
            stream.truncate(10_000)
    else:
        connection = sqlite3.connect(path)
        connection.execute("DROP TABLE variables")
        connection.close()
    damaged = path.read_bytes()
    store = reopen()
    assert store.list_sessions() == []
    (aside,) = tmp_path.glob("store.db.*.aside")
    assert aside.read_bytes() == damaged
    assert "the session store" in caplog.text and aside.name in caplog.text
    store.create_session("new")
    assert reopen().list_sessions() == ["new"]


def test_other_programs_and_newer_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SessionStoreError, match="database of another program"):
        snakepit.SessionStore(backend=path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["other.db"]
    newer = tmp_path / "newer.db"
    snakepit.SessionStore(backend=newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SessionStoreError, match="version 99"):
        snakepit.SessionStore(backend=newer)


def test_path_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "store.db"):
        with pytest.raises(SessionStoreError, match="cannot be opened") as caught:
            snakepit.SessionStore(backend=path)
        assert caught.value.details == {"path": str(path)}
        assert pickle.loads(pickle.dumps(caught.value)).details == caught.value.details


def test_file_is_for_its_owner_only(reopen: Reopen, tmp_path: Path) -> None:
    reopen().create_session("s")
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_could_not_be_written_is_written_later(reopen: Reopen) -> None:
    store = reopen()
    session = store.create_session("s")
    session.register_variable("x", "integer", 1)
    assert store._file is not None and store._file._connection is not None
    # As if the disk was full: SQLite's own limit on the file's size.
    store._file._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(SessionStoreError, match="is written with the next change"):
        session.store_program("big", b"x" * 1_000_000)
    assert len(session.get_program("big")) == 1_000_000
    store._file._connection.execute("PRAGMA max_page_count = 1000000")
    session.set_variable("x", 2)
    session = reopen().get_session("s")
    assert session.get_variable("x") == 2 and len(session.get_program("big")) == 1_000_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing to fork with")
def test_forked_child_neither_uses_nor_harms_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    script = (
        "import os, sys, snakepit\n"
        "store = snakepit.SessionStore(backend=sys.argv[1])\n"
        "session = store.create_session('s')\n"
        "session.register_variable('x', 'integer', 1)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try: session.set_variable('x', 2)\n"
        "    except snakepit.errors.SessionStoreError as error: print(error, flush=True)\n"
        "    del session, store\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "session.set_variable('x', 3)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, path],
        timeout=LONG,
        capture_output=True,
        text=True,
    )
    assert "before this process forked" in done.stdout, done
    with snakepit.SessionStore(backend=path) as store:
        assert store.get_session("s").get_variable("x") == 3
