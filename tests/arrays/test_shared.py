"""Arrays in shared memory, which travel by reference."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import threading
from typing import Any

import numpy as np
import psutil
import pytest

import snakepit
from tests.conftest import Make
from tests.executor import tasks
from tests.support import results

from .tasks import fill, forget, keep, kept_total, total

pytestmark = pytest.mark.processes


def test_share_gives_an_equal_array_of_its_own() -> None:
    source = np.arange(10_000.0).reshape(100, 100)
    shared = snakepit.share(source)
    assert isinstance(shared, np.ndarray)
    assert (shared.dtype, shared.shape) == (source.dtype, source.shape)
    assert np.array_equal(shared, source)
    source[0, 0] = -1
    assert shared[0, 0] == 0


def test_shared_array_has_the_shape_and_type_asked_for() -> None:
    array = snakepit.shared_array((3, 4), "i2")
    assert (array.shape, array.dtype) == ((3, 4), np.dtype("i2"))
    array[...] = 5
    assert array.sum() == 60
    assert snakepit.shared_array(7, float).shape == (7,)


@pytest.mark.parametrize("size", [1, 10, 5_000, 1_000_000])
@pytest.mark.all_kinds
def test_worker_sees_later_writes_of_the_caller(executor: snakepit.Executor, size: int) -> None:
    shared = snakepit.share(np.zeros(size))
    for number in range(5):
        shared[...] = number
        assert executor.submit(total, shared).result(60) == number * size


def test_running_task_sees_a_write_of_the_caller(executor: snakepit.Executor, gate: Any) -> None:
    shared = snakepit.share(np.zeros(10_000))
    started, release = gate("started"), gate("release")

    def watch(array: Any) -> float:
        tasks.hold(started, release)
        return float(array[7])

    future = executor.submit(watch, shared)
    started.wait()
    shared[7] = 42
    release.open()
    assert future.result(60) == 42


def test_worker_cannot_write(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000))
    assert executor.submit(lambda a: bool(a.flags.writeable), shared).result(60) is False
    error = executor.submit(fill, shared, 3).exception(60)
    assert isinstance(error, ValueError)
    assert not shared.any()
    part = executor.submit(fill, shared[10:20], 3).exception(60)
    assert isinstance(part, ValueError)


def test_worker_cannot_make_it_writable(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000))

    def force(array: Any) -> None:
        array.flags.writeable = True
        array[...] = 1

    assert executor.submit(force, shared).exception(60) is not None
    assert not shared.any()


@pytest.mark.all_kinds
def test_worker_writes_what_was_shared_for_writing(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)
    executor.submit(fill, shared, 3).result(60)
    assert (shared == 3).all()
    output = snakepit.shared_array((50, 100), "f8", writable=True)
    output[...] = 0
    results(executor.submit(fill, output[n], n) for n in range(50))
    assert [float(row[0]) for row in output] == list(range(50))
    assert all((row == row[0]).all() for row in output)


@pytest.mark.parametrize(
    "make_view",
    [
        lambda a: a[10:60],
        lambda a: a[::3],
        lambda a: a[::-1],
        lambda a: a.reshape(100, 100)[5:50, 10:90],
        lambda a: a.reshape(100, 100).T,
        lambda a: a.reshape(10, 10, 100)[:, 3, ::2],
        lambda a: a[5:6],
        lambda a: a[9_999:],
    ],
    ids=["slice", "strided", "reversed", "inner", "transposed", "three", "one", "last"],
)
def test_views_travel_by_reference(executor: snakepit.Executor, make_view: Any) -> None:
    shared = snakepit.share(np.arange(10_000.0), writable=True)
    view = make_view(shared)
    back = executor.submit(tasks.identity, view).result(60)
    assert np.array_equal(back, view)
    executor.submit(fill, view, -1).result(60)
    assert (view == -1).all()
    assert (shared == -1).sum() == view.size


def test_view_of_another_type_travels_by_reference(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(4_000, "f8"), writable=True)
    executor.submit(fill, shared.view("u8"), 5).result(60)
    assert (shared.view("u8") == 5).all()


def test_copies_are_no_longer_shared(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)
    for copied in (shared.copy(), shared + 0, copy.deepcopy(shared), shared[[1, 2, 3]]):
        executor.submit(fill, copied, 9).result(60)
        assert not shared.any()
        assert not copied.any()


def test_inside_containers_and_closures(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)
    executor.submit(lambda box: fill(box["a"][0], 2), {"a": [shared]}).result(60)
    assert (shared == 2).all()

    def work() -> None:
        shared[...] = 3

    executor.submit(work).result(60)
    assert (shared == 3).all()


def test_as_item_of_map(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros((100, 200)), writable=True)
    list(executor.map(fill, shared, range(100)))
    assert np.array_equal(shared[:, 0], np.arange(100.0))


def test_from_worker_to_worker(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)

    def outer(array: Any) -> None:
        snakepit.current_pool().submit(fill, array, 6).result(60)

    executor.submit(outer, shared).result(60)
    assert (shared == 6).all()


def test_by_several_executors(make: Make) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)
    first, second = make(1), make(1)
    first.submit(fill, shared, 4).result(60)
    assert second.submit(total, shared).result(60) == 40_000
    first.shutdown()
    second.submit(fill, shared, 5).result(60)
    assert (shared == 5).all()


def test_made_before_and_after_the_workers(make: Make) -> None:
    before = snakepit.share(np.ones(10_000))
    executor = make(2)
    executor.wait_ready(60)
    after = snakepit.share(np.ones(500_000))
    assert executor.submit(total, before).result(60) == 10_000
    assert executor.submit(total, after).result(60) == 500_000


def test_replaced_worker_sees_it_too(make: Make) -> None:
    executor = make(1)
    shared = snakepit.share(np.ones(10_000), writable=True)
    for number in range(3):
        executor.submit(fill, shared, number).result(60)
        assert executor.submit(tasks.exit_process).exception(60) is not None
    assert executor.submit(total, shared).result(60) == 20_000


def test_crash_while_writing_leaves_what_was_written(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.zeros(10_000), writable=True)

    def half(array: Any) -> None:
        array[:5_000] = 1
        os._exit(1)

    assert executor.submit(half, shared).exception(60) is not None
    assert shared.sum() == 5_000


def test_returned_by_a_task(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.arange(10_000.0))
    back = executor.submit(tasks.identity, shared).result(60)
    assert np.array_equal(back, shared)
    part = executor.submit(lambda a: a[10:20], shared).result(60)
    assert part.tolist() == list(range(10, 20))
    del shared
    gc.collect()
    assert np.array_equal(back, np.arange(10_000.0))


def test_sharing_in_a_worker(executor: snakepit.Executor) -> None:
    def work() -> Any:
        return snakepit.share(np.arange(20_000.0))

    got = executor.submit(work).result(60)
    assert np.array_equal(got, np.arange(20_000.0))


def test_worker_holds_what_the_caller_has_deleted(make: Make) -> None:
    executor = make(1)
    shared = snakepit.share(np.ones(100_000))
    executor.submit(keep, shared).result(60)
    del shared
    gc.collect()
    others = [snakepit.share(np.full(100_000, 7.0)) for _ in range(20)]
    copies = [executor.submit(np.full, 100_000, 9.0).result(60) for _ in range(10)]
    assert executor.submit(kept_total).result(60) == 100_000
    assert all((other == 7).all() for other in others)
    assert all((array == 9).all() for array in copies)
    executor.submit(forget).result(60)


def test_worker_holds_only_a_part(make: Make) -> None:
    executor = make(1)
    shared = snakepit.share(np.arange(100_000.0))
    executor.submit(keep, shared[100:110]).result(60)
    del shared
    gc.collect()
    others = [snakepit.share(np.full(100_000, 7.0)) for _ in range(20)]
    assert executor.submit(kept_total).result(60) == sum(range(100, 110))
    executor.submit(forget).result(60)
    assert len(others) == 20


def test_deleted_while_the_call_is_queued(make: Make, gate: Any) -> None:
    executor = make(1)
    started, release = gate("started"), gate("release")
    running = executor.submit(tasks.hold, started, release)
    started.wait()
    shared = snakepit.share(np.ones(100_000))
    future = executor.submit(total, shared)
    del shared
    gc.collect()
    others = [snakepit.share(np.full(100_000, 7.0)) for _ in range(10)]
    release.open()
    running.result(60)
    assert future.result(60) == 100_000
    del others


def test_part_held_by_the_caller_keeps_it_all() -> None:
    parts = []
    for number in range(20):
        parts.append(snakepit.share(np.full(50_000, float(number)))[100:200])
        gc.collect()
    assert [float(part.sum()) for part in parts] == [100.0 * number for number in range(20)]


def test_memory_of_shared_arrays_returns(make: Make) -> None:
    executor = make(1)
    source = np.ones(1_000_000)

    def run(count: int) -> None:
        for _ in range(count):
            shared = snakepit.share(source)
            assert executor.submit(total, shared).result(60) == 1_000_000

    run(15)
    own = psutil.Process().memory_info().rss
    (worker,) = executor.worker_pids()
    other = psutil.Process(worker).memory_info().rss
    run(150)
    assert psutil.Process().memory_info().rss - own < 40_000_000
    assert psutil.Process(worker).memory_info().rss - other < 40_000_000


def test_passing_costs_no_memory(make: Make) -> None:
    """A hundred calls with 80 MB in flight at once: by reference, or not at all."""
    executor = make(2)
    shared = snakepit.share(np.ones(10_000_000))
    assert executor.submit(total, shared).result(60) == 10_000_000
    before = psutil.Process().memory_info().rss
    futures = [executor.submit(lambda a, n: float(a[n]), shared, n) for n in range(100)]
    assert results(futures) == [1.0] * 100
    assert psutil.Process().memory_info().rss - before < 60_000_000


def test_many_shared_arrays(executor: snakepit.Executor) -> None:
    arrays = [snakepit.share(np.full(2_000, float(n))) for n in range(300)]
    futures = [executor.submit(total, array) for array in arrays]
    assert results(futures) == [2_000.0 * n for n in range(300)]
    assert executor.submit(lambda *a: sum(map(total, a)), *arrays).result(60) == sum(
        2_000.0 * n for n in range(300)
    )


@pytest.mark.parametrize(
    "source",
    [
        np.empty(0),
        np.empty((0, 5)),
        np.array(3.5),
        np.arange(6, dtype=">i4"),
        np.arange(600.0)[::3],
        np.arange(600.0).reshape(20, 30).T,
        np.array(["ab", "c"]),
        np.array([(1, 2.0)] * 3, dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_shares_arrays_of_every_sort(executor: snakepit.Executor, source: Any) -> None:
    shared = snakepit.share(source)
    assert (shared.dtype, shared.shape) == (source.dtype, source.shape)
    assert np.array_equal(shared, source)
    back = executor.submit(tasks.identity, shared).result(60)
    assert (back.dtype, back.shape) == (source.dtype, source.shape)
    assert np.array_equal(back, source)


def test_shares_what_becomes_an_array(executor: snakepit.Executor) -> None:
    shared = snakepit.share(np.asarray([[1, 2], [3, 4]]))
    assert executor.submit(total, shared).result(60) == 10


def test_objects_cannot_be_shared() -> None:
    with pytest.raises((TypeError, ValueError)):
        snakepit.share(np.array([None, {}], dtype=object))
    with pytest.raises((TypeError, ValueError)):
        snakepit.shared_array(5, object)


@pytest.mark.parametrize("shape", [-1, (2, -3), "x", 1.5])
def test_refuses_a_wrong_shape(shape: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        snakepit.shared_array(shape, float)


def test_can_be_pickled_by_others() -> None:
    """To a file or another kind of process it goes as any array: by value."""
    shared = snakepit.share(np.arange(5_000.0))
    back = pickle.loads(pickle.dumps(shared))
    assert np.array_equal(back, np.arange(5_000.0))


def test_sharing_in_many_threads(executor: snakepit.Executor) -> None:
    wrong: list[Any] = []

    def work(index: int) -> None:
        for number in range(40):
            shared = snakepit.share(np.full(3_000, float(index * 1000 + number)))
            if executor.submit(total, shared).result(60) != 3_000.0 * (index * 1000 + number):
                wrong.append((index, number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_local_executor_takes_the_array_itself() -> None:
    shared = snakepit.share(np.zeros(1_000))
    with snakepit.Executor(1, profile="local") as executor:
        assert executor.submit(tasks.identity, shared).result(60) is shared
