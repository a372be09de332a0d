"""What each fault of `snakepit.testing` is for: a pool meets it, says so, and goes on."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle.database import file_in
from snakepit.testing import fail_start, limit_memory, slow_start
from tests.conftest import Make
from tests.support import run_clean

pytestmark = pytest.mark.processes

MB = 1_000_000


def test_a_registry_on_a_full_disk_costs_a_warning(tmp_path: Path) -> None:
    source = """
        import logging, time
        import snakepit
        from snakepit.lifecycle import registry
        from snakepit.testing import full_disk

        class Told(logging.Handler):
            texts = []
            def emit(self, record):
                self.texts.append(record.getMessage())

        if __name__ == "__main__":
            logging.getLogger("snakepit").addHandler(Told())
            registry.DELAY = 1000.0  # nothing is written before the disk is full
            with snakepit.Executor(1) as executor:
                executor.wait_ready(60)
                with full_disk():
                    registry.registry.flush(0.01)
                    until = time.monotonic() + 60
                    while not Told.texts and time.monotonic() < until:
                        time.sleep(0.005)
                    print(*Told.texts)
                    print(executor.submit(pow, 2, 3).result(60))
            print(registry.registry.flush(60))
        """
    lines = run_clean(source, tmp_path, env={"SNAKEPIT_DATA_DIR": str(tmp_path / "data")})
    assert f"the process registry {file_in(tmp_path / 'data')} cannot be written" in lines[0]
    assert "sets it aside" not in lines[0]
    assert lines[1:] == ["8", "True"]


def test_a_full_arena_fails_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    source = """
        import snakepit
        from snakepit.errors import ArenaFullError
        from snakepit.testing import fill_arena

        if __name__ == "__main__":
            with snakepit.Executor(1) as executor:
                executor.submit(len, b"").result(60)  # from now on the function has a number
                with fill_arena() as held:
                    print(held > 20_000_000)
                    late = executor.options(timeout=0.2).submit(len, bytes(1_000_000))
                    print(isinstance(late.exception(60), ArenaFullError))
                    print(executor.submit(len, bytes(10)).result(60))
                print(executor.submit(len, bytes(1_000_000)).result(60))
        """
    lines = run_clean(source, tmp_path, env={"SNAKEPIT_ARENA_BYTES": str(32 << 20)})
    assert lines == ["True", "True", "10", "1000000"]


def test_a_call_that_runs_out_of_memory_fails_alone(make: Make) -> None:
    executor = make(1, initializer=limit_memory, initargs=(300 * MB,))

    def take(size: int) -> tuple[int, int]:
        return len(bytearray(size)), os.getpid()

    _, pid = executor.submit(take, 1 * MB).result(60)
    with pytest.raises(MemoryError):
        executor.submit(take, 2000 * MB).result(60)
    assert executor.submit(take, 2 * MB).result(60) == (2 * MB, pid)


def test_a_slow_start_is_waited_for(make: Make) -> None:
    executor = make(1, initializer=slow_start, initargs=(0.2,))
    future = executor.submit(pow, 2, 3)
    assert executor.worker_pids() == []
    assert future.result(60) == 8


def test_a_start_that_is_stuck_breaks_the_pool_in_bounded_time(make: Make) -> None:
    executor = make(1, initializer=slow_start, initargs=(math.inf,), start_timeout=0.3)
    with pytest.raises(errors.PoolNotReadyError, match="cannot start workers: 3 in a row failed"):
        executor.submit(pow, 2, 3).result(60)


@pytest.mark.parametrize(("how", "seen"), [("SIGSEGV", "SIGSEGV"), ("exit", "code 1")])
def test_workers_that_die_in_their_start_break_the_pool_and_it_says_how(
    make: Make, how: str, seen: str
) -> None:
    executor = make(1, initializer=fail_start, initargs=(how if how == "exit" else 11,))
    with pytest.raises(errors.PoolNotReadyError, match=f"{seen} while it started"):
        executor.submit(pow, 2, 3).result(60)
    with pytest.raises(snakepit.errors.PoolNotReadyError):
        executor.submit(pow, 2, 3)


@pytest.mark.parametrize("how", ["explode", 0, 18])
def test_what_ends_no_process_is_refused(executor: snakepit.Executor, how: Any) -> None:
    from snakepit.testing import crash

    with pytest.raises(ValueError, match=r"."):
        executor.submit(crash, how).result(60)
