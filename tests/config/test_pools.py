"""The settings of a pool: spellings, defaults, what becomes an option, how capacity is shared."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.config import (
    PoolSettings,
    get_pool_config,
    get_pool_configs,
    load_config,
    models,
    normalize_pool_config,
    thread_profile,
    validate_pool_config,
)
from snakepit.errors import ConfigError, PoolNotFoundError

from .conftest import Write

ADAPTER = {"adapter": "service:Api"}


def test_only_what_is_set_becomes_an_option() -> None:
    pool = validate_pool_config({**ADAPTER, "name": "api", "worker_ttl": "1h"})
    assert pool.to_options() == {"name": "api", "worker_ttl": 3600.0}


def test_options_of_a_pool_with_everything() -> None:
    class Api:
        pass

    pool = validate_pool_config(
        {
            "adapter": Api,
            "profile": "thread",
            "threads_per_worker": 4,
            "adapter_args": {"depth": 2},
            "adapter_env": [["A", 1], ["B", True]],
            "timeout": "infinity",
            "memory_threshold_mb": "2GB",
            "thread_safety_checks": True,
            "heartbeat": {"interval": "2s", "max_missed": 5},
            "startup_batch_delay_ms": "0.5s",
            "stop_grace": {"terminate": "2s"},
            "retry": {"max_attempts": 2},
            "breaker": {"failures": 3},
            "capacity_strategy": "pool",
            "snapshot_every": "30s",
            "snapshot_memory_mb": "2GB",
            "health_interval": "never",
        }
    )
    options = pool.to_options()
    assert pool.adapter is Api
    assert options.pop("retry") == snakepit.RetryPolicy(max_attempts=2)
    assert isinstance(options.pop("breaker"), snakepit.CircuitBreaker)
    assert options == {
        "name": "default",
        "profile": "thread",
        "threads_per_worker": 4,
        "adapter_args": {"depth": 2},
        "adapter_env": {"A": "1", "B": "true"},
        "timeout": math.inf,
        "memory_threshold_mb": 2000.0,
        "thread_safety": "warn",
        "heartbeat_interval": 2.0,
        "max_missed": 5,
        "startup_batch_delay_ms": 500.0,
        "stop_grace": snakepit.Graces(terminate=2.0),
        "capacity_strategy": "pool",
        "snapshot_every": "30s",
        "snapshot_memory_mb": 2000.0,
        "health_interval": math.inf,
    }


def test_objects_that_only_a_program_can_give() -> None:
    given: dict[str, Any] = {
        "breaker": snakepit.CircuitBreaker(),
        "mp_context": multiprocessing.get_context("spawn"),
        "retry": snakepit.RetryPolicy(),
        "session_store": snakepit.SessionStore(),
        "stop_grace": snakepit.Graces(),
    }
    pool = validate_pool_config({**ADAPTER, **given, "inline_threshold": 0})
    assert pool.to_options() == {"name": "default", **given, "inline_threshold": 0}
    assert normalize_pool_config(pool)["session_store"] is given["session_store"]
    with pytest.raises(ConfigError, match="start_method names one as text"):
        validate_pool_config({**ADAPTER, "mp_context": "spawn"})
    with pytest.raises(ConfigError, match=r"must be a snakepit\.SessionStore"):
        validate_pool_config({**ADAPTER, "session_store": "memory"})


def test_each_pool_has_a_breaker_of_its_own() -> None:
    pool = validate_pool_config({**ADAPTER, "breaker": {}})
    assert pool.to_options()["breaker"] is not pool.to_options()["breaker"]


OLDER: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"worker_profile": "thread"}, {"profile": "thread"}),
    ({"thread_safety": "strict"}, {"thread_safety": "strict"}),
    ({"thread_safety_checks": False}, {"thread_safety": None}),
    ({"pool_queue_timeout": 5000}, {"queue_timeout": 5.0}),
    ({"pool_startup_timeout": 30_000}, {"start_timeout": 30.0}),
    ({"pool_max_queue_size": 5}, {"max_queue_size": 5}),
    (
        {"pool_config": {"pool_size": 3, "startup_batch_size": 8}},
        {"pool_size": 3, "startup_batch_size": 8},
    ),
    ({"heartbeat": {"enabled": False, "interval": 3}}, {"heartbeat_interval": None}),
    ({"heartbeat": {"ping_interval_ms": 2000}}, {"heartbeat_interval": 2.0}),
    ({"heartbeat": {"max_missed_heartbeats": 2}}, {"max_missed": 2}),
]


def test_older_spellings() -> None:
    for given, expected in OLDER:
        config = load_config({"adapter_module": "service:Api", **given})
        assert config.pool().to_options() == {"name": "default", **expected}


def test_flat_form_wins_over_its_inner_table() -> None:
    config = load_config({**ADAPTER, "pool_size": 4, "pool_config": {"pool_size": 2}})
    assert config.pool().pool_size == 4


def test_defaults_are_filled_in() -> None:
    values = normalize_pool_config({**ADAPTER, "timeout_profile": "batch", "queue_timeout": 7})
    assert values["pool_size"] == models.default_pool_size()
    assert (values["timeout"], values["stream_timeout"], values["queue_timeout"]) == (3600, None, 7)
    assert values["affinity"] == "hint"
    assert values.keys() == PoolSettings.model_fields.keys() - {"mp_context", "session_store"}
    assert normalize_pool_config(validate_pool_config(ADAPTER))["timeout"] == 300


def test_values_tell_where_they_came_from() -> None:
    config = load_config({**ADAPTER, "timeout_profile": "batch", "timeout": 5})
    rows = {key: (value, source) for _, key, value, source in config.values()}
    assert rows["timeout"] == (5.0, "argument timeout")
    assert rows["queue_timeout"] == (300.0, "timeout_profile batch")
    assert rows["max_missed"] == (3, "default")


def test_finding_a_pool() -> None:
    source = {"pools": [{"name": "api", **ADAPTER}, {"name": "ml", **ADAPTER}]}
    assert [pool.name for pool in get_pool_configs(source)] == ["api", "ml"]
    assert get_pool_config("ml", source).name == "ml"
    with pytest.raises(PoolNotFoundError, match="did you mean 'api'") as caught:
        get_pool_config("apo", source)
    assert caught.value.details == {"wanted": "apo", "pools": ["api", "ml"]}


def test_thread_profile() -> None:
    assert thread_profile({"worker_profile": "thread"})
    assert thread_profile(validate_pool_config({**ADAPTER, "profile": "thread"}))
    assert not thread_profile(ADAPTER)
    assert not thread_profile({"profile": "local"})


@pytest.mark.parametrize("strategy", ["pool", "profile", "hybrid"])
def test_a_capacity_strategy_goes_to_the_pools_that_have_workers(strategy: str) -> None:
    pools = [{"name": profile, "profile": profile, **ADAPTER} for profile in ("thread", "local")]
    config = load_config({"pools": pools, "capacity_strategy": strategy})
    assert config.pool("thread").to_options()["capacity_strategy"] == strategy
    assert "capacity_strategy" not in config.pool("local").to_options()


def test_shared_settings_reach_only_the_pools_that_they_mean_something_for() -> None:
    shared = {"pool_size": 3, "threads_per_worker": 4, "worker_ttl": "1h", "timeout": 5}
    profiles = ("process", "thread", "local")
    pools = [{"name": profile, "profile": profile, **ADAPTER} for profile in profiles]
    config = load_config({"pools": pools, **shared})
    assert {pool.name: pool.model_fields_set & shared.keys() for pool in config.pools} == {
        "process": {"pool_size", "worker_ttl", "timeout"},
        "thread": {"pool_size", "threads_per_worker", "worker_ttl", "timeout"},
        "local": {"threads_per_worker", "timeout"},
    }
    assert normalize_pool_config(config.pool("local"))["pool_size"] is None
    assert normalize_pool_config(config.pool("process"))["threads_per_worker"] == 1


@pytest.mark.parametrize(
    "off",
    [
        {"heartbeat": {"enabled": False}},
        {"heartbeat_interval": "never"},
        {"heartbeat_interval": None},
    ],
)
def test_one_pool_switches_off_the_heartbeat_that_all_share(off: dict[str, Any]) -> None:
    pools = [{"name": "quiet", **off, **ADAPTER}, {"name": "watched", **ADAPTER}]
    config = load_config({"pools": pools, "heartbeat_timeout": 8, "max_missed": 4})
    assert config.pool("quiet").to_options() == {"name": "quiet", "heartbeat_interval": None}
    watched = config.pool("watched").to_options()
    assert watched == {"name": "watched", "heartbeat_timeout": 8.0, "max_missed": 4}


def test_a_heartbeat_is_switched_off_over_what_says_more_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beat = {"heartbeat_timeout": 8}
    flat = {"name": "a", **ADAPTER, **beat}
    shared = {"pools": [{"name": "a", **ADAPTER}], **beat}
    of_pool = {"pools": [flat]}
    found = [load_config(source, heartbeat_interval=None) for source in (flat, shared, of_pool)]
    monkeypatch.setenv("SNAKEPIT_HEARTBEAT_INTERVAL", "none")
    found += [load_config(source) for source in (flat, shared)]
    for config in found:
        assert config.pool("a").to_options() == {"name": "a", "heartbeat_interval": None}


def test_a_heartbeat_that_one_place_says_and_switches_off_is_refused() -> None:
    for own in ({"heartbeat_interval": "never", "heartbeat_timeout": 8}, {"max_missed": 4}):
        with pytest.raises(ConfigError, match="means nothing with heartbeat_interval=None"):
            load_config({"pools": [{"name": "a", **own, **ADAPTER}], "heartbeat_interval": "never"})


def test_error_survives_pickling() -> None:
    error = ConfigError.of(["a", "b"])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems) == ("a\nb", ["a", "b"])


def test_exception_classes_are_named_as_text(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write("class Busy(Exception):\n    pass\n", name="shop_errors.py")
    path = write(
        """
        adapter = "shop:Shop"
        retry = { retry_on = ["ConnectionError", "WorkerCrashedError", "shop_errors:Busy"] }
        breaker = { failure_on = "snakepit.errors.WorkerCrashedError" }
        """
    )
    pool = load_config(path).pool()
    assert "shop_errors" not in sys.modules
    policy = pool.to_options()["retry"]
    names = [known.__name__ for known in policy.retry_on]
    assert names == ["ConnectionError", "WorkerCrashedError", "Busy"]
    assert policy.retries(ConnectionResetError()) and not policy.retries(OSError())
    assert policy.retries(sys.modules.pop("shop_errors").Busy())
    assert isinstance(pool.to_options()["breaker"], snakepit.CircuitBreaker)
    monkeypatch.setenv("SNAKEPIT_RETRY", '{ retry_on = "TimeoutError" }')
    assert load_config(path).pool().to_options()["retry"].retry_on == (TimeoutError,)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no_such_module:Busy", "cannot be imported: ModuleNotFoundError: No module named"),
        ("json:JSONDecodeErr", "'json' has no 'JSONDecodeErr'; did you mean 'JSONDecodeError'?"),
        ("json:dumps", "is not an exception class but of type function"),
        ("snakepit.errors:TaskTimeoutError", "retry_on cannot hold TaskTimeoutError"),
    ],
)
def test_a_class_of_a_module_is_looked_at_when_the_pool_is_made(name: str, problem: str) -> None:
    pool = validate_pool_config({**ADAPTER, "retry": {"retry_on": [name]}})
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        pool.to_options()
    assert caught.value.problems[0].startswith("pool 'default': retry: retry_on")
