"""Threads of the caller's own process: who takes a call, and what becomes of what it hands over."""

from __future__ import annotations

import random
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

import snakepit
from tests.sessions.support import in_threads
from tests.support import LONG, new_executor, wait_until


@pytest.fixture
def executor() -> Iterator[snakepit.Executor]:
    with new_executor("local", 2) as executor:
        yield executor


@pytest.mark.parametrize("pause", [0.0, 0.0003, 0.003], ids=["searching", "dozing", "sleeping"])
def test_no_call_waits_for_one_that_takes_long(executor: snakepit.Executor, pause: float) -> None:
    """Whatever the thread that is left does when the call comes, and however short calls were."""
    for _ in range(50):
        for future in [executor.submit(int) for _ in range(30)]:
            future.result(LONG)
        time.sleep(pause)
        door = threading.Event()
        held = executor.submit(door.wait, LONG)
        others = [executor.submit(int) for _ in range(3)]
        assert [other.result(LONG) for other in others] == [0, 0, 0]
        door.set()
        assert held.result(LONG)


def test_bursts_of_several_callers_all_end(executor: snakepit.Executor) -> None:
    def call(_: int) -> None:
        chance = random.Random(threading.get_ident())
        for _ in range(150):
            futures = [executor.submit(pow, 2, 3) for _ in range(chance.randrange(1, 20))]
            assert {future.result(LONG) for future in futures} == {8}
            time.sleep(chance.choice((0, 0, 0.0001, 0.003)))

    in_threads(4, call)


def test_calls_are_run_however_soon_the_pool_is_closed() -> None:
    for _ in range(300):
        with new_executor("local", 1) as executor:
            future = executor.submit(pow, 2, 3)
        assert future.result(0) == 8


def test_initializer_may_call_its_pool() -> None:
    found: list[int] = []

    def initialize() -> None:
        found.append(snakepit.current_pool().submit(pow, 2, 3).result(LONG))

    with new_executor("local", 1, initializer=initialize) as executor:
        assert executor.submit(pow, 2, 4).result(LONG) == 16
    assert found == [8]


def test_interrupt_strikes_in_the_call_alone() -> None:
    """Not on the way to it, where it would end the thread and leave the call to nobody."""
    with new_executor("local", 1, stop_grace={"flag": 0}) as executor:
        executor.submit(int).result(LONG)
        threads = {thread for thread in threading.enumerate() if thread.name.endswith("-0")}
        for turn in range(300):
            future = executor.submit(sum, range(turn))
            future.stop()
            assert not wait([future], LONG).not_done
        assert executor.submit(int).result(LONG) == 0
        assert all(thread.is_alive() for thread in threads)


def test_references_are_kept_whoever_drops_them(executor: snakepit.Executor) -> None:
    """What one thread makes another drops; neither a reference too many stays nor one too few."""
    key, value, given = object(), object(), object()

    def swap(got: object, *, named: object) -> object:
        return value if got is key and named is given else None

    def call(_: int) -> None:
        futures = [executor.submit(swap, key, named=given) for _ in range(500)]
        assert {id(future.result(LONG)) for future in futures} == {id(value)}

    held = (swap, key, value, given)
    before = [sys.getrefcount(each) for each in held]
    in_threads(3, call)
    # A worker's thread may be about to leave its last call.
    wait_until(lambda: [sys.getrefcount(each) for each in held] == before, "references to go")


def test_objects_of_a_call_die_with_it(executor: snakepit.Executor) -> None:
    """Those that the caller has made, and those that the worker's thread has."""

    class Thing:
        pass

    seen: list[weakref.ref[Thing]] = []

    def turn(thing: Thing, *, other: Thing) -> Thing:
        made = Thing()
        seen.extend(map(weakref.ref, (thing, other, made)))
        return made

    for _ in range(200):
        executor.submit(turn, Thing(), other=Thing()).result(LONG)
    wait_until(lambda: not any(each() for each in seen), "things to die")
    assert len(seen) == 600
