"""Sessions are made, found, used, counted and ended as the store promises."""

from __future__ import annotations

import gc
import itertools
import logging
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from typing import Any

import pytest

import snakepit
from snakepit.errors import (
    HostToolNotFoundError,
    SessionError,
    SessionExistsError,
    SessionNotFoundError,
    SessionQuotaError,
    SessionStoreClosedError,
)
from snakepit.sessions.tombstones import MOST_TOMBSTONES
from tests.support import LONG, wait_until

from .conftest import MakeStore
from .support import Clock, in_threads


def sweepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "snakepit-sessions"]


# Making and finding


def test_session_is_found_by_its_id(store: snakepit.SessionStore) -> None:
    made = store.create_session("alice", ttl="5m", metadata={"plan": "free"})
    assert (made.id, made.ttl, made.metadata) == ("alice", 300.0, {"plan": "free"})
    assert store.get_session("alice") is made
    assert [store.session_exists(name) for name in ("alice", "bob")] == [True, False]
    store.create_session("bob")
    assert store.list_sessions() == ["alice", "bob"]
    assert "alive" in repr(made)


def test_session_without_an_id_gets_one_of_its_own(store: snakepit.SessionStore) -> None:
    ids = {store.create_session().id for _ in range(20)}
    assert len(ids) == 20
    assert set(store.list_sessions()) == ids


def test_making_a_session_again_is_refused_but_ensuring_it_fetches(
    store: snakepit.SessionStore,
) -> None:
    made = store.ensure_session("alice", metadata={"first": True})
    with pytest.raises(SessionExistsError) as caught:
        store.create_session("alice")
    assert caught.value.details == {"session": "alice"}
    assert isinstance(caught.value, ValueError)
    assert "ensure_session" in str(caught.value)
    assert store.ensure_session("alice", metadata={"first": False}) is made
    assert made.metadata == {"first": True}


def test_unknown_session_is_an_error_that_names_it(store: snakepit.SessionStore) -> None:
    with pytest.raises(SessionNotFoundError, match="'nobody'") as caught:
        store.get_session("nobody")
    assert isinstance(caught.value, LookupError)
    assert pickle.loads(pickle.dumps(caught.value)).details == {"session": "nobody"}
    assert store.delete_session("nobody") is False


def test_deleted_session_is_gone_and_its_handle_says_so(store: snakepit.SessionStore) -> None:
    session = store.create_session("alice")
    session.register_variable("x", int, 1)
    assert store.delete_session("alice") is True
    assert not session.alive and not store.session_exists("alice")
    for use in (
        lambda: session.get_variable("x"),
        lambda: session.set_variable("x", 2),
        lambda: session.store_program("p", 1),
        lambda: session.metadata,
        lambda: session.tools,
    ):
        with pytest.raises(SessionNotFoundError):
            use()
    again = store.create_session("alice")
    assert again.list_variables() == [] and not session.alive


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"id": 7}, TypeError, "must be a string, not 7"),
        ({"id": ""}, ValueError, "must not be empty"),
        ({"ttl": 0}, ValueError, "ttl must be"),
        ({"ttl": "5 parsecs"}, ValueError, "parsecs"),
        ({"metadata": [1]}, TypeError, "must be a dict"),
    ],
)
def test_senseless_arguments_of_a_session_are_refused(
    make_store: MakeStore, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    store = make_store()
    with pytest.raises(error, match=text):
        store.create_session(**arguments)
    assert store.list_sessions() == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_sessions": 0}, ValueError),
        ({"max_sessions": 1.5}, TypeError),
        ({"default_ttl": -1}, ValueError),
        ({"sweep_interval": "soon"}, ValueError),
        ({"backend": "memory"}, ValueError),
        ({"backend": 3}, TypeError),
    ],
)
def test_senseless_options_of_the_store_are_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        snakepit.SessionStore(**options)


