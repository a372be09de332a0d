"""Watches see every change in its order, and end with what they watch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from typing import Any

import pytest

import snakepit
from snakepit.errors import VariableError
from snakepit.sessions import watches
from tests.support import LONG, wait_until

from .support import Clock, in_threads

Change = tuple[Any, int]


def collected(iterator: watches.IteratorWatch) -> tuple[list[Change], threading.Thread]:
    """Read an iterator to its end in a thread, which has begun to wait when this returns."""
    seen: list[Change] = []
    thread = threading.Thread(target=lambda: seen.extend(iterator))
    thread.start()
    return seen, thread


# Iterators


def test_iterator_yields_each_change_until_the_session_ends(
    store: snakepit.SessionStore, session: snakepit.Session
) -> None:
    session.register_variable("x", "integer", 1)
    iterator = session.watch_variable("x")
    session.set_variable("x", 2)
    seen, thread = collected(iterator)
    session.update_variable("x", lambda value: value + 1)
    session.set_variables({"x": 4})
    session.compare_and_set_variable("x", 4, 5)
    with pytest.raises(VariableError):
        session.set_variable("x", "no change")
    store.delete_session(session.id)
    thread.join(LONG)
    assert seen == [(2, 2), (3, 3), (4, 4), (5, 5)]
    assert iterator.stopped and list(iterator) == []


@pytest.mark.parametrize("end", ["close", "stop", "variable", "store", "expiry", "with"])
def test_waiting_reader_is_woken_by_every_kind_of_end(
    end: str, store: snakepit.SessionStore, session: snakepit.Session, clock: Clock
) -> None:
    session.register_variable("x", "integer", 1)
    iterator = session.watch_variable("x")
    seen, thread = collected(iterator)

    def expire() -> None:
        clock.now += 4000
        store.cleanup_expired_sessions()

    def leave() -> None:
        with iterator:
            pass

    ends: dict[str, Callable[[], object]] = {
        "close": iterator.close,
        "stop": iterator.stop,
        "variable": lambda: session.delete_variable("x"),
        "store": store.close,
        "expiry": expire,
        "with": leave,
    }
    ends[end]()
    thread.join(LONG)
    assert not thread.is_alive() and seen == []


def test_slow_reader_misses_only_the_oldest(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    iterator = session.watch_variable("x")
    for number in range(1, watches.MOST_WAITING + 11):
        session.set_variable("x", number)
    assert next(iterator) == (11, 12)
    session.delete_variable("x")
    assert len(list(iterator)) == watches.MOST_WAITING - 1


def test_next_with_a_limit_gives_up(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    iterator = session.watch_variable("x")
    with pytest.raises(TimeoutError, match="'x' did not change"):
        iterator.next(timeout=0.01)
    session.set_variable("x", 1)
    assert iterator.next(timeout=LONG) == (1, 2)


def test_forgotten_iterator_is_forgotten_by_the_session(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    session.watch_variable("x")
    kept = session.watch_variable("x")
    session.set_variable("x", 1)
    contents = session._contents
    assert contents is not None
    assert [reference() for reference in contents.variables._watches["x"]] == [kept]


def test_readers_share_the_changes(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    iterator = session.watch_variable("x")
    readers = [collected(iterator) for _ in range(4)]

    def write(_: int) -> None:
        for _ in range(50):
            session.update_variable("x", lambda value: value + 1)

    in_threads(4, write)
    wait_until(lambda: sum(len(seen) for seen, _ in readers) >= 0 and not iterator._waiting)
    session.delete_variable("x")
    for _, thread in readers:
        thread.join(LONG)
    assert sorted(change for seen, _ in readers for change in seen) == [
        (number, number + 1) for number in range(1, 201)
    ]


# Callbacks


def test_callback_hears_of_each_change_in_order(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    heard: Queue[Change] = Queue()
    handle = session.watch_variable("x", lambda value, version: heard.put((value, version)))

    def write(_: int) -> None:
        for _ in range(25):
            session.update_variable("x", lambda value: value + 1)

    in_threads(8, write)
    assert [heard.get(timeout=LONG) for _ in range(200)] == [
        (number, number + 1) for number in range(1, 201)
    ]
    handle.stop()
    session.set_variable("x", 0)
    other: Queue[Change] = Queue()
    session.watch_variable("x", lambda value, version: other.put((value, version)))
    session.set_variable("x", 1)
    other.get(timeout=LONG)
    assert heard.empty() and handle.stopped and "stopped" in repr(handle)


def test_callback_runs_in_another_thread_and_holds_no_lock(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    session.register_variable("double", "integer", 0)
    threads: Queue[threading.Thread] = Queue()

    def follow(value: int, _: int) -> None:
        # From a third thread, which would wait for a lock that this one held.
        in_threads(1, lambda _: session.set_variable("double", 2 * value))
        threads.put(threading.current_thread())

    session.watch_variable("x", follow)
    session.set_variable("x", 21)
    assert threads.get(timeout=LONG) is not threading.current_thread()
    assert session.get_variable("double") == 42


def test_callback_that_raises_is_logged_and_detached(
    session: snakepit.Session, caplog: pytest.LogCaptureFixture
) -> None:
    session.register_variable("x", "integer", 0)
    heard: Queue[int] = Queue()

    def fail(value: int, _: int) -> None:
        heard.put(-1)
        raise SystemExit("a callback's own")

    handle = session.watch_variable("x", fail)
    session.watch_variable("x", lambda value, _: heard.put(value))
    session.set_variable("x", 1)
    assert {heard.get(timeout=LONG), heard.get(timeout=LONG)} == {-1, 1}
    wait_until(lambda: handle.stopped and "a callback's own" in caplog.text)
    session.set_variable("x", 2)
    assert heard.get(timeout=LONG) == 2 and heard.empty()
    assert "watches variable 'x'" in caplog.text


def test_callbacks_stop_themselves_and_set_what_they_watch(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    done = threading.Event()
    handles: list[watches.CallbackWatch] = []

    def count_up(value: int, _: int) -> None:
        if value < 5:
            session.set_variable("x", value + 1)
        else:
            handles[0].stop()
            done.set()

    handles.append(session.watch_variable("x", count_up))
    session.set_variable("x", 1)
    assert done.wait(LONG)
    session.set_variable("x", 1)
    assert session.get_variable("x") == 1


def test_no_thread_of_callbacks_stays(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    heard = threading.Event()
    session.watch_variable("x", lambda *_: heard.set())
    session.set_variable("x", 1)
    assert heard.wait(LONG)
    wait_until(
        lambda: not any(thread.name == "snakepit-watches" for thread in threading.enumerate())
    )
    heard.clear()
    session.set_variable("x", 2)
    assert heard.wait(LONG)


def test_what_is_no_callback_is_refused(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)
    with pytest.raises(TypeError, match="callable"):
        session.watch_variable("x", "nothing")  # type: ignore[call-overload]
