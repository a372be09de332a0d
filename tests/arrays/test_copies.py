"""Arrays that are passed and returned: writable copies, whose memory comes back."""

from __future__ import annotations

import gc
import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import snakepit
from tests.conftest import Make
from tests.executor import tasks
from tests.support import results, run_clean

SIZES = [1, 100, 1_279, 1_280, 1_281, 5_000, 1_000_000]  # around 10,240 bytes, and far above

pytestmark = pytest.mark.processes


def scribble(array: Any) -> Any:
    """Overwrite the argument in the worker and return what it was."""
    before = array.copy()
    array[...] = 99
    return before


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def residents(pids: list[int]) -> int:
    """Return the bytes that the processes have for themselves: the arena is everybody's."""
    infos = [psutil.Process(pid).memory_info() for pid in pids]
    return sum(info.rss - info.shared for info in infos)


@pytest.mark.parametrize("size", SIZES)
def test_argument_is_writable_and_a_copy(executor: snakepit.Executor, size: int) -> None:
    array = np.arange(size, dtype="f8")
    assert executor.submit(is_writable, array).result(60) is True
    assert np.array_equal(executor.submit(scribble, array).result(60), np.arange(size))
    assert np.array_equal(array, np.arange(size))


@pytest.mark.parametrize("size", SIZES)
def test_result_is_writable_and_its_own(executor: snakepit.Executor, size: int) -> None:
    first = executor.submit(np.zeros, size).result(60)
    second = executor.submit(np.zeros, size).result(60)
    assert first.flags.writeable
    first[...] = 5
    assert not second.any()
    assert not executor.submit(np.zeros, size).result(60).any()
    assert (first == 5).all()


@pytest.mark.parametrize("size", SIZES)
def test_view_outlives_the_executor(kind: str, make: Make, size: int) -> None:
    executor = make(1)
    array = executor.submit(np.arange, size).result(60)
    part = array[size // 2 :]
    executor.shutdown()
    del executor
    gc.collect()
    assert np.array_equal(array, np.arange(size))
    array[-1] = -7
    assert part[-1] == -7
    del array
    gc.collect()
    assert part[-1] == -7


def test_part_of_a_result_keeps_its_memory(executor: snakepit.Executor) -> None:
    """A view of a view holds the segment although the array itself is gone."""
    parts = []
    for number in range(20):
        whole = executor.submit(np.full, 100_000, number).result(60)
        parts.append(whole.reshape(100, 1000)[50][10:20])
        del whole
    assert [part.tolist() for part in parts] == [[number] * 10 for number in range(20)]


def test_two_arrays_of_one_result_live_apart(executor: snakepit.Executor) -> None:
    first, second = executor.submit(lambda: (np.ones(100_000), np.full(100_000, 2))).result(60)
    del first
    gc.collect()
    others = results(executor.submit(np.full, 100_000, 7) for _ in range(10))
    assert (second == 2).all()
    assert all((other == 7).all() for other in others)


def test_array_kept_by_a_worker_stays_as_it_is(make: Make) -> None:
    executor = make(1)

    def keep(array: Any) -> None:
        tasks.KEPT = array  # type: ignore[attr-defined]

    def kept_sum() -> float:
        return float(tasks.KEPT.sum())  # type: ignore[attr-defined]

    executor.submit(keep, np.ones(100_000)).result(60)
    for number in range(20):
        executor.submit(len, np.full(100_000, number)).result(60)
    assert executor.submit(kept_sum).result(60) == 100_000


def test_results_held_while_more_arrive(executor: snakepit.Executor) -> None:
    held = {}
    for number in range(150):
        held[number] = executor.submit(np.full, 20_000, number).result(60)
        if number % 3 == 0:
            del held[number]
    for number, array in held.items():
        assert (array == number).all()


@pytest.mark.parametrize(
    "make_view",
    [
        lambda a: a[::2],
        lambda a: a[::-1],
        lambda a: a.T,
        lambda a: a[1:-1, 1:-1],
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[0], (50, a.shape[1])),
        lambda a: a.astype(">f4"),
    ],
    ids=["strided", "reversed", "transposed", "inner", "fortran", "broadcast", "big endian"],
)
def test_arrays_of_every_layout(executor: snakepit.Executor, make_view: Any) -> None:
    view = make_view(np.arange(120_000.0).reshape(300, 400))
    got = executor.submit(tasks.identity, view).result(60)
    assert got.dtype == view.dtype
    assert np.array_equal(got, view)
    assert got.flags.writeable
    assert executor.submit(is_writable, view).result(60) is True