def test_session_is_not_pickled_but_says_what_to_do(session: snakepit.Session) -> None:
    with pytest.raises(TypeError, match="pass on its id"):
        pickle.dumps(session)


# Metadata


def test_update_replaces_the_metadata(store: snakepit.SessionStore) -> None:
    session = store.create_session("alice", metadata={"calls": 1})
    copy = session.metadata
    copy["calls"] = 99
    assert store.update_session("alice", lambda old: {**old, "calls": old["calls"] + 1}) is session
    assert session.metadata == {"calls": 2}
    with pytest.raises(TypeError, match="metadata must be a dict, not None"):
        store.update_session("alice", lambda old: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        store.update_session("alice", lambda old: {"calls": 1 / 0})
    assert session.metadata == {"calls": 2}
    with pytest.raises(SessionNotFoundError):
        store.update_session("bob", dict)


def test_no_update_of_metadata_is_lost(store: snakepit.SessionStore) -> None:
    session = store.create_session("alice", metadata={"calls": 0})

    def count(_: int) -> None:
        for _ in range(25):
            store.update_session("alice", lambda old: {"calls": old["calls"] + 1})

    in_threads(8, count)
    assert session.metadata == {"calls": 200}


def test_update_function_may_use_the_store(store: snakepit.SessionStore) -> None:
    store.create_session("alice")

    def nested(old: dict[str, Any]) -> dict[str, Any]:
        if not old:
            # Somebody else is faster: the outer update must run again on what this one wrote.
            store.update_session("alice", lambda _: {"inner": 1})
        return {**old, "outer": 1}

    store.update_session("alice", nested)
    assert store.get_session("alice").metadata == {"inner": 1, "outer": 1}


# Time


def test_session_expires_after_its_time_to_live(store: snakepit.SessionStore, clock: Clock) -> None:
    session = store.create_session("alice", ttl=10)
    clock.now += 9.9
    assert store.session_exists("alice")
    clock.now += 0.1
    assert not store.session_exists("alice") and not session.alive
    assert store.list_sessions() == [] and store.get_stats()["sessions"] == 0
    for use in (
        lambda: store.get_session("alice"),
        lambda: session.list_variables(),
        lambda: session.metadata,
        lambda: store.update_session("alice", dict),
    ):
        with pytest.raises(SessionNotFoundError):
            use()
    assert store.delete_session("alice") is False
    assert store.create_session("alice") is not session


def test_session_that_expired_is_told_from_one_that_never_was(
    store: snakepit.SessionStore, clock: Clock
) -> None:
    session = store.create_session("alice", ttl=10)
    clock.now += 11
    for use in (lambda: store.get_session("alice"), lambda: session.metadata):
        with pytest.raises(SessionNotFoundError, match="'alice': it has expired: ") as caught:
            use()
        assert caught.value.details == {"session": "alice", "expired": True}
    store.cleanup_expired_sessions()
    clock.now += 2.5
    removed = r"'alice': one has expired \(not used for 10 s, .* removed 2\.5 s ago\)"
    for use in (lambda: store.get_session("alice"), lambda: session.metadata):
        with pytest.raises(SessionNotFoundError, match=removed) as caught:
            use()
        assert caught.value.details == {"session": "alice", "expired": True}
    store.create_session("bob", ttl=10)
    store.delete_session("bob")
    with pytest.raises(SessionNotFoundError, match="never made, was deleted") as caught:
        store.get_session("bob")
    assert caught.value.details == {"session": "bob"}


@pytest.mark.parametrize("swept", [False, True])
def test_log_tells_when_a_session_that_expired_begins_anew(
    store: snakepit.SessionStore, clock: Clock, caplog: pytest.LogCaptureFixture, swept: bool
) -> None:
    caplog.set_level("INFO", "snakepit")
    store.ensure_session("alice", ttl=10).store_program("p", 1)
    clock.now += 11
    if swept:
        store.cleanup_expired_sessions()
        clock.now += 1
    assert store.ensure_session("alice").list_programs() == []
    store.ensure_session("alice")
    store.delete_session("alice")
    store.ensure_session("alice")
    assert caplog.messages == [
        "session 'alice' begins anew: the one before has expired (not used for 10 s, its time to "
        f"live; removed {float(swept)} s ago)"
    ]


def test_only_the_last_that_expired_are_remembered(make_store: MakeStore, clock: Clock) -> None:
    store = make_store()
    for number in range(MOST_TOMBSTONES + 1):
        store.create_session(f"s{number}", ttl=10)
    clock.now += 10
    assert store.cleanup_expired_sessions() == MOST_TOMBSTONES + 1
    assert len(store._tombstones) == MOST_TOMBSTONES
    for name, words in (
        ("s0", "never made"),
        ("s1", "one has"),
        (f"s{MOST_TOMBSTONES}", "one has"),
    ):
        with pytest.raises(SessionNotFoundError, match=words):
            store.get_session(name)
    # One that expires again is not the oldest any more.
    store.create_session("s1", ttl=10)
    store.create_session("new", ttl=10)
    clock.now += 10
    store.cleanup_expired_sessions()
    for name, words in (("s2", "never made"), ("s1", "one has"), ("new", "one has")):
        with pytest.raises(SessionNotFoundError, match=words):
            store.get_session(name)


def test_fetching_and_using_a_session_begins_its_time_anew(
    store: snakepit.SessionStore, clock: Clock
) -> None:
    session = store.create_session("alice", ttl=10)
    session.register_variable("x", int, 1)
    uses = (
        lambda: store.get_session("alice"),
        lambda: store.ensure_session("alice"),
        lambda: session.get_variable("x"),
        lambda: session.metadata,
        lambda: session.tools,
    )
    for use in uses:
        clock.now += 9
        use()
    # To look whether it is there is no use.
    clock.now += 9
    assert store.session_exists("alice") and session.alive
    clock.now += 1
    assert not session.alive


def test_cleanup_ends_exactly_the_expired(store: snakepit.SessionStore, clock: Clock) -> None:
    for number in range(6):
        store.create_session(f"s{number}", ttl=10 + number)
    store.create_session("long", ttl=100)
    assert store.cleanup_expired_sessions() == 0
    clock.now += 9
    store.get_session("s1")
    clock.now += 3.5
    # 12.5 s have passed; s1 was used 3.5 s ago.
    assert store.cleanup_expired_sessions() == 2
    assert store.list_sessions() == ["s1", "s3", "s4", "s5", "long"]
    assert store.cleanup_expired_sessions() == 0
    stats = store.get_stats()
    assert (stats["created"], stats["expired"], stats["deleted"]) == (7, 2, 0)


def test_sweeper_ends_expired_sessions(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(sweep_interval=0.01, default_ttl=10)
    ended = threading.Event()
    store.on_end(lambda _: ended.set())
    store.create_session("alice")
    clock.now += 20
    assert ended.wait(LONG)
    assert store.get_stats()["expired"] == 1


def test_sweeper_is_there_from_the_first_session_to_the_end(make_store: MakeStore) -> None:
    store = make_store()
    assert sweepers() == []
    store.create_session()
    store.create_session()
    (thread,) = sweepers()
    assert thread.daemon
    store.close()
    assert not thread.is_alive()


def test_store_that_nobody_holds_is_collected_with_its_thread() -> None:
    store = snakepit.SessionStore()
    store.create_session("alice").register_variable("x", int, 1)
    reference = weakref.ref(store)
    (thread,) = sweepers()
    del store
    gc.collect()
    assert reference() is None
    thread.join(LONG)
    assert not thread.is_alive()


def test_sweeper_outlives_a_failing_hook(
    make_store: MakeStore, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(sweep_interval=0.01, default_ttl=10)
    seen: list[str] = []

    def fail(session: str) -> None:
        raise RuntimeError("a hook's own")

    store.on_end(fail)
    store.on_end(seen.append)
    for name in ("alice", "bob"):
        store.create_session(name)
        clock.now += 20
        wait_until(partial(seen.__contains__, name))
    assert "a hook's own" in caplog.text


def test_interpreter_ends_with_a_store_left_open() -> None:
    script = "import snakepit; store = snakepit.SessionStore(); store.create_session()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=LONG)


# The quota


def test_ten_thousand_sessions_and_not_one_more(make_store: MakeStore, clock: Clock) -> None:
    store = make_store()
    for number in range(10_000):
        store.create_session(f"s{number}")
    with pytest.raises(SessionQuotaError, match="10000 sessions") as caught:
        store.create_session("one more")
    assert caught.value.details == {"session": "one more", "max_sessions": 10_000}
    assert isinstance(caught.value, SessionError)
    # One that exists can always be fetched again, and made again only in the sense of ensuring.
    assert store.ensure_session("s77") is store.get_session("s77")
    with pytest.raises(SessionExistsError):
        store.create_session("s77")
    with pytest.raises(SessionQuotaError):
        store.ensure_session("one more")
    store.delete_session("s77")
    store.create_session("one more")
    with pytest.raises(SessionQuotaError):
        store.create_session("two more")
    # The expired make room by themselves.
    clock.now += 4000
    store.create_session("two more")
    assert store.list_sessions() == ["two more"]
    assert store.get_stats()["expired"] == 10_000


def test_threads_together_stay_within_the_quota(make_store: MakeStore) -> None:
    store = make_store(max_sessions=100)

    def make(number: int) -> int:
        made = 0
        for turn in range(50):
            try:
                store.create_session(f"{number}-{turn}")
                made += 1
            except SessionQuotaError:
                pass
        return made

    assert sum(in_threads(8, make)) == 100
    assert len(store.list_sessions()) == 100


def test_log_warns_at_80_and_at_100_percent(
    make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "snakepit")
    store = make_store(max_sessions=10)

    def warnings() -> list[str]:
        texts = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return texts

    for number in range(7):
        store.create_session(f"s{number}")
    assert warnings() == []
    store.create_session("s7")
    (near,) = warnings()
    assert "nearly full" in near and "8 sessions of 10" in near
    store.create_session("s8")
    assert warnings() == []
    store.create_session("s9")
    (full,) = warnings()
    assert "is full: it holds 10" in full
    # A few more or less are no news; many are.
    store.delete_session("s9")
    store.create_session("s9")
    assert warnings() == []
    for number in range(4):
        store.delete_session(f"s{number}")
    for number in range(4):
        store.create_session(f"s{number}")
    assert len(warnings()) == 2


# Ends


def test_hooks_hear_of_every_end_once(store: snakepit.SessionStore, clock: Clock) -> None:
    ended: list[str] = []
    forget = store.on_end(ended.append)
    for name in ("deleted", "expired", "replaced"):
        store.create_session(name, ttl=10)
    store.delete_session("deleted")
    assert ended == ["deleted"]
    clock.now += 20
    store.create_session("replaced")
    assert sorted(ended) == ["deleted", "expired", "replaced"]
    forget()
    store.delete_session("replaced")
    assert len(ended) == 3
    with pytest.raises(TypeError, match="callable"):
        store.on_end("nothing")  # type: ignore[arg-type]


def test_hook_may_use_the_store(store: snakepit.SessionStore) -> None:
    store.create_session("alice")
    store.on_end(lambda name: store.ensure_session(f"{name}'s heir"))
    store.delete_session("alice")
    assert store.list_sessions() == ["alice's heir"]


def test_closed_store_refuses_everything(store: snakepit.SessionStore) -> None:
    session = store.create_session("alice")
    session.register_variable("x", int, 1)
    iterator = session.watch_variable("x")
    ended: list[str] = []
    store.on_end(ended.append)
    store.close()
    store.close()
    for use in (
        lambda: store.create_session("bob"),
        lambda: store.get_session("alice"),
        lambda: store.ensure_session("alice"),
        lambda: store.delete_session("alice"),
        lambda: store.list_sessions(),
        lambda: store.get_stats(),
        lambda: store.cleanup_expired_sessions(),
        lambda: store.get_global_program("p"),
        lambda: session.get_variable("x"),
    ):
        with pytest.raises(SessionStoreClosedError):
            use()
    assert list(iterator) == [] and ended == [] and "closed" in repr(store)


def test_store_is_a_context_manager() -> None:
    with snakepit.SessionStore() as store:
        store.create_session()
    assert sweepers() == []


def test_threads_make_use_and_delete_the_same_sessions(store: snakepit.SessionStore) -> None:
    def work(number: int) -> int:
        found = 0
        for turn in range(40):
            name = f"s{turn % 5}"
            session = store.ensure_session(name)
            try:
                session.store_program("p", number)
                found += session.get_program("p") in range(8)
            except SessionNotFoundError:
                pass  # another thread has deleted it in between
            if turn % 3 == number % 3:
                store.delete_session(name)
        return found

    assert sum(in_threads(8, work)) > 0
    stats = store.get_stats()
    assert stats["created"] == stats["deleted"] + stats["sessions"]


def test_finalisers_and_signal_handlers_may_use_the_store_in_its_midst(
    make_store: MakeStore,
) -> None:
    store = make_store(clock=time.monotonic)
    used = {"finaliser": 0, "handler": 0}
    turns = itertools.count()

    def use(who: str) -> None:
        # A name of its own: another of its kind may come on top of this one.
        name = f"{who} {next(turns)}"
        store.ensure_session(name).register_variable("x", int, 1)
        store.get_session(name)
        store.delete_session(name)
        used[who] += 1

    class Circle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            use("finaliser")

    before = signal.signal(signal.SIGVTALRM, lambda *_: use("handler"))
    threshold = gc.get_threshold()
    gc.set_threshold(1)  # a collection may begin wherever something is allocated
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        number = 0
        while min(used.values()) < 50:
            number += 1
            Circle()
            store.create_session(f"s{number}")
            store.get_session(f"s{number}").store_program("p", number)
            store.cleanup_expired_sessions()
            assert store.delete_session(f"s{number}")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        gc.set_threshold(*threshold)
    gc.collect()
    assert store.list_sessions() == []


# Host tools


def test_tools_belong_to_their_session_and_end_with_it(store: snakepit.SessionStore) -> None:
    alice, bob = store.create_session("alice"), store.create_session("bob")
    tool = alice.register_tool("add", lambda a, b: a + b, "adds", {"a": "int", "b": "int"})
    hidden = alice.register_tool("secret", str, exposed=False)
    assert alice.tools == {"add": tool, "secret": hidden}
    assert (tool.exposed, hidden.exposed, tool.description) == (True, False, "adds")
    assert alice.call_tool("add", 1, b=2) == 3 and tool(3, 4) == 7
    assert bob.tools == {}
    with pytest.raises(HostToolNotFoundError, match="'sub'; it has add, secret") as caught:
        alice.call_tool("sub")
    assert caught.value.details["tools"] == ["add", "secret"]
    alice.unregister_tool("add")
    with pytest.raises(LookupError):
        alice.unregister_tool("add")
    with pytest.raises(TypeError, match="'bad' must be callable"):
        alice.register_tool("bad", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not empty"):
        alice.register_tool("", str)
    store.delete_session("alice")
    with pytest.raises(SessionNotFoundError):
        alice.call_tool("secret")


# Weight


def test_store_costs_neither_numpy_nor_sqlite_to_import() -> None:
    script = (
        "import sys; import snakepit.sessions.store as s\n"
        "store = s.SessionStore(); session = store.create_session()\n"
        "session.register_variable('x', 'float', 1.0)\n"
        "print([m for m in ('numpy', 'sqlite3', 'cloudpickle', 'msgpack') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=LONG, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
