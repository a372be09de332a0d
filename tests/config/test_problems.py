"""What a configuration may have wrong: each problem is named, with its place, and all at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from snakepit.config import (
    PoolSettings,
    load_config,
    normalize_pool_config,
    thread_profile,
    validate_pool_config,
)
from snakepit.config.models import FOR_PROCESSES
from snakepit.errors import ConfigError, SnakepitError

from .conftest import Write


def problems_of(source: Any, **overrides: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, **overrides)
    assert str(caught.value).splitlines() == caught.value.problems
    return caught.value.problems


def test_all_problems_at_once_each_with_its_line(write: Write) -> None:
    path = write(
        """
        pool_sizes = 2

        [[pools]]
        name = "api"
        adapter = "service:Api"
        worker_tll = "1h"
        queue_timeout = "1 fortnight"

        [[pools]]
        name = "ml"
        adapter = "service:Model"
        profile = "threads"
        threads_per_worker = 0
        heartbeat = { interval = 2, timout = 3 }
        """
    )
    assert problems_of(path) == [
        "snakepit.toml:1: pool_sizes: unknown setting; did you mean 'pool_size'?",
        "snakepit.toml:6: pools[0].worker_tll: unknown setting; did you mean 'worker_ttl'?",
        "snakepit.toml:7: pools[0].queue_timeout: queue_timeout='1 fortnight' has the unknown unit "
        "'fortnight'; the units are ms, s, m, min, h, d",
        "snakepit.toml:12: pools[1].profile: profile must be one of process, thread, local, not "
        "'threads'; did you mean 'thread'?",
        "snakepit.toml:13: pools[1].threads_per_worker: threads_per_worker must be >= 1, not 0",
        "snakepit.toml:14: pools[1].heartbeat.timout: unknown setting; did you mean 'timeout'?",
    ]


def test_a_pool_without_a_name_of_its_own_is_checked_like_any_other(write: Write) -> None:
    path = write(
        """
        [[pools]]
        name = "api"
        adapter = "service:Api"

        [[pools]]
        adapter = "service"
        queue_timeout = "1 year"

        [[pools]]
        name = "api"
        retry = { max_attempts = 0 }
        worker_tll = 1

        [[pools]]
        name = ""
        adapter = "service:Api"
        retry = { max_attempts = 0 }
        """
    )
    assert [line.partition(": ")[2] for line in problems_of(path)] == [
        "pools[1]: has no name; give it one",
        "pools[1].adapter: adapter must be of the form \"package.module:Class\", not 'service'",
        "pools[1].queue_timeout: queue_timeout='1 year' has the unknown unit 'year'; the units are "
        "ms, s, m, min, h, d",
        "pools[2]: there is a pool named 'api' already, pools[0] (snakepit.toml:1); rename one",
        "pool 'pools[2]' has no adapter; give it one: adapter = \"package.module:Class\"",
        "pools[2].retry: retry: max_attempts must be at least 1, not 0",
        "pools[2].worker_tll: unknown setting; did you mean 'worker_ttl'?",
        "pools[3].name: must be text that is not empty, not ''",
        "pools[3].retry: retry: max_attempts must be at least 1, not 0",
    ]


def test_all_that_is_wrong_with_one_table_is_named() -> None:
    pool = {
        **ADAPTER,
        "retry": {"max_attempts": 0, "atempts": 2, "retry_on": ["OSError", "Ouch", "OSEror"]},
        "breaker": {"failures": 0, "probes": 0, "failure_on": []},
        "stop_grace": {"flg": 1, "terminate": -1},
        "preload": ["a b", "json", "c d"],
        "adapter_env": {"A=B": "1", "C": []},
        "adapter_args": {"not a name": 1, "nor this": 2},
    }
    starts = [
        "retry: max_attempts must be at least 1, not 0",
        "retry has no setting 'atempts'",
        "retry: retry_on: there is no exception class 'Ouch'",
        "retry: retry_on: there is no exception class 'OSEror'; did you mean 'OSError'?",
        "breaker: failures must be at least 1, not 0",
        "breaker: probes must be at least 1, not 0",
        "breaker: failure_on needs at least one exception class",
        "stop_grace: unknown grace time 'flg'",
        "stop_grace: terminate must be from 0 to",
        "preload: 'a b' is not the name of a module",
        "preload: 'c d' is not the name of a module",
        "adapter_env: 'A=B' cannot be the name of an environment variable",
        "adapter_env: C must be text or a number",
        "adapter_args: 'not a name' cannot be the name of an argument",
        "adapter_args: 'nor this' cannot be the name of an argument",
    ]
    found = [line.split(": ", 2)[2] for line in problems_of(pool)]
    for start in starts:
        assert len([line for line in found if line.startswith(start)]) == 1, start
    assert len(found) == len(starts)


# One test looks at all of them: each test has an audit of its own, which costs more than this.
SENSELESS: list[tuple[str, Any, str]] = [
    ("pool_size", 0, "pool_size must be >= 1"),
    ("pool_size", "4", "pool_size must be a whole number, not '4'"),
    ("pool_size", True, "pool_size must be a whole number"),
    ("pool_size", 1001, "pool_size must be at most max_workers (1000)"),
    ("max_workers", 5000, "max_workers must be at most 1000"),
    ("timeout", "5", "has no unit"),
    ("timeout", -1, "timeout must be a number of seconds above 0"),
    ("timeout", [], "timeout must be a number of seconds"),
    ("memory_threshold_mb", "2 GiBB", "unknown unit 'GiBB'"),
    ("adapter", "service", 'adapter must be of the form "package.module:Class"'),
    ("adapter", "my-module:Class", "must be of the form"),
    ("adapter", 3, 'adapter must be a class or "package.module:Class"'),
    ("adapter_args", ["a"], "adapter_args must be a table"),
    ("adapter_args", {"not a name": 1}, "cannot be the name of an argument"),
    ("adapter_env", {"A=B": 1}, "cannot be the name of an environment variable"),
    ("adapter_env", ["A"], "or a list of [name, value]"),
    ("adapter_env", {"A": []}, "A must be text or a number"),
    ("affinity", "strict", "affinity must be one of hint, strict_queue, strict_fail_fast"),
    ("capacity_strategy", "pools", "did you mean 'pool'?"),
    ("timeout_profile", "prod", "timeout_profile must be one of balanced,"),
    ("thread_safety_checks", "no", 'must be true, false, "warn" or "strict"'),
    ("startup_batch_delay_ms", -1, "must be 0 or more milliseconds"),
    ("startup_batch_delay_ms", True, "must be a number of milliseconds"),
    ("preload", ["a b"], "'a b' is not the name of a module"),
    ("preload", 3, "preload must be a list of names of modules"),
    ("stop_grace", {"flg": 1}, "unknown grace time 'flg'"),
    ("stop_grace", {"flag": "1 fortnight"}, "unknown unit 'fortnight'"),
    ("worker_ttl", 0.001, "worker_ttl (0.001 s) must be at least 0.01 s"),
    ("stop_grace", 1.0, "stop_grace must be snakepit.Graces"),
    ("retry", {"max_attempt": 2}, "retry has no setting 'max_attempt'; did you mean"),
    ("retry", {"max_attempts": 0}, "retry: max_attempts must be at least 1"),
    (
        "retry",
        {"retry_on": "ConectionError"},
        "retry: retry_on: there is no exception class 'ConectionError'; did you mean "
        "'ConnectionError'?",
    ),
    ("retry", {"retry_on": ["WorkerCrashError"]}, "did you mean 'WorkerCrashedError'?"),
    ("retry", {"retry_on": ["Zzz"]}, 'snakepit.errors, or another one as "package.module:Class"'),
    ("retry", {"retry_on": "int"}, "retry_on: 'int' is not an exception class but int"),
    ("retry", {"retry_on": "print"}, "'print' is not an exception class but of type"),
    ("retry", {"retry_on": ["a b:C"]}, "'a b:C' is not of the form \"package.module:Class\""),
    ("retry", {"retry_on": [5]}, "retry_on takes exception classes, not 5"),
    ("retry", {"retry_on": []}, "retry_on needs at least one exception class"),
    ("retry", {"retry_on": "TaskTimeoutError"}, "retry_on cannot hold TaskTimeoutError"),
    ("breaker", {"failure_on": "OSEror"}, "breaker: failure_on: there is no exception class"),
    ("breaker", {"clock": 1}, "breaker has no setting 'clock'"),
    ("breaker", 5, "breaker must be a table of the arguments of snakepit.CircuitBreaker"),
    ("blas_threads", "all", "blas_threads must be a whole number"),
    ("name", "", "must be text that is not empty"),
    ("heartbeat", 5, "must be a table"),
    ("heartbeat", {"enabled": "yes"}, "must be true or false"),
    ("pool_config", 5, "must be a table"),
    ("grpc_config", {}, "workers need no ports"),
    ("worker_init_timeout", 20_000, "is now start_timeout, in seconds"),
]


def test_value_that_makes_no_sense() -> None:
    for key, value, message in SENSELESS:
        settings = {"name": "api", "adapter": "a:B", key: value}
        (problem,) = problems_of({"pools": [settings]})
        assert problem.startswith(f"argument pools[0].{key}"), key
        assert message in problem, key


def test_local_pool_has_no_processes_to_configure() -> None:
    values = {
        "adapter_env": {"A": "b"},
        "capacity_strategy": "pool",
        "mp_context": multiprocessing.get_context("spawn"),
        "preload": ["json"],
        "start_method": "spawn",
    }
    for key in FOR_PROCESSES:
        settings = {"adapter": "a:B", "profile": "local", key: values.get(key, 3)}
        assert problems_of(settings) == [
            f"argument {key}: {key}: {key} is for workers that are processes; profile 'local' "
            "has none"
        ]


def test_process_pool_has_no_threads_to_configure() -> None:
    assert problems_of({"adapter": "a:B", "threads_per_worker": 2}) == [
        "argument threads_per_worker: threads_per_worker: threads_per_worker is for the profiles "
        "'thread' and 'local'"
    ]


def test_two_spellings_of_one_setting() -> None:
    (problem,) = problems_of({"adapter": "a:B", "profile": "local", "worker_profile": "local"})
    assert problem.endswith("means the same as profile; keep one of them")


def test_pools_that_are_no_tables(write: Write) -> None:
    assert "must be a list of tables, not 3" in problems_of({"pools": 3})[0]
    assert "pools[1]: must be a table, not 'x'" in problems_of({"pools": [POOL, "x"]})[0]
    (problem,) = problems_of({"pools": [POOL, ADAPTER]})
    assert problem.endswith("pools[1]: has no name; give it one")
    (problem,) = problems_of({"pools": []})
    assert problem.endswith("pools: is empty: name at least one pool, with its adapter")


ADAPTER = {"adapter": "a:B"}
POOL = {"name": "api", **ADAPTER}


def test_two_pools_of_one_name(write: Write) -> None:
    path = write(
        """
        [[pools]]
        name = "api"
        adapter = "a:B"
        [[pools]]
        name = "api"
        adapter = "a:C"
        """
    )
    assert problems_of(path) == [
        "snakepit.toml:4: pools[1]: there is a pool named 'api' already, pools[0] "
        "(snakepit.toml:1); rename one"
    ]


def test_pool_without_an_adapter(write: Write) -> None:
    path = write('[[pools]]\nname = "api"\npool_size = 0\n')
    assert problems_of(path) == [
        "snakepit.toml:2: pool 'api' has no adapter; give it one: "
        'adapter = "package.module:Class"',
        "snakepit.toml:3: pools[0].pool_size: pool_size must be >= 1, not 0",
    ]


def test_all_that_contradicts_itself_is_named_beside_what_is_wrong(write: Write) -> None:
    path = write(
        """
        [[pools]]
        name = "local"
        adapter = "service:Api"
        profile = "local"
        pool_size = 2
        adapter_env = { A = "1" }
        max_missed = 0
        [[pools]]
        name = "process"
        adapter = "service"
        threads_per_worker = 5
        worker_ttl = "soon"
        timeout = 1
        queue_timeout = 2
        [[pools]]
        name = "many"
        adapter = "service:Api"
        pool_size = 2000
        threads_per_worker = 5
        heartbeat = { interval = "1m", timeout = 30 }
        start_method = "spawn"
        preload = ["json"]
        """
    )
    assert [line.split(": ")[:2] for line in problems_of(path)] == [
        ["snakepit.toml:5", "pools[0].pool_size"],
        ["snakepit.toml:6", "pools[0].adapter_env"],
        ["snakepit.toml:7", "pools[0].max_missed"],  # it must be >= 1
        ["snakepit.toml:7", "pools[0].max_missed"],  # and is for processes
        ["snakepit.toml:10", "pools[1].adapter"],
        ["snakepit.toml:11", "pools[1].threads_per_worker"],
        ["snakepit.toml:12", "pools[1].worker_ttl"],
        ["snakepit.toml:14", "pools[1].queue_timeout"],
        ["snakepit.toml:18", "pools[2].pool_size"],
        ["snakepit.toml:19", "pools[2].threads_per_worker"],
        ["snakepit.toml:20", "pools[2].heartbeat.interval"],
        ["snakepit.toml:22", "pools[2].preload"],
    ]
    with pytest.raises(ValueError, match=r"pool_size must be .*; threads_per_worker is for"):
        PoolSettings(adapter="service:Api", pool_size=2000, threads_per_worker=5)


def test_heartbeats_that_contradict_themselves() -> None:
    beats: list[tuple[dict[str, Any], str, str]] = [
        ({"interval": 1, "timeout": 2, "max_missed": 50}, "max_missed", "take 50 s, longer than"),
        ({"interval": "never", "timeout": 5}, "timeout", "with heartbeat_interval=None"),
        ({"interval": "never", "max_missed": 5}, "max_missed", "with heartbeat_interval=None"),
    ]
    for table, key, message in beats:
        (problem,) = problems_of({"pools": [{"name": "a", "adapter": "a:B", "heartbeat": table}]})
        assert problem.startswith(f"argument pools[0].heartbeat.{key}"), problem
        assert message in problem


def test_heartbeats_that_are_switched_off_keep_the_rest_of_their_table() -> None:
    table = {"enabled": False, "timeout": 2, "max_missed": 50}
    config = load_config({"adapter": "a:B", "heartbeat": table})
    assert config.pools[0].heartbeat_interval is None


def test_settings_of_a_pool_that_are_no_dict() -> None:
    uses: tuple[Any, ...] = (validate_pool_config, normalize_pool_config, thread_profile)
    for use in uses:
        with pytest.raises(ConfigError, match=r"are a dict, .* not 'x'; load_config\(\) takes"):
            use("x")


def test_name_outside_of_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    (problem,) = problems_of({"pools": [POOL], "name": "api"})
    assert problem == "argument name: name: pools are listed, each with its name; remove this one"
    (problem,) = problems_of({**ADAPTER, "name": " "})
    assert "must be text that is not empty" in problem
    monkeypatch.setenv("SNAKEPIT_NAME", "api")
    assert problems_of(ADAPTER) == [
        "environment SNAKEPIT_NAME: name: a variable names no pool; remove it"
    ]


def test_name_that_differs_from_the_table(write: Write) -> None:
    path = write('[pools.api]\nname = "ap"\nadapter = "a:B"\n')
    assert problems_of(path) == [
        "snakepit.toml:2: pools.api.name: the table is named 'api' already; remove it"
    ]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("SNAKEPIT_POOL_SZE", "unknown setting; did you mean 'pool_size'?"),
        ("SNAKEPIT_WORKERS", "unknown setting; did you mean 'pool_size'?"),
        ("SNAKEPIT_POOLS__AIP__POOL_SIZE", "no pool 'aip'; there are: api; did you mean 'api'?"),
        ("SNAKEPIT_POOLS__API", "pools are listed in a file"),
        ("SNAKEPIT_POOLS__API__POOL_SIZE", "pool_size must be a whole number, not 'many'"),
    ],
)
def test_variable_that_means_nothing(
    monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.setenv(variable, "many")
    (problem,) = problems_of({"pools": [POOL]})
    assert variable in problem
    assert message in problem


def test_value_and_table_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_ADAPTER_ARGS", "3")
    monkeypatch.setenv("SNAKEPIT_ADAPTER_ARGS__DEPTH", "3")
    assert any("SNAKEPIT_ADAPTER_ARGS is set as well" in line for line in problems_of(POOLS))


POOLS = {"pools": [POOL]}


def test_file_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    assert problems_of("none.toml") == ["none.toml: cannot be read: No such file or directory"]
    assert "cannot be read" in problems_of(tmp_path)[0]
    assert "is not valid TOML" in problems_of(write("a = = 1"))[0]
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe9"')
    assert "is not encoded in UTF-8" in problems_of("latin.toml")[0]
    assert "has no table [tool.snakepit]" in problems_of(write("", "pyproject.toml"))[0]
    project = write("[tool]\nsnakepit = 3", "pyproject.toml")
    assert "tool.snakepit must be a table" in problems_of(project)[0]


def test_lines_of_a_project_file_are_those_of_the_file(write: Write) -> None:
    path = write(
        """
        [project]
        name = "x"

        [tool.snakepit]
        adapter = "a:B"
        pool_size = 0
        """,
        "pyproject.toml",
    )
    assert problems_of(path) == ["pyproject.toml:6: pool_size: pool_size must be >= 1, not 0"]


def test_error_is_what_a_user_would_catch() -> None:
    with pytest.raises(ValueError) as caught:
        validate_pool_config({"adapter": "a:B", "poolsize": 1})
    assert isinstance(caught.value, SnakepitError)
    assert caught.value.details["problems"] == caught.value.problems  # type: ignore[attr-defined]


def test_wait_longer_than_the_time_that_it_is_part_of() -> None:
    (problem,) = problems_of({"adapter": "a:B", "timeout": "1s", "queue_timeout": 10})
    assert "queue_timeout (10 s) must be at most timeout (1 s)" in problem
    load_config({"adapter": "a:B", "timeout": 1})  # A default gives way.
