"""The module-level API: named pools, and scripts that leave nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import api
from snakepit.config import load_config
from snakepit.errors import (
    ConfigError,
    PoolExistsError,
    PoolNotFoundError,
    PoolNotReadyError,
    PoolShutdownError,
    ToolArgumentError,
)
from snakepit.pools import Pool
from tests.pools.adapters import BadSetup, Counter
from tests.support import LONG, run_clean, run_script

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
        ({}, "name at least an adapter"),
        ({"pools": []}, "pools: is empty"),
        ({"pools": [3]}, r"pools\[0\]: must be a table, not 3"),
        ({"pools": {"name": "a"}}, "pools.name: must be a table, not 'a'"),
        (5, "start"),
        ({"adapter": Counter, "pool_siez": 2}, "pool_siez: unknown setting; did you mean"),
        ({"adapter": None}, "name at least an adapter"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(config: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        snakepit.start(config)


def options_given(
    monkeypatch: pytest.MonkeyPatch, config: Any = None, **options: Any
) -> list[dict[str, Any]]:
    """Start pools that are not made, and return what each would have been told."""
    told: list[dict[str, Any]] = []

    class Asked(snakepit.Pool):
        def __init__(self, adapter: Any, **options: Any) -> None:
            told.append({"adapter": adapter, **options})
            super().__init__(Counter, **THREADS, thread_safety=None, name=options["name"])

    with monkeypatch.context() as patch:
        patch.setattr(api, "Pool", Asked)
        snakepit.start(config, **options)
    snakepit.stop()
    return told


def test_a_dict_and_keywords_say_what_a_file_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = """
        adapter_module = "tests.pools.adapters:Counter"
        pool_config = { pool_size = 1 }
        heartbeat = { interval = 1, timeout = 5 }
        thread_safety_checks = false
        worker_ttl = "never"
        retry = { max_attempts = 2 }
        instance_name = "blue"
        max_workers = 4
        pooling_enabled = true
    """
    path = tmp_path / "snakepit.toml"
    path.write_text(text)
    # So that what the calls set is taken back after the test.
    monkeypatch.setenv("SNAKEPIT_INSTANCE_NAME", "")
    table = tomllib.loads(text)
    expected = {
        "name": "default",
        "adapter": "tests.pools.adapters:Counter",
        "pool_size": 1,
        "heartbeat_interval": 1.0,
        "heartbeat_timeout": 5.0,
        "thread_safety": None,
        "worker_ttl": None,
        "retry": snakepit.RetryPolicy(max_attempts=2),
    }
    assert options_given(monkeypatch, path) == [expected]
    assert options_given(monkeypatch, table) == [expected]
    assert options_given(monkeypatch, **table) == [expected]
    assert os.environ["SNAKEPIT_INSTANCE_NAME"] == "blue"


def test_variables_win_over_a_dict_and_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_POOL_SIZE", "3")
    for told in (
        options_given(monkeypatch, adapter=Counter, pool_size=1),
        options_given(monkeypatch, {"adapter": Counter, "pool_size": 1}),
        options_given(monkeypatch, adapter=Counter, name="a", pool_size=1),
        options_given(monkeypatch, {"pools": [{"name": "a", "adapter": Counter}]}),
    ):
        assert [pool["pool_size"] for pool in told] == [3]


def test_options_win_over_what_a_pool_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = [{"name": "a", "pool_size": 1}, {"name": "b", "profile": "local"}]
    shared = {"adapter": Counter, "threads_per_worker": 4}
    assert options_given(monkeypatch, {"pools": pools, **shared}, pool_size=3) == [
        {"name": "a", "adapter": Counter, "pool_size": 3},
        {"name": "b", "adapter": Counter, "profile": "local", "threads_per_worker": 4},
    ]
    told = options_given(monkeypatch, pools=pools, **shared, pool_size=3)
    assert [pool.get("pool_size") for pool in told] == [1, None]


def test_objects_reach_the_pool_and_none_is_what_it_is_to_a_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {
        "adapter": Counter,
        "breaker": snakepit.CircuitBreaker(),
        "mp_context": multiprocessing.get_context("spawn"),
        "retry": snakepit.RetryPolicy(),
        "session_store": snakepit.SessionStore(),
    }
    nothing = dict.fromkeys(("adapter_args", "adapter_env", "timeout", "threads_per_worker"))
    expected = [{"name": "default", **given}]
    assert options_given(monkeypatch, {**given, **nothing}) == expected
    assert options_given(monkeypatch, pools=[{**given, **nothing}]) == expected


def test_a_config_is_complete() -> None:
    config = load_config({"adapter": Counter, **THREADS})
    with pytest.raises(TypeError, match=r"no 'pool_size' beside it: give that to load_config\(\)"):
        snakepit.start(config, pool_size=2)


def test_without_pydantic_a_dict_and_keywords_are_options_of_pool(tmp_path: Path) -> None:
    lines = run_clean(
        """
        import os, sys
        sys.modules["pydantic"] = None
        import snakepit

        def tried(config=None, **options):
            try:
                pools = snakepit.start(config, **options)
                print(sorted((pool.name, pool.get_stats()["lanes"]) for pool in pools.values()))
                snakepit.stop()
            except Exception as error:
                print(f"{type(error).__name__}: {error}")

        A = snakepit.ThreadedShowcaseAdapter
        L = {"profile": "local", "threads_per_worker": 2}
        tried(adapter=A, **L)
        tried({"adapter": A, "pools": [{"name": "a"}, {"name": "b"}], **L}, threads_per_worker=3)
        tried({"pools": [3]})
        tried(adapter=A, thread_per_worker=3)
        tried("snakepit.toml")
        os.environ["SNAKEPIT_POOL_SIZE"] = "3"
        tried(adapter=A, **L)
        """,
        tmp_path,
    )
    install = "needs pydantic: pip install 'snakepit-pool[config]'"
    assert lines == [
        "[('default', 2)]",
        "[('a', 3), ('b', 3)]",
        "TypeError: pools is a list of dicts, one for each pool, not [3]",
        "TypeError: a pool has no option 'thread_per_worker'; did you mean 'threads_per_worker'?",
        f"ModuleNotFoundError: configuration {install}",
        f"ModuleNotFoundError: SNAKEPIT_POOL_SIZE is set, and what reads it {install}, or unset it",
    ]


def test_a_worker_of_a_named_pool_is_recycled() -> None:
    snakepit.start(adapter=Counter, name="a", pool_size=1)
    first = snakepit.execute("pid", pool="a")
    (worker,) = snakepit.list_workers("a")
    snakepit.recycle_worker("a", worker["id"], timeout="60s")
    assert snakepit.execute("pid", pool="a") != first
    with pytest.raises(PoolNotFoundError, match="did you mean 'a'"):
        snakepit.recycle_worker("aa")


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


def test_run_as_script_stops_its_pools_while_others_start_and_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snakepit.start(adapter=Counter, name="mine", **THREADS)
    mine = snakepit.get_pool("mine")
    hashed = Pool.__hash__

    def hash_late(pool: Pool) -> int:
        # Who compares pools in a loop over their table is met by a start elsewhere.
        if pool is mine and "late" not in snakepit.get_stats():
            snakepit.start(adapter=Counter, name="late", **THREADS)
        return hashed(pool)

    def compare_late(pool: Pool, other: object) -> bool:
        hash_late(pool)
        return pool is other

    def ends() -> None:
        monkeypatch.setattr(Pool, "__hash__", hash_late)
        monkeypatch.setattr(Pool, "__eq__", compare_late)

    snakepit.run_as_script(ends, adapter=Counter, name="script", **THREADS)
    assert "script" not in snakepit.get_stats()


def test_a_start_that_fails_leaves_the_pools_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_late(pool: Pool) -> Pool:
        # Stopped meanwhile, and its name given to another, which starts.
        monkeypatch.undo()
        snakepit.stop("a")
        snakepit.start(adapter=Counter, name="a", **THREADS)
        return pool.start()

    monkeypatch.setattr(Pool, "start", start_late)
    with pytest.raises(PoolShutdownError):
        snakepit.start(adapter=Counter, name="a", **THREADS)
    assert snakepit.execute("increment", pool="a") == 1


@pytest.mark.parametrize("args", [[], 0, "", ()])
def test_arguments_that_are_no_dict_are_refused(args: Any) -> None:
    snakepit.start(adapter=Counter, **THREADS)
    with pytest.raises(ToolArgumentError, match="a dict of names and values"):
        snakepit.execute("increment", args)
    with pytest.raises(ToolArgumentError, match="a dict of names and values"):
        snakepit.stream("count_to", args)
    assert snakepit.execute("increment", None) == 1


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
