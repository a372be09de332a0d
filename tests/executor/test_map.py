"""Executor.map."""

from __future__ import annotations

import contextlib
import itertools
import operator
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import snakepit
from snakepit.errors import EncodeError
from tests.support import LONG, need, new_executor, wait_until

from . import tasks


class Source:
    """An iterator that knows how many items were taken from it."""

    def __init__(self, count: int | None = None) -> None:
        self.numbers = itertools.count() if count is None else iter(range(count))
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self.numbers)
        self.taken += 1
        return number


@pytest.mark.all_kinds
def test_results_come_in_the_order_of_the_items(executor: snakepit.Executor) -> None:
    assert list(executor.map(pow, range(50), range(50))) == [n**n for n in range(50)]


@pytest.mark.parametrize("chunksize", [1, 3, 6, 40, 41, 1000])
def test_chunk_size_changes_no_result(executor: snakepit.Executor, chunksize: int) -> None:
    expected = [n * n for n in range(40)]
    assert list(executor.map(tasks.square, range(40), chunksize=chunksize)) == expected


def test_a_hundred_thousand_items(executor: snakepit.Executor) -> None:
    count = 100_000
    assert sum(executor.map(tasks.square, range(count))) == sum(n * n for n in range(count))


def test_large_items(executor: snakepit.Executor) -> None:
    blobs = [bytes([n]) * 100_000 for n in range(30)]
    assert list(executor.map(tasks.identity, blobs)) == blobs


def test_slow_tasks_keep_their_order(executor: snakepit.Executor) -> None:
    pauses = [0.05, 0, 0.03, 0, 0.01, 0]
    got = executor.map(tasks.sleep_and_return, pauses, range(6), chunksize=1)
    assert list(got) == list(range(6))


def test_unordered_gives_every_result_once(executor: snakepit.Executor) -> None:
    got = executor.map(tasks.square, range(500), ordered=False)
    assert sorted(got) == sorted(n * n for n in range(500))


def test_unordered_does_not_wait_for_the_slow_item(executor: snakepit.Executor, gate: Any) -> None:
    started, release = gate("started"), gate("release")
    opened = gate("opened")
    opened.open()
    got = executor.map(
        tasks.hold,
        [started, opened, opened, opened],
        [release, opened, opened, opened],
        ["slow", 1, 2, 3],
        ordered=False,
        chunksize=1,
    )
    assert sorted(next(got) for _ in range(3)) == [1, 2, 3]
    release.open()
    assert list(got) == ["slow"]


def test_no_iterable_gives_nothing(executor: snakepit.Executor) -> None:
    assert list(executor.map(tasks.capture)) == []


def test_empty_iterable_gives_nothing(executor: snakepit.Executor) -> None:
    assert list(executor.map(tasks.square, [])) == []
    assert list(executor.map(tasks.add, [1, 2], [])) == []


def test_the_shortest_iterable_ends_it(executor: snakepit.Executor) -> None:
    assert list(executor.map(operator.add, range(10), range(3))) == [0, 2, 4]
    assert list(executor.map(operator.add, itertools.count(), range(3))) == [0, 2, 4]


@pytest.mark.parametrize("chunksize", [None, 1, 2, 10])
def test_an_exception_is_raised_at_its_place(
    executor: snakepit.Executor, chunksize: int | None
) -> None:
    got = executor.map(tasks.fail_when, range(6), itertools.repeat(1), chunksize=1)
    assert next(got) == 0
    with pytest.raises(ValueError, match="1"):
        next(got)
    # As after any exception that leaves a generator, nothing comes after it.
    assert list(got) == []
    got = executor.map(tasks.fail_when, range(60), itertools.repeat(31), chunksize=chunksize)
    with pytest.raises(ValueError, match="31"):
        list(got)


def test_the_pool_goes_on_after_a_failed_map(executor: snakepit.Executor) -> None:
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            list(executor.map(divmod, [1, 1, 1], [1, 0, 1]))
    assert list(executor.map(tasks.square, range(3))) == [0, 1, 4]


def test_stop_iteration_of_a_task_does_not_end_the_map_silently(
    executor: snakepit.Executor,
) -> None:
    with pytest.raises((StopIteration, RuntimeError)):
        list(executor.map(tasks.fail, [StopIteration("from the task")], chunksize=1))


def test_timeout_counts_from_the_call(executor: snakepit.Executor, gate: Any) -> None:
    opened, shut, started = gate("opened"), gate("shut"), gate("started")
    opened.open()
    got = executor.map(
        tasks.hold, [opened, opened, started], [opened, opened, shut], timeout=1.0, chunksize=1
    )
    taken = []
    with pytest.raises(TimeoutError):
        for value in got:
            taken.append(value)
    assert len(taken) <= 2
    shut.open()


