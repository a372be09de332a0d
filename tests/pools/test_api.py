"""The module-level API: named pools, and scripts that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.errors import PoolExistsError, PoolNotFoundError, PoolNotReadyError
from tests.pools.adapters import BadSetup, Counter
from tests.support import LONG, run_script

THREADS: dict[str, Any] = {"profile": "local", "threads_per_worker": 1}


@pytest.fixture(autouse=True)
def _stop_all() -> Iterator[None]:
    yield
    snakepit.stop(cancel_calls=True)


def test_pools_of_different_kinds_run_side_by_side() -> None:
    pools = snakepit.start(
        {
            "pools": [
                {"name": "threads", "worker_profile": "local", "threads_per_worker": 1},
                {"name": "processes", "pool_size": 1, "adapter_args": {"start": 5}},
            ],
            "adapter": Counter,
        }
    )
    snakepit.await_ready(timeout=LONG)
    assert sorted(pools) == ["processes", "threads"]
    assert snakepit.execute("increment", pool="threads") == 1
    assert snakepit.execute("increment", {"by": 2}, pool="processes") == 7
    assert snakepit.execute_in_session("s", "increment", pool="processes", timeout=30) == 8
    assert snakepit.get_stats("processes")["completed"] == 2
    assert set(snakepit.get_stats()) == {"processes", "threads"}
    (worker,) = snakepit.list_workers()
    assert worker["pool"] == "processes"
    snakepit.stop("threads")
    with pytest.raises(PoolNotFoundError, match="did you mean 'processes'"):
        snakepit.execute("pid", pool="process")


def test_the_flat_form_makes_the_default_pool() -> None:
    snakepit.start(adapter="tests.pools.adapters:Counter", **THREADS)
    assert snakepit.execute("increment") == 1
    assert snakepit.get_pool().name == "default"


def test_a_name_is_taken_once_and_nothing_starts_in_part() -> None:
    snakepit.start(adapter=Counter, name="a", **THREADS)
    with pytest.raises(PoolExistsError, match="'a'"):
        snakepit.start({"adapter": Counter, "pools": [{"name": "b"}, {"name": "a"}], **THREADS})
    with pytest.raises(PoolNotReadyError, match="no such model"):
        snakepit.start(
            {"pools": [{"name": "c", "adapter": Counter}, {"name": "d", "adapter": BadSetup}]},
            thread_safety=None,
            **THREADS,
        )
    assert set(snakepit.get_stats()) == {"a"}


def test_without_a_pool_the_error_says_what_to_do() -> None:
    with pytest.raises(PoolNotFoundError, match=r"call snakepit\.start\(\)"):
        snakepit.execute("pid")
    with pytest.raises(PoolNotFoundError, match="'x'"):
        snakepit.stop("x")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no adapter"),
        ({"pools": []}, "pools is empty"),
        ({"pools": {"name": "a"}}, "pools is a list"),
        (5, "start"),
        ({"adapter": Counter, "pool_siez": 2}, "did you mean"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(config: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        snakepit.start(config)


def test_run_as_script_starts_runs_and_stops() -> None:
    value = snakepit.run_as_script(
        lambda: snakepit.execute("increment"), adapter=Counter, timeout=LONG, **THREADS
    )
    assert value == 1 and snakepit.get_stats() == {}


def test_run_as_script_stops_what_it_started_alone() -> None:
    snakepit.start(adapter=Counter, name="mine", **THREADS)
    with pytest.raises(ZeroDivisionError):
        snakepit.run_as_script(lambda: 1 / 0, adapter=Counter, **THREADS)
    assert set(snakepit.get_stats()) == {"mine"}
    snakepit.run_as_script(lambda: None, stop_mode="always")
    assert snakepit.get_stats() == {}
    with pytest.raises(ValueError, match="stop_mode"):
        snakepit.run_as_script(lambda: None, stop_mode="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "status"), [("print(snakepit.execute('ping'))", 0), ("raise OSError('no')", 1)]
)
def test_a_script_ends_the_program_as_it_is_told(tmp_path: Path, body: str, status: int) -> None:
    outcome = run_script(
        f"""
        import snakepit

        def main():
            {body}

        snakepit.run_as_script(
            main, exit_mode="exit", adapter=snakepit.ShowcaseAdapter, pool_size=1, timeout=60
        )
        """,
        tmp_path,
    )
    assert outcome.returncode == status, outcome.stderr
    assert outcome.stdout == ("" if status else "pong\n")
    assert ("OSError: no" in outcome.stderr) == bool(status)
