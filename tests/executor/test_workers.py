"""What happens to workers around the tasks: initializers, recycling, their environment."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.conftest import Make
from tests.support import (
    is_running,
    new_executor,
    results,
    run_clean,
    send_signal,
    wait_until,
)

from . import tasks

# Initializers


@pytest.mark.all_kinds
def test_initializer_runs_in_every_worker(kind: str, make: Make, gate: Any, log: tasks.Log) -> None:
    executor = make(2, initializer=log.add, initargs=("here",))
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]
    futures = [executor.submit(tasks.hold, door, release) for door in doors]
    for door in doors:
        door.wait()
    # Of kind "thread" both calls run in one worker.
    assert log.lines() == ["here"] * (1 if kind == "thread" else 2)
    release.open()
    results(futures)


@pytest.mark.all_kinds
@pytest.mark.processes
def test_globals_set_by_the_initializer_are_there(make: Make) -> None:
    executor = make(2, initializer=tasks.set_status, initargs=("initialised",))
    assert results(executor.submit(tasks.get_status) for _ in range(20)) == ["initialised"] * 20
    assert tasks.STATUS == "untouched"


@pytest.mark.processes
def test_initializer_may_be_a_closure(make: Make) -> None:
    value = "from a closure"

    def prepare() -> None:
        tasks.set_status(value)

    executor = make(2, initializer=prepare)
    assert executor.submit(tasks.get_status).result(60) == value


@pytest.mark.processes
def test_replacement_is_initialised_as_well(make: Make, log: tasks.Log) -> None:
    executor = make(1, initializer=tasks.log_start, initargs=(log,))
    first = executor.submit(tasks.get_status_and_pid).result(60)
    with pytest.raises(errors.WorkerCrashedError):
        executor.submit(tasks.exit_process).result(60)
    second = executor.submit(tasks.get_status_and_pid).result(60)
    assert first[0] == second[0] == "initialised"
    assert first[1] != second[1]
    assert log.lines() == [str(first[1]), str(second[1])]


@pytest.mark.all_kinds
def test_failing_initializer_breaks_the_pool_and_says_why(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make(2, initializer=tasks.fail_to_start)
    with pytest.raises(BrokenExecutor) as caught:
        executor.submit(tasks.get_status).result(60)
    assert isinstance(caught.value, errors.PoolNotReadyError)
    assert isinstance(caught.value, BrokenProcessPool)
    shown = f"{caught.value} {caught.value.__cause__}"
    assert "the initializer fails on purpose" in shown
    told = "".join(traceback.format_exception(caught.value))
    assert f"in {tasks.fail_to_start.__name__}" in told
    with pytest.raises(BrokenExecutor):
        executor.submit(tasks.get_status).result(60)
    with pytest.raises(errors.PoolNotReadyError):
        executor.wait_ready(60)


def test_failing_initializer_fails_all_that_is_queued(make: Make, gate: Any) -> None:
    door = gate("start")

    def prepare() -> None:
        door.wait()
        raise ValueError("too late")

    executor = make(2, initializer=prepare)
    futures = [executor.submit(tasks.square, n) for n in range(50)]
    door.open()
    assert {type(future.exception(60)) for future in futures} == {errors.PoolNotReadyError}


def submit_late(executor: snakepit.Executor, way: str, value: Any) -> Any:
    """Submit in one of the ways into a pool."""
    if way == "map":
        return list(executor.map(tasks.identity, [value]))
    if way == "stream":
        return list(executor.stream(iter_over, value))
    if way == "limited":
        return executor.options(timeout=60).submit(tasks.identity, value)
    if way == "strict":
        view = executor.options(session="s", affinity="strict_queue")
        return view.submit(tasks.identity, value)
    return executor.submit(tasks.identity, value)


def iter_over(value: Any) -> Any:
    yield value


class BreaksWhenPickled:
    """Pickles as 1, once the pool is broken and has failed what was queued."""

    def __init__(self, breaking: Callable[[], object]) -> None:
        self.breaking = breaking

    def __reduce__(self) -> Any:
        self.breaking()
        return int, (1,)


@pytest.mark.processes
@pytest.mark.parametrize("way", ["plain", "limited", "strict", "map", "stream"])
def test_call_that_enters_while_the_pool_breaks_is_refused(make: Make, gate: Any, way: str) -> None:
    door = gate("start")
    executor = make(1, initializer=tasks.fail_after, initargs=(door,))
    queued = executor.submit(tasks.square, 1)

    def breaking() -> None:
        door.open()
        assert isinstance(queued.exception(60), errors.PoolNotReadyError)

    with pytest.raises(errors.PoolNotReadyError, match="as asked"):
        submit_late(executor, way, BreaksWhenPickled(breaking))
    assert executor._pool.scheduler.unsettled == 0  # type: ignore[union-attr]
    executor.shutdown()


def test_call_that_enters_while_a_pool_of_threads_breaks_is_refused(
    gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = gate("start")
    executor = new_executor("local", 1, initializer=tasks.fail_after, initargs=(door,))
    pool: Any = executor._pool
    queued = executor.submit(tasks.square, 1)

    def breaking(_terms: Any) -> bool:
        door.open()
        assert isinstance(queued.exception(60), errors.PoolNotReadyError)
        return False

    # What comes between the look whether the pool is broken and the queue.
    monkeypatch.setattr(pool, "_is_nested", breaking)
    with pytest.raises(errors.PoolNotReadyError, match="as asked"):
        executor.submit(tasks.square, 2)
    assert pool.queue.unsettled == 0
    executor.shutdown()


def test_pool_that_broke_is_shut_down_whatever_maps_are_left(
    make: Make, gate: Any, recwarn: pytest.WarningsRecorder
) -> None:
    door = gate("start")
    executor = make(1, initializer=tasks.fail_after, initargs=(door,))
    asked, dropped = (executor.map(tasks.identity, range(10_000)) for _ in range(2))
    door.open()
    with pytest.raises(errors.PoolNotReadyError):
        executor.wait_ready(60)
    del dropped
    executor.shutdown()
    with pytest.raises(errors.PoolNotReadyError):
        list(asked)
    gc.collect()
    assert not list(recwarn)


@pytest.mark.processes
@pytest.mark.parametrize(
    "initializer", [tasks.fail_to_start, tasks.exit_at_start, tasks.leave_at_start]
)
def test_failing_initializer_is_not_tried_for_ever(
    make: Make, log: tasks.Log, initializer: Any
) -> None:
    executor = make(2, initializer=initializer, initargs=(log,))
    with pytest.raises(errors.PoolNotReadyError):
        executor.submit(tasks.get_status).result(60)
    executor.shutdown()
    pids = [int(line) for line in log.lines()]
    assert 1 <= len(pids) <= 20
    wait_until(lambda: not any(is_running(pid) for pid in pids), "the workers to end")


@pytest.mark.processes
def test_worker_killed_in_its_initializer_is_replaced(make: Make, gate: Any) -> None:
    """One death at the start is an accident; only what fails again and again is a fault."""
    first, go = gate("first"), gate("go")

    def prepare() -> None:
        try:
            with open(first.path, "x") as file:
                file.write(f"{os.getpid()}.")
        except FileExistsError:
            return
        go.wait()

    executor = make(2, initializer=prepare)
    futures = [executor.submit(tasks.square, n) for n in range(20)]
    wait_until(lambda: first.is_open() and first.path.read_text().endswith("."), "the first start")
    victim = int(first.path.read_text().rstrip("."))
    assert send_signal(victim)
    assert results(futures) == [n * n for n in range(20)]
    wait_until(lambda: len(executor.worker_pids()) == 2, "the replacement")
    assert victim not in executor.worker_pids()


# Recycling


@pytest.mark.all_kinds
@pytest.mark.processes
def test_worker_is_replaced_after_its_tasks(make: Make) -> None:
    executor = make(1, max_tasks_per_child=3)
    pids = [executor.submit(os.getpid).result(60) for _ in range(9)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


@pytest.mark.processes
def test_one_task_per_child(make: Make) -> None:
    executor = make(2, max_tasks_per_child=1)
    pids = results(executor.submit(os.getpid) for _ in range(12))
    assert len(set(pids)) == 12


@pytest.mark.processes
def test_recycling_loses_no_task(make: Make) -> None:
    executor = make(3, max_tasks_per_child=7)
    futures = [executor.submit(tasks.square, n) for n in range(300)]
    assert results(futures) == [n * n for n in range(300)]


@pytest.mark.processes
def test_recycling_and_early_shutdown(make: Make) -> None:
    executor = make(3, max_tasks_per_child=1)
    futures = [executor.submit(tasks.square, n) for n in range(9)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == [n * n for n in range(9)]


@pytest.mark.processes
def test_recycled_workers_count_as_no_crash(make: Make) -> None:
    executor = make(1, max_tasks_per_child=2)
    assert results(executor.submit(tasks.square, n) for n in range(8)) == [n * n for n in range(8)]
    assert executor.stats().crashed == 0


@pytest.mark.processes
def test_map_with_recycling(make: Make) -> None:
    executor = make(2, max_tasks_per_child=5)
    assert list(executor.map(tasks.square, range(400))) == [n * n for n in range(400)]


# The environment of a worker


@pytest.mark.all_kinds
@pytest.mark.processes
def test_worker_sees_the_path_and_directory_of_the_caller(
    kind: str, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_on_the_path.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SNAKEPIT_TEST_VALUE", "inherited")
    import module_on_the_path  # type: ignore[import-not-found]

    try:
        executor = make(1)
        assert executor.submit(module_on_the_path.answer).result(60) == 42
        assert executor.submit(os.getcwd).result(60) == str(tmp_path)
        if kind != "forkserver":  # Its server, one for the whole process, was started before.
            assert executor.submit(os.getenv, "SNAKEPIT_TEST_VALUE").result(60) == "inherited"
        assert executor.submit(lambda: list(sys.argv)).result(60) == sys.argv
    finally:
        del sys.modules["module_on_the_path"]


@pytest.mark.processes
def test_environment_is_in_force_before_modules_are_imported(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_looks.py").write_text(
        "import os\nSEEN = os.environ.get('SNAKEPIT_TEST_VALUE')\ndef seen():\n    return SEEN\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    executor = make(1, env={"SNAKEPIT_TEST_VALUE": "given"}, preload=("module_that_looks",))

    def seen() -> Any:
        import module_that_looks  # type: ignore[import-not-found]

        return module_that_looks.seen()

    assert executor.submit(seen).result(60) == "given"
    assert executor.submit(os.getenv, "SNAKEPIT_TEST_VALUE").result(60) == "given"
    assert os.getenv("PATH") == executor.submit(os.getenv, "PATH").result(60)
    assert "SNAKEPIT_TEST_VALUE" not in os.environ


def test_preloaded_module_is_imported_once_for_all_workers(
    tmp_path: Path, log: tasks.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_that_tells.py").write_text(
        textwrap.dedent(
            f"""
            from tests.executor.tasks import Log
            Log({str(log.path)!r}).add("imported")
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    with snakepit.Executor(3, preload=("module_that_tells",)) as executor:
        executor.wait_ready(60)
        present = results(
            executor.submit(lambda: "module_that_tells" in sys.modules) for _ in "123"
        )
        assert present == [True] * 3
        with pytest.raises(errors.WorkerCrashedError):
            executor.submit(tasks.exit_process).result(60)
        assert executor.submit(tasks.square, 2).result(60) == 4
    assert log.lines() == ["imported"]