def test_timeout_that_suffices(executor: snakepit.Executor) -> None:
    assert list(executor.map(tasks.square, range(10), timeout=60)) == [n * n for n in range(10)]


@pytest.mark.parametrize("chunksize", [0, -1])
def test_refuses_a_chunk_size_below_one(executor: snakepit.Executor, chunksize: int) -> None:
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(tasks.square, range(3), chunksize=chunksize)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), ("3", TypeError)])
def test_refuses_a_wrong_buffer_size(
    executor: snakepit.Executor, size: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="buffersize"):
        executor.map(tasks.square, range(3), buffersize=size)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_buffer_size_changes_no_result(executor: snakepit.Executor, size: int) -> None:
    got = executor.map(tasks.square, range(100), buffersize=size)
    assert list(got) == [n * n for n in range(100)]


def test_the_buffer_bounds_how_far_the_items_are_read_ahead(executor: snakepit.Executor) -> None:
    source = Source()
    got = executor.map(tasks.square, source, buffersize=4, chunksize=1)
    for consumed in range(1, 100):
        assert next(got) == (consumed - 1) ** 2
        assert source.taken <= consumed + 4
    got.close()  # type: ignore[attr-defined]


def test_items_are_read_lazily_by_default(executor: snakepit.Executor) -> None:
    source = Source(1_000_000)
    got = executor.map(tasks.square, source)
    assert [next(got) for _ in range(10)] == [n * n for n in range(10)]
    assert source.taken < 500_000
    got.close()  # type: ignore[attr-defined]


def test_an_endless_source_can_be_left(executor: snakepit.Executor) -> None:
    choices: list[dict[str, Any]] = [{}, {"buffersize": 3}, {"chunksize": 5}]
    for options in choices:
        got = executor.map(tasks.square, itertools.count(), **options)
        assert [next(got) for _ in range(20)] == [n * n for n in range(20)]
        got.close()  # type: ignore[attr-defined]
    executor.shutdown(wait=True)


def test_an_endless_source_that_is_dropped_lets_the_executor_end(
    executor: snakepit.Executor,
) -> None:
    got = executor.map(tasks.square, itertools.count(), buffersize=3)
    assert next(got) == 0
    del got
    executor.shutdown(wait=True)


@pytest.mark.parametrize("count", [10, 3000])
def test_runs_although_nobody_reads_the_results(
    executor: snakepit.Executor, log: tasks.Log, count: int
) -> None:
    executor.map(tasks.record, itertools.repeat(log), range(count))
    executor.shutdown(wait=True)
    assert sorted(map(int, log.lines())) == list(range(count))


def test_runs_to_the_end_although_the_iterator_is_dropped(
    executor: snakepit.Executor, log: tasks.Log
) -> None:
    executor.map(tasks.record, itertools.repeat(log), range(500), chunksize=1)
    wait_until(lambda: len(log.lines()) == 500, "the rest of a map whose iterator was dropped")


def test_results_can_be_read_after_the_shutdown(executor: snakepit.Executor) -> None:
    got = executor.map(tasks.square, range(3000))
    executor.shutdown(wait=True)
    assert list(got) == [n * n for n in range(3000)]


def test_an_error_of_the_source_reaches_the_caller(executor: snakepit.Executor) -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise LookupError("the source is broken")

    with pytest.raises(LookupError, match="the source is broken"):
        list(executor.map(tasks.square, source()))
    assert executor.submit(tasks.square, 3).result(60) == 9


def test_what_is_no_iterable_is_a_type_error(executor: snakepit.Executor) -> None:
    with pytest.raises(TypeError):
        list(executor.map(tasks.square, 5))  # type: ignore[arg-type]


@pytest.mark.processes
def test_an_item_that_cannot_be_pickled_fails_at_its_place(executor: snakepit.Executor) -> None:
    got = executor.map(tasks.identity, [1, threading.Lock(), 3], chunksize=1)
    with pytest.raises((TypeError, snakepit.errors.EncodeError)):
        list(got)
    assert list(executor.map(tasks.square, [4])) == [16]


def test_several_maps_are_read_in_turn(executor: snakepit.Executor) -> None:
    maps = [executor.map(tasks.add, range(300), itertools.repeat(k)) for k in range(4)]
    for number, row in enumerate(zip(*maps, strict=True)):
        assert row == tuple(number + k for k in range(4))