def test_array_changed_after_the_submit(executor: snakepit.Executor, gate: Any) -> None:
    release = gate("release")
    running = [executor.submit(tasks.pid_after, release) for _ in range(3)]
    array = np.zeros(200_000)
    futures = []
    for number in range(20):
        array[...] = number
        futures.append(executor.submit(lambda a: (float(a.min()), float(a.max())), array))
    release.open()
    results(running)
    assert results(futures) == [(n, n) for n in range(20)]


def test_growing_payloads(executor: snakepit.Executor) -> None:
    """Each is larger than any before it."""
    size = 1_000
    while size < 8_000_000:
        array = np.arange(size)
        assert np.array_equal(executor.submit(tasks.identity, array).result(60), array)
        size = size * 5 // 2


def test_payloads_of_mixed_sizes_at_once(make: Make) -> None:
    executor = make(3)
    generator = np.random.default_rng(1)
    sizes = [int(size) for size in generator.integers(0, 60_000, 300)]
    arrays = [np.full(size, number) for number, size in enumerate(sizes)]
    for array, got in zip(arrays, executor.map(tasks.identity, arrays), strict=True):
        assert np.array_equal(array, got)


def test_memory_is_reused(make: Make) -> None:
    """200 times 8 MB in and out: neither this process nor the workers grow by it."""
    executor = make(2)
    array = np.ones(1_000_000)

    def run(count: int) -> None:
        for _ in range(count):
            got = executor.submit(tasks.identity, array).result(60)
            assert got[-1] == 1

    run(20)
    own, workers = residents([os.getpid()]), residents(executor.worker_pids())
    descriptors = len(os.listdir("/proc/self/fd"))
    run(200)
    assert residents([os.getpid()]) - own < 40_000_000
    assert residents(executor.worker_pids()) - workers < 40_000_000
    # Three are the process registry's, which opens some time after the pool has started.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 5


def test_memory_is_reused_by_what_is_submitted_at_once(make: Make) -> None:
    executor = make(2)
    array = np.ones(100_000)

    def run(count: int) -> None:
        for _ in range(count):
            futures = [executor.submit(tasks.identity, array) for _ in range(20)]
            for future in futures:
                assert future.result(60)[0] == 1

    run(5)
    own = residents([os.getpid()])
    run(60)
    assert residents([os.getpid()]) - own < 60_000_000


def test_failed_tasks_give_their_memory_back(make: Make) -> None:
    executor = make(2)
    array = np.ones(1_000_000)

    def run(count: int) -> None:
        for number in range(count):
            bad = executor.submit(lambda a: a[10**9], array)
            assert isinstance(bad.exception(60), IndexError)
            if number % 10 == 0:
                crashed = executor.submit(lambda a: os._exit(1), array)
                assert crashed.exception(60) is not None

    run(10)
    own = residents([os.getpid()])
    run(60)
    assert residents([os.getpid()]) - own < 60_000_000


def test_cancelled_tasks_give_their_memory_back(make: Make, gate: Any) -> None:
    executor = make(1)
    array = np.ones(1_000_000)
    executor.submit(len, array).result(60)
    own = residents([os.getpid()])
    for round_number in range(20):
        started, release = gate(f"started-{round_number}"), gate(f"release-{round_number}")
        running = executor.submit(tasks.hold, started, release)
        started.wait()
        queued = [executor.submit(len, array) for _ in range(4)]
        assert all(future.cancel() for future in queued)
        release.open()
        running.result(60)
    del queued
    assert residents([os.getpid()]) - own < 120_000_000


