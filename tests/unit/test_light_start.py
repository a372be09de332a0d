"""What a pool loads before its first call: no more than it needs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import snakepit
from snakepit import errors
from tests.support import run_clean

LOOK = """
    import sys

    def loaded(*names):
        return [name for name in names if name in sys.modules]
    """


def test_importing_executor_loads_no_pool(tmp_path: Path) -> None:
    lines = run_clean(
        LOOK
        + """
    from snakepit import Executor

    print(loaded("multiprocessing", "subprocess", "socket", "dataclasses", "inspect", "msgpack"))
    print([name for name in sys.modules if name.startswith(("snakepit.pool", "snakepit._core"))])
    """,
        tmp_path,
    )
    assert lines == ["[]", "[]"]


def test_importing_the_package_loads_nothing_of_it(tmp_path: Path) -> None:
    lines = run_clean(
        LOOK
        + """
    import snakepit

    print([name for name in sys.modules if name.startswith("snakepit.")])
    print(snakepit.SessionContext.__name__, loaded("snakepit.pool.pool", "snakepit.sessions.store"))
    """,
        tmp_path,
    )
    assert lines == ["[]", "SessionContext []"]


def test_a_pool_that_has_not_started_loads_no_standard_pool(tmp_path: Path) -> None:
    lines = run_clean(
        LOOK
        + """
    import snakepit.pool.engine, snakepit.pool.pool, snakepit.pool.local, snakepit.pools

    print(loaded("concurrent.futures.process", "multiprocessing.connection", "tempfile", "random"))
    """,
        tmp_path,
    )
    assert lines == ["[]"]


def test_a_call_loads_only_what_it_needs(tmp_path: Path) -> None:
    lines = run_clean(
        LOOK
        + """
    import operator
    import snakepit

    with snakepit.Executor(1) as executor:
        print(executor.submit(operator.add, 1, 2).result())
        print(
            loaded(
                "cloudpickle", "hashlib", "difflib", "snakepit.pool.local", "snakepit.pool.stats",
                "snakepit.pool.mapping",
            )
        )
    """,
        tmp_path,
    )
    assert lines == ["3", "[]"]


def test_a_worker_loads_nothing_of_its_owner(tmp_path: Path) -> None:
    lines = run_clean(
        LOOK
        + """
    import snakepit

    if __name__ == "__main__":
        with snakepit.Executor(1) as executor:
            names = (
                "snakepit.pool.pool", "snakepit.lifecycle.template", "snakepit.lifecycle.registry",
                "concurrent.futures.process", "multiprocessing.connection", "random", "tempfile",
            )
            print(executor.submit(loaded, *names).result())
    """,
        tmp_path,
    )
    assert lines == ["[]"]


@pytest.mark.parametrize("name", ["PoolNotReadyError", "WorkerCrashedError"])
def test_errors_that_are_loaded_late_are_at_home_in_errors(name: str) -> None:
    kind = getattr(errors, name)
    assert kind.__module__ == "snakepit.errors"
    error = pickle.loads(pickle.dumps(kind("why", details={"pid": 1})))
    assert type(error) is kind
    assert (str(error), error.details) == ("why", {"pid": 1})


def test_errors_has_no_others() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'PoolTiredError'"):
        _ = snakepit.errors.PoolTiredError


def test_a_pool_that_a_thread_makes_at_the_end_is_ended(tmp_path: Path) -> None:
    """`Executor` is imported in time; the pool is loaded when threads are being joined already."""
    lines = run_clean(
        """
    import operator
    import os
    import threading
    from snakepit import Executor

    def late():
        threading.main_thread().join()
        executor = Executor(1)
        print(executor.submit(operator.add, 1, 2).result(), flush=True)
        print(type(executor.submit(os._exit, 3).exception()).__name__, flush=True)

    threading.Thread(target=late).start()
    """,
        tmp_path,
    )
    assert lines == ["3", "WorkerCrashedError"]