def test_preloading_what_cannot_be_imported_says_why() -> None:
    name = "module_that_is_not_there"
    with (
        snakepit.Executor(1, preload=("json", name)) as executor,
        pytest.raises(errors.PoolNotReadyError) as caught,
    ):
        executor.submit(tasks.square, 2).result(60)
    words = f"importing {name!r}, which the option preload names, raised ModuleNotFoundError: No "
    assert words in str(caught.value) and "or take it out of preload" in str(caught.value)
    # Whoever prints the error sees its class beside it.
    assert "PoolNotReadyError" not in str(caught.value)
    assert caught.value.details["module"] == name
    assert caught.value.__cause__ is not None
    assert "in main" in str(caught.value.__cause__.__cause__)


@pytest.mark.processes
def test_tasks_run_in_the_main_thread_of_a_worker(make: Make) -> None:
    """Signal handlers, GUIs and many libraries demand it."""
    executor = make(1)
    main = executor.submit(lambda: threading.current_thread() is threading.main_thread())
    assert main.result(60) is True


@pytest.mark.processes
def test_task_may_start_processes_of_its_own(executor: snakepit.Executor) -> None:
    import subprocess

    def call() -> str:
        return subprocess.run(
            [sys.executable, "-c", "print('grandchild')"], capture_output=True, text=True
        ).stdout

    assert executor.submit(call).result(60) == "grandchild\n"

    def multiprocess() -> int:
        process = multiprocessing.get_context("spawn").Process(target=os.getpid)
        process.start()
        process.join()
        return process.exitcode or 0

    assert executor.submit(multiprocess).result(60) == 0


