"""The module-level API: named pools, and scripts that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.config import load_config
from snakepit.errors import ConfigError, PoolExistsError, PoolNotFoundError, PoolNotReadyError
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


@pytest.mark.parametrize("way", ["path", "nearest", "config", "options"])
def test_a_file_names_the_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "snakepit.toml"
    path.write_text(
        'profile = "local"\nthreads_per_worker = 1\n[[pools]]\nname = "counting"\n'
        'adapter = "tests.pools.adapters:Counter"\nthread_safety_checks = "strict"\n'
        "adapter_args = { start = 5 }\n"
    )
    if way == "path":
        snakepit.start(path)
    elif way == "nearest":
        snakepit.start()
    elif way == "config":
        snakepit.start(load_config(path))
    else:
        snakepit.start(str(path), timeout="1min")
    assert snakepit.execute("increment", pool="counting") == 6


def test_without_a_file_the_error_says_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"snakepit\.toml and pyproject\.toml were looked for"):
        snakepit.start()


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
