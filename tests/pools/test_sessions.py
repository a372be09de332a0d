"""The sessions that calls name: made with the first, kept while calls go on, then released."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.sessions.store import SessionStore
from tests.executor.tasks import Gate
from tests.pools.adapters import Counter, Naming, NoPrograms, Programs
from tests.pools.conftest import WITH_PROCESSES
from tests.pools.movers import Ledger
from tests.support import LONG, send_signal, wait_until

PROFILES = {**WITH_PROCESSES, "local": {"profile": "local", "threads_per_worker": 2}}

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


@pytest.fixture(params=PROFILES)
def new(request: pytest.FixtureRequest, new_pool: NewPool) -> NewPool:
    """Return a function that makes a pool of each profile."""

    def make(adapter: Any = Counter, **options: Any) -> snakepit.Pool:
        kind = "local" if request.param == "local" else "process"
        return new_pool(kind, adapter, **{**PROFILES[request.param], **options})

    return make


def test_a_call_that_names_a_session_makes_it(new: NewPool) -> None:
    pool = new()
    assert pool.execute("echo", {"value": 1}) == 1
    assert pool.session_store.list_sessions() == []
    pool.execute("echo", {"value": 1}, session="executed")
    pool.submit("echo", {"value": 1}, session="submitted", priority="high").result(LONG)
    assert list(pool.stream("count_to", {"last": 2}, session="streamed")) == [1, 2]
    pool.execute("echo", {"value": 1}, session="strict", affinity="strict_queue")
    made = ["executed", "submitted", "streamed", "strict"]
    assert pool.session_store.list_sessions() == made
    for name in made:
        assert pool.session_store.delete_session(name)
    pool.execute("echo", {"value": 1}, session="executed")
    assert pool.session_store.list_sessions() == ["executed"]


def test_a_call_of_one_session_too_many_is_refused(new: NewPool) -> None:
    with SessionStore(max_sessions=1) as store:
        pool = new(session_store=store)
        pool.execute("echo", {"value": 1}, session="a")
        submitted = pool.get_stats()["submitted"]
        for affinity in ("hint", "strict_queue"):
            with pytest.raises(errors.SessionQuotaError):
                pool.submit("echo", {"value": 1}, session="b", affinity=affinity)
        with pytest.raises(errors.SessionQuotaError):
            pool.stream("count_to", {"last": 2}, session="b")
        assert pool.get_stats()["submitted"] == submitted
        assert pool.execute("echo", {"value": 2}, session="a") == 2
        pool.stop()


def test_names_that_are_none_are_refused(new: NewPool) -> None:
    pool = new()
    for name, error in ((7, TypeError), ("", ValueError)):
        with pytest.raises(error):
            pool.execute("echo", {"value": 1}, session=name)  # type: ignore[arg-type]
    assert pool.session_store.list_sessions() == []


def test_sessions_in_a_file_are_made_once(new: NewPool, tmp_path: Path) -> None:
    with SessionStore(backend=tmp_path / "store.db") as store:
        pool = new(session_store=store)
        for _ in range(3):
            pool.execute("echo", {"value": 1}, session="a")
        assert store.get_stats()["created"] == 1
        pool.stop()
    with SessionStore(backend=tmp_path / "store.db") as store:
        assert store.session_exists("a")


def test_what_is_kept_of_a_session_ends_with_it(new_pool: NewPool) -> None:
    with SessionStore(default_ttl=0.3, sweep_interval=0.05) as store:
        pool = new_pool(adapter=Ledger, affinity="strict_queue", session_store=store)
        names = [f"s{n}" for n in range(20)]
        for name in names:
            pool.execute("append", {"item": name}, session=name)
        wait_until(lambda: not store.list_sessions(), "the sessions' end")
        wait_until(lambda: pool.get_stats()["snapshot_bytes"] == 0, "the release of the snapshots")
        assert pool.execute("append", {"item": 1}, session="s0") in ([1], ["s0", 1])
        assert not any(pool.forget_session(name) for name in names[1:])
        pool.stop()


def test_a_lost_session_that_is_deleted_begins_anew(new_pool: NewPool) -> None:
    pool = new_pool(affinity="strict_queue")
    pid = pool.execute("pid", session="q")
    assert send_signal(pid)
    with pytest.raises(errors.SessionWorkerUnavailableError):
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            pool.execute("pid", session="q")
    assert pool.session_store.delete_session("q")
    assert pool.execute("pid", session="q") != pid


def test_calls_keep_their_session_alive(new: NewPool) -> None:
    with SessionStore(default_ttl=0.6, sweep_interval=0.02) as store:
        pool = new(session_store=store)
        pool.await_ready(LONG)
        ended: list[str] = []
        store.on_end(ended.append)
        pool.execute("echo", {"value": 0}, session="a")
        made = store.get_session("a")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            pool.execute("echo", {"value": 1}, session="a")
        assert made.alive
        assert ended == []
        pool.stop()


def test_a_long_call_keeps_its_session_alive(new: NewPool, gates: Gates) -> None:
    with SessionStore(default_ttl=1.2, sweep_interval=0.02) as store:
        pool = new(session_store=store)
        pool.await_ready(LONG)
        # With a time to live of its own, which is the shorter one.
        session = store.create_session("a", ttl=0.6)
        session.register_variable("x", "integer", 7)
        calls = []
        for name in "ab":
            arguments = {"started": gates(f"started-{name}"), "release": gates(f"release-{name}")}
            calls.append(pool.submit("hold", arguments, session=name))
            arguments["started"].wait()
        for _ in range(40):
            time.sleep(0.05)
            assert store.session_exists("a")
            assert store.session_exists("b")
        for name in "ab":
            gates(f"release-{name}").open()
        for call in calls:
            call.result(LONG)
        assert session.get_variable("x") == 7
        wait_until(lambda: not store.list_sessions(), "the end of sessions that nobody uses")
        wait_until(lambda: not pool._engine.uses._entries, "the end of the looks")
        # And it begins anew, with looks that do.
        arguments = {"started": gates("started-c"), "release": gates("release-c")}
        call = pool.submit("hold", arguments, session="b")
        time.sleep(2.0)
        assert store.session_exists("b")
        gates("release-c").open()
        call.result(LONG)
        pool.stop()


# -- programs --------------------------------------------------------------------------------------


def test_programs_are_kept_and_supplied(new: NewPool) -> None:
    pool = new(Programs)
    run = pool.execute_program_command
    made = run("s", "create_program", {"signature": "question -> answer"})
    assert made["program_id"] == "answer"
    assert pool.session("s").get_program("answer") == made
    args = {"program_id": "answer", "value": 3}
    found = run("s", "execute_program", args, timeout=LONG, affinity="strict_queue")
    assert found == ("question -> answer", 3)
    assert args == {"program_id": "answer", "value": 3}
    # Under a name of the caller's, in place of the one that was there.
    for signature in ("a -> b", "c -> d"):
        run("s", "create_program", {"signature": signature, "program_id": "mine"})
        args = {"program_id": "mine", "value": 1}
        assert run("s", "execute_program", args) == (signature, 1)
    assert pool.session("s").list_programs() == ["answer", "mine"]
    assert run("s", "session_id") == "s"
    pool.session_store.store_global_program("all", {"signature": "for all"})
    assert run("t", "execute_program", {"program_id": "all", "value": 2}) == ("for all", 2)


def test_errors_about_programs_say_what_is_missing(new: NewPool) -> None:
    pool = new(Programs)
    run = pool.execute_program_command
    run("s", "create_program", {"signature": "a -> answer"})
    submitted = pool.get_stats()["submitted"]
    with pytest.raises(errors.ProgramNotFoundError, match=r"did you mean 'answer'.*create_program"):
        run("s", "execute_program", {"program_id": "answr", "value": 1})
    with pytest.raises(errors.ProgramNotFoundError, match="it has none"):
        run("other", "execute_program", {"program_id": "answer", "value": 1})
    for args, wanted in (
        ({"value": 1}, "'program_id' .* is missing"),
        ({"program_id": 3, "value": 1}, "must be a string, not 3"),
        ({"program_id": "answer", "program": 1, "value": 1}, "leave it out"),
        ({"program_id": "answer"}, "value"),
        ({"program_id": "answer", "valu": 1}, "valu"),
        ([], "."),
    ):
        with pytest.raises(errors.ToolArgumentError, match=wanted):
            run("s", "execute_program", args)  # type: ignore[arg-type]
    assert pool.get_stats()["submitted"] == submitted
    for signature, wanted in (("number", "a 'int' without"), ("nameless", "a 'dict' without")):
        with pytest.raises(errors.AdapterError, match=wanted):
            run("s", "create_program", {"signature": signature})
    with pytest.raises(TypeError, match="session_id"):
        run(None, "create_program", {"signature": "a -> b"})  # type: ignore[arg-type]


def test_adapters_that_are_not_made_for_programs_are_told(new_pool: NewPool) -> None:
    pool = new_pool(adapter=Naming)
    pool.session("s").store_program("p", 5)
    assert pool.execute_program_command("s", "execute_program", {"program_id": "p"}) == (5, "p")
    with pytest.raises(errors.ToolNotFoundError, match="returns a dict with 'program_id'"):
        pool.execute_program_command("s", "create_program", {})
    pool = new_pool(adapter=NoPrograms)
    with pytest.raises(errors.AdapterError, match="takes no parameter 'program'"):
        pool.execute_program_command("s", "execute_program", {"program_id": "p", "value": 1})


# -- executors -------------------------------------------------------------------------------------


def test_calls_of_an_executor_keep_a_known_session_alive() -> None:
    with (
        SessionStore(default_ttl=0.6, sweep_interval=0.02) as store,
        snakepit.Executor(1, session_store=store) as executor,
    ):
        executor.wait_ready(LONG)
        calls = executor.options(session="a")
        session = executor.session("a")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            calls.submit(int).result(LONG)
        assert session.alive
        long = calls.submit(time.sleep, 1.5)
        long.result(LONG)
        assert session.alive


def test_an_executor_makes_strict_sessions_and_no_others() -> None:
    with (
        SessionStore(max_sessions=1) as store,
        snakepit.Executor(1, session_store=store) as executor,
    ):
        for name in "abc":
            executor.options(session=name).submit(int).result(LONG)
        assert store.list_sessions() == []
        strict = [executor.options(session=name, affinity="strict_queue") for name in "de"]
        strict[0].submit(int).result(LONG)
        assert store.list_sessions() == ["d"]
        with pytest.raises(errors.SessionQuotaError):
            strict[1].submit(int)
        with pytest.raises(errors.SessionQuotaError):
            strict[1].map(int, ["1"])
        assert store.delete_session("d")
        assert not executor.forget_session("d")
        assert list(strict[1].map(int, ["1"])) == [1]