# A budget, which is read when the arena is first used: hence scripts

BUDGET = {"SNAKEPIT_ARENA_BYTES": str(64 << 20)}


def test_what_exceeds_the_budget_fails_and_harms_nothing(tmp_path: Path) -> None:
    source = """
        import numpy, snakepit

        def attempt(*call):
            try:
                return executor.submit(*call).result(60)
            except snakepit.errors.ArenaFullError as error:
                assert isinstance(error, MemoryError)
                return "full"

        with snakepit.Executor(2) as executor:
            for _ in range(5):
                print(attempt(len, numpy.zeros(16 << 20)))
                print(type(attempt(numpy.zeros, 16 << 20)).__name__)
                print(attempt(len, numpy.zeros(1 << 20)))
            while executor.stats().busy:  # with the end of the last task
                pass
            print(executor.stats().queued, executor.stats().crashed)
        """
    lines = run_clean(source, tmp_path, env=BUDGET)
    assert lines == ["full", "str", "1048576"] * 5 + ["0 0"]


def test_results_that_are_held_may_exceed_the_budget(tmp_path: Path) -> None:
    """Beyond half of the budget results move to private memory, so holding them blocks nobody."""
    source = """
        import numpy, snakepit

        def fill():
            futures = (executor.submit(numpy.full, 1 << 17, n) for n in range(200))
            held = [future.result(60) for future in futures]
            return all((array == number).all() for number, array in enumerate(held))

        with snakepit.Executor(2) as executor:
            print([fill() for _ in range(4)])
        """
    assert run_clean(source, tmp_path, env=BUDGET) == ["[True, True, True, True]"]


def test_more_work_at_once_than_fits_the_budget(tmp_path: Path) -> None:
    """Each call gives its result or says that the arena is full; none is lost."""
    source = """
        import numpy, snakepit
        array = numpy.ones(1 << 20)
        outcomes = []
        with snakepit.Executor(2) as executor:
            futures = []
            for _ in range(40):
                try:
                    futures.append(executor.submit(float, 1) if len(futures) % 5 == 0
                                   else executor.submit(lambda a: float(a[0]), array))
                except snakepit.errors.ArenaFullError:
                    outcomes.append("full")
            for future in futures:
                try:
                    outcomes.append(future.result(60))
                except snakepit.errors.ArenaFullError:
                    outcomes.append("full")
            del futures
            print(len(outcomes), set(outcomes) <= {1.0, "full"}, outcomes.count(1.0) >= 4)
            print([executor.submit(len, array).result(60) for _ in range(5)] == [1 << 20] * 5)
        """
    assert run_clean(source, tmp_path, env=BUDGET) == ["40 True True", "True"]


def test_sharing_beyond_the_budget(tmp_path: Path) -> None:
    source = """
        import numpy, snakepit
        from snakepit.pool import memory
        memory.PATIENCE = 0.2
        for _ in range(5):
            held = []
            try:
                while len(held) < 100:
                    held.append(snakepit.share(numpy.full(1 << 20, len(held))))
            except snakepit.errors.ArenaFullError:
                pass
            assert 3 <= len(held) <= 8, len(held)
            assert all((array == number).all() for number, array in enumerate(held))
        del held
        with snakepit.Executor(1) as executor:
            print(executor.submit(len, numpy.zeros(1 << 20)).result(60))
        """
    assert run_clean(source, tmp_path, env=BUDGET) == ["1048576"]


def test_calls_that_need_no_shared_memory_run_while_it_is_full(tmp_path: Path) -> None:
    source = """
        import time
        import snakepit
        from snakepit import testing

        class Main:
            pass

        def chunks():
            yield 1

        with snakepit.Executor(1) as executor:
            executor.submit(pow, 2, 3).result(60)
            with testing.fill_arena():
                started = time.monotonic()
                print(executor.submit(max, 1, 2).result(60), executor.submit(lambda: 3).result(60))
                print(list(executor.map(min, [(4, 5)])), list(executor.map(lambda n: n + 1, [5])))
                print(executor.submit(type, Main()).result(60).__name__)
                # None of them has waited for memory.
                print(time.monotonic() - started < 1)
            # Then they are named by number, as ever.
            print(executor.submit(max, 1, 2).result(60), executor.submit(type, Main()).result(60))
        """
    lines = run_clean(source, tmp_path, env=BUDGET)
    assert lines == ["2 3", "[4] [6]", "Main", "True", "2 <class '__main__.Main'>"]


