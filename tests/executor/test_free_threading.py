"""Builds without the GIL stay without it, in the caller and in the workers."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import pytest

import snakepit
from tests.conftest import Make
from tests.support import run_clean

from . import tasks

free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED") or os.environ.get("PYTHON_GIL") == "1",
    reason="the GIL is on",
)


@free_threaded
def test_import_leaves_the_gil_off(tmp_path: Path) -> None:
    source = """
        import sys, warnings
        warnings.simplefilter("error")
        import snakepit
        with snakepit.Executor(2) as executor:
            print(executor.submit(pow, 2, 3).result(60))
            print(executor.submit(sys._is_gil_enabled).result(60))
            snakepit.share(__import__("numpy").zeros(10))
        print(sys._is_gil_enabled())
        """
    assert run_clean(source, tmp_path) == ["8", "False", "False"]


@free_threaded
@pytest.mark.all_kinds
def test_workers_run_without_the_gil(executor: snakepit.Executor) -> None:
    probe: Any = getattr(sys, "_is_gil_enabled")  # noqa: B009 - older versions lack the name
    assert executor.submit(probe).result(60) is False


def test_hammering_from_many_threads(make: Make) -> None:
    """Submits, results, callbacks, cancels and looks at the statistics, all at once."""
    executor = make(2)
    executor.submit(tasks.square, 1).result(60)
    stop = threading.Event()
    wrong: list[Any] = []
    counts = [0] * 6

    def call(index: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            futures = [executor.submit(tasks.add, index, number + k) for k in range(20)]
            called = threading.Event()
            futures[0].add_done_callback(lambda _, called=called: called.set())  # type: ignore[misc]
            futures[-1].cancel()
            for k, future in enumerate(futures):
                if not future.cancelled() and future.result(60) != index + number + k:
                    wrong.append((index, number, k))
            if not called.wait(60):
                wrong.append("callback")
            counts[index] += 1

    def look() -> None:
        while not stop.is_set():
            stats = executor.stats()
            if not 0 <= stats.busy <= 2 or stats.queued < 0:
                wrong.append(stats)
            repr(executor)
            executor.worker_pids()

    threads = [threading.Thread(target=call, args=(n,)) for n in range(6)]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    deadline = threading.Event()
    while min(counts) < 30 and not deadline.wait(0.05):
        pass
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