def test_results_may_be_read_in_another_thread(executor: snakepit.Executor) -> None:
    got = executor.map(tasks.square, range(1000))
    answer: list[list[int]] = []
    thread = threading.Thread(target=lambda: answer.append(list(got)))
    thread.start()
    thread.join()
    assert answer == [[n * n for n in range(1000)]]


def test_lambdas_and_closures(executor: snakepit.Executor) -> None:
    offset = 100
    assert list(executor.map(lambda n: n + offset, range(5))) == list(range(100, 105))


def test_progress_is_shown_and_changes_no_result(
    executor: snakepit.Executor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tqdm = need("tqdm", "tqdm shows the progress")
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # no thread that outlives the bar
    assert list(executor.map(tasks.square, range(200), progress=True)) == [
        n * n for n in range(200)
    ]
    assert "200" in capsys.readouterr().err


def test_map_after_shutdown_is_refused(executor: snakepit.Executor) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError):
        list(executor.map(tasks.square, range(3)))


class Blocking:
    """An iterator that gives a few items and then blocks until it is let go."""

    def __init__(self, items: int) -> None:
        self.left = items
        self.blocks, self.release = threading.Event(), threading.Event()

    def __iter__(self) -> Blocking:
        return self

    def __next__(self) -> int:
        if self.left:
            self.left -= 1
            return self.left
        self.blocks.set()
        self.release.wait(LONG)
        raise StopIteration


def test_force_does_not_wait_for_a_source_that_blocks(kind: str) -> None:
    executor = new_executor(kind)
    source = Blocking(3)

    def consume() -> None:
        with contextlib.suppress(RuntimeError, CancelledError, snakepit.errors.SnakepitError):
            list(executor.map(tasks.square, source, chunksize=1))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    try:
        assert source.blocks.wait(LONG)
        executor.kill_workers()
        executor.shutdown()
    finally:
        source.release.set()
        consumer.join(LONG)


def test_a_block_that_fails_does_not_read_an_endless_source(kind: str) -> None:
    source = Source()
    with pytest.raises(ZeroDivisionError), new_executor(kind) as executor:
        unread = executor.map(tasks.square, source)
        raise ZeroDivisionError
    assert source.taken < 100  # what its buffer holds
    del unread


def test_maps_may_begin_while_the_executor_is_shut_down(kind: str) -> None:
    for _ in range(5):
        executor = new_executor(kind)
        executor.submit(tasks.square, 1).result(LONG)
        stop = threading.Event()

        def begin(executor: snakepit.Executor = executor, stop: threading.Event = stop) -> None:
            kept = []
            while not stop.is_set():
                try:
                    kept.append(executor.map(tasks.square, range(2)))
                except RuntimeError:
                    return

        threads = [threading.Thread(target=begin) for _ in range(2)]
        for thread in threads:
            thread.start()
        executor.shutdown()
        stop.set()
        for thread in threads:
            thread.join(LONG)


def test_source_longer_than_a_length_can_say(executor: snakepit.Executor) -> None:
    assert list(executor.map(pow, range(3), range(10**30))) == [1, 1, 4]


@pytest.mark.parametrize("timeout", ["60s", "1m", 60, 60.0])
def test_timeout_may_be_text(executor: snakepit.Executor, timeout: float | str) -> None:
    assert list(executor.map(tasks.square, [3], timeout=timeout)) == [9]


@pytest.mark.parametrize(("timeout", "error"), [("5", ValueError), ([5], TypeError)])
def test_timeout_that_makes_no_sense(executor: snakepit.Executor, timeout: Any, error: Any) -> None:
    with pytest.raises(error, match="timeout"):
        executor.map(tasks.square, [3], timeout=timeout)


@pytest.mark.processes
@pytest.mark.parametrize("chunksize", [1, 4])
def test_item_that_cannot_be_pickled_is_named(executor: snakepit.Executor, chunksize: int) -> None:
    lock = threading.Lock()
    place = r" \(3 of 4 that travel together\)" if chunksize == 4 else ""
    message = rf"cannot pickle the argument <unlocked _thread.lock object .*> of map{place}: "
    with pytest.raises(EncodeError, match=message):
        list(executor.map(tasks.identity, [1, 2, lock, 4], chunksize=chunksize))
    with pytest.raises(EncodeError, match=message.replace("argument", "result")):
        list(executor.map(make_lock_of_two, range(4), chunksize=chunksize))


def make_lock_of_two(number: int) -> Any:
    return tasks.make_lock() if number == 2 else number