def test_who_shares_waits_for_room(tmp_path: Path) -> None:
    source = """
        import threading, time
        import snakepit
        from snakepit import testing
        from snakepit.errors import ArenaFullError

        def share():
            started = time.monotonic()
            try:
                snakepit.shared_array(1000)
            except ArenaFullError:
                return time.monotonic() - started

        with testing.fill_arena():
            got = []
            thread = threading.Thread(target=lambda: got.append(snakepit.shared_array(1000)))
            thread.start()
            thread.join(1.5)
            print(got)
        thread.join(20)
        print(got[0].shape)
        del got
        try:
            snakepit.shared_array(1 << 30, "u1")
        except ArenaFullError as error:
            print("does not fit" if "in_use" not in error.details else "waited")
        with snakepit.Executor(1) as executor:
            executor.submit(share).result(60)
            with testing.fill_arena():
                error = executor.options(timeout=1.5).submit(share).exception(60)
                print(type(error).__name__)
        """
    lines = run_clean(source, tmp_path, env=BUDGET)
    assert lines[:3] == ["[]", "(1000,)", "does not fit"]
    # At its deadline the task is told that there is no room, or that its time is up: a race.
    assert lines[3] in ("NoneType", "TaskTimeoutError")


# Bytes, for which there is no view on the other side


@pytest.mark.parametrize("size", [0, 10_239, 10_240, 10_241, 1 << 20])
def test_bytes_arrive_as_bytes(executor: snakepit.Executor, size: int) -> None:
    data = os.urandom(size)
    assert executor.submit(tasks.identity, data).result(60) == data
    got = executor.submit(describe_bytes, data, data, named=data).result(60)
    assert got == ("bytes", "bytes", True, data)
    text = "x" * size
    assert executor.submit(tasks.identity, text).result(60) == text
    parts = [data[: size // 3]] * 4
    assert executor.submit(tasks.identity, parts).result(60) == parts


def describe_bytes(first: bytes, second: bytes, *, named: bytes) -> tuple[str, str, bool, bytes]:
    return type(first).__name__, type(named).__name__, first is second is named, first


# What is freed there returns to the system later: its allocator, mimalloc, holds it back.
malloc_alone = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="mimalloc keeps what was freed"
)


@malloc_alone
def test_bytes_are_copied_once_on_their_way(tmp_path: Path) -> None:
    """Into the segment; a pickle of them beside it would be a second time their size."""
    source = """
        import resource
        import snakepit

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

        size = 100_000_000
        with snakepit.Executor(1) as executor:
            executor.submit(len, b"").result(60)
            data = b"x" * size
            before = peak()
            assert executor.submit(len, data).result(60) == size
            # The segment itself counts, too.
            print(peak() - before < 1.5 * size)
            worker = executor.submit(peak).result(60)
            assert executor.submit(len, data).result(60) == size
            print(executor.submit(peak).result(60) - worker < 0.2 * size)
        """
    assert run_clean(source, tmp_path) == ["True", "True"]


@malloc_alone
def test_large_values_leave_no_memory_behind(make: Make) -> None:
    executor = make(1)
    executor.submit(len, b"").result(60)
    pids = [os.getpid(), *executor.worker_pids()]
    before = residents(pids)
    for size in (60 << 20, 80 << 20):
        assert executor.submit(len, bytes(size)).result(60) == size
        assert len(executor.submit(bytes, size).result(60)) == size
        assert len(executor.submit("x".__mul__, size).result(60)) == size
    gc.collect()
    assert residents(pids) - before < 30_000_000