@pytest.mark.processes
def test_task_may_make_an_executor_of_its_own(executor: snakepit.Executor) -> None:
    def work() -> list[int]:
        with snakepit.Executor(2) as inner:
            return list(inner.map(tasks.square, range(10)))

    assert executor.submit(work).result(60) == [n * n for n in range(10)]


@pytest.mark.processes
def test_random_numbers_differ_between_workers(make: Make, gate: Any) -> None:
    import random

    executor = make(2)
    release = gate("release")
    doors = [gate(f"started-{n}") for n in range(2)]

    def draw(started: tasks.Gate) -> float:
        tasks.hold(started, release)
        return random.random()

    futures = [executor.submit(draw, door) for door in doors]
    for door in doors:
        door.wait()
    release.open()
    assert len(set(results(futures))) == 2


@pytest.mark.processes
def test_the_worker_of_a_result_is_ready(make: Make) -> None:
    for _ in range(8):
        executor = make(1)
        pid = executor.submit(os.getpid).result(60)
        assert executor.worker_pids() == [pid] and executor.stats().ready == 1
        executor.shutdown()


@pytest.mark.processes
def test_a_worker_counts_from_the_instant_that_it_can_run_a_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make(1)
    launcher = executor._pool.launcher  # type: ignore[union-attr]
    real = launcher.start
    told, go_on = threading.Event(), threading.Event()

    def start(*args: Any) -> Any:
        process = real(*args)
        told.set()
        assert go_on.wait(60)  # the supervisor is held up before it knows the worker
        return process

    monkeypatch.setattr(launcher, "start", start)
    future = executor.submit(os.getpid)
    try:
        assert told.wait(60)
        pid = future.result(60)
        assert executor.worker_pids() == [pid]
    finally:
        go_on.set()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_environment_of_workers_is_never_the_owners(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: list[tuple[int, Any]] = []
    put = os.putenv

    def record(name: Any, value: Any) -> None:
        changes.append((os.getpid(), name))
        put(name, value)

    monkeypatch.setattr(os, "putenv", record)
    with snakepit.Executor(1, start_method=method, env={"COLOUR": "red"}) as executor:
        assert executor.submit(os.getenv, "COLOUR").result(60) == "red"
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result(60) is not None
    assert not [name for pid, name in changes if pid == os.getpid()]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_main_module_is_imported_with_the_environment_of_workers(
    tmp_path: Path, method: str
) -> None:
    source = f"""
        import os, sys
        import snakepit

        COLOUR = os.environ.get("COLOUR")

        def look():
            return sys.modules["__main__"].COLOUR

        if __name__ == "__main__":
            import multiprocessing
            multiprocessing.set_forkserver_preload(["os"])
            with snakepit.Executor(1, start_method={method!r}, env={{"COLOUR": "red"}}) as executor:
                print(COLOUR, executor.submit(look).result(60))
        """
    assert run_clean(source, tmp_path) == ["None red"]
