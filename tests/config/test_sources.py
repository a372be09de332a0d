"""Where values come from: files, arguments, variables; who wins; and that the origin is known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snakepit.config import find_file, load_config
from snakepit.errors import ConfigError
from tests.support import run_clean

from .conftest import Write

API = """
    pool_size = 2

    [[pools]]
    name = "api"
    adapter = "service:Api"
    worker_ttl = "1h"

    [[pools]]
    name = "ml-big"
    adapter = "service:Model"
    pool_size = 3
    adapter_env = { DEVICE = "cpu" }
"""


def test_nearest_file_is_found_upward(write: Write, tmp_path: Path) -> None:
    path = write('adapter = "a:B"')
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    assert find_file(deep) == path
    nearer = write('[tool.snakepit]\nadapter = "a:C"', "x/pyproject.toml")
    assert find_file(deep) == nearer
    write("[tool.other]\nsnakepit = 1", "x/y/pyproject.toml")
    assert find_file(deep) == nearer


def test_own_file_goes_before_the_project_file(write: Write) -> None:
    write('[tool.snakepit]\nadapter = "a:Project"', "pyproject.toml")
    assert load_config().pool().adapter == "a:Project"
    write('adapter = "a:Own"')
    assert load_config().pool().adapter == "a:Own"


def test_project_file_of_somebody_else_that_is_broken_is_passed_by(write: Write) -> None:
    write('adapter = "a:B"')
    write("[tool.snakepit\n", "x/pyproject.toml")
    found = find_file(Path("x"))
    assert found is not None
    assert found.name == "snakepit.toml"


def test_variable_names_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write('adapter = "a:B"')
    other = write('adapter = "a:Other"', "elsewhere/production.toml")
    monkeypatch.setenv("SNAKEPIT_CONFIG", str(other))
    config = load_config()
    assert config.pool().adapter == "a:Other"
    assert config.file == other


def test_later_sources_win(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('adapter = "a:B"\npool_size = 1\ntimeout = 1\nqueue_timeout = 1\n')
    monkeypatch.setenv("SNAKEPIT_TIMEOUT", "3m")
    config = load_config(path, queue_timeout=2, timeout=2)
    pool = config.pool()
    assert (pool.pool_size, pool.queue_timeout, pool.timeout) == (1, 2, 180)
    assert config.provenance["pools.default.pool_size"] == "snakepit.toml:2"
    assert config.provenance["pools.default.queue_timeout"] == "argument queue_timeout"
    assert config.provenance["pools.default.timeout"] == "environment SNAKEPIT_TIMEOUT"


def test_arguments_that_name_the_pools_leave_the_file_unread(write: Write) -> None:
    write(API)
    config = load_config(adapter="mine:Adapter")
    assert [pool.name for pool in config.pools] == ["default"]
    assert config.file is None
    assert [pool.name for pool in load_config(max_queue_size=5).pools] == ["api", "ml-big"]


def test_arguments_are_merged_into_the_pool_of_that_name(write: Write) -> None:
    path = write(API)
    config = load_config(path, pools=[{"name": "api", "pool_size": 9}, {"name": "x", **ADAPTER}])
    assert [(pool.name, pool.pool_size) for pool in config.pools] == [
        ("api", 9),
        ("ml-big", 3),
        ("x", 2),
    ]
    assert config.pool("api").adapter == "service:Api"


ADAPTER = {"adapter": "a:B"}


def test_what_stands_outside_of_pools_is_for_those_that_do_not_say_it(write: Write) -> None:
    config = load_config(write(API))
    assert config.pool("api").pool_size == 2
    assert config.pool("ml-big").pool_size == 3
    assert config.provenance["pools.api.pool_size"] == "snakepit.toml:1"


def test_flat_variable_reaches_the_default_pool_of_a_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        """
        [pools.default]
        adapter = "a:B"
        pool_size = 2
        [pools.other]
        adapter = "a:B"
        pool_size = 2
        """
    )
    monkeypatch.setenv("SNAKEPIT_POOL_SIZE", "7")
    config = load_config(path)
    assert config.pool().pool_size == 7
    assert config.pool("other").pool_size == 2


def test_variables_of_one_pool(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(API)
    for name, text in {
        "SNAKEPIT_POOLS__API__POOL_SIZE": "5",
        "SNAKEPIT_POOLS__ML_BIG__ADAPTER_ENV__OMP_NUM_THREADS": "4",
        "SNAKEPIT_POOLS__ML_BIG__ADAPTER_ENV__MY__VAR": "x",
        "SNAKEPIT_POOLS__ML_BIG__ADAPTER_ARGS__DEPTH": "3",
        "SNAKEPIT_POOLS__ML_BIG__PRELOAD": '["json", "re"]',
        "SNAKEPIT_POOLS__ML_BIG__WORKER_TTL": "never",
    }.items():
        monkeypatch.setenv(name, text)
    config = load_config(path)
    ml = config.pool("ml-big")
    assert config.pool("api").pool_size == 5
    assert ml.adapter_env == {"OMP_NUM_THREADS": "4", "MY__VAR": "x"}
    assert ml.adapter_args == {"depth": 3}
    assert ml.preload == ("json", "re")
    assert ml.worker_ttl is None
    assert config.provenance["pools.ml-big.name"] == "snakepit.toml:9"
    assert "MY__VAR" in config.provenance["pools.ml-big.adapter_env"]


def test_everything_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_ADAPTER", "a:B")
    monkeypatch.setenv("SNAKEPIT_POOLS__DEFAULT__POOL_SIZE", "2")
    monkeypatch.setenv("SNAKEPIT_WORKER_MAX_REQUESTS", "")  # empty is not set
    assert load_config().pool().to_options() == {"name": "default", "pool_size": 2}


def test_variables_that_the_package_sets_itself_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SNAKEPIT_RUN_ID", "SNAKEPIT_WORKER", "SNAKEPIT_POINTS", "SNAKEPIT_DEBUG"):
        monkeypatch.setenv(name, "x")
    assert load_config(ADAPTER).pool().name == "default"


def test_settings_of_the_process(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('adapter = "a:B"\ndata_dir = "~/pools"\ninstance_name = "blue"\n')
    monkeypatch.setenv("SNAKEPIT_ARENA_BYTES", "1GiB")
    config = load_config(path)
    assert config.process.data_dir == os.path.expanduser("~/pools")
    assert config.process.arena_bytes == 2**30
    assert config.provenance["instance_name"] == "snakepit.toml:3"
    for name in ("DATA_DIR", "INSTANCE_NAME"):
        # So that what the call sets is taken back after the test.
        monkeypatch.setenv(f"SNAKEPIT_{name}", "")
    config.apply_process_settings()
    assert os.environ["SNAKEPIT_INSTANCE_NAME"] == "blue"
    assert os.environ["SNAKEPIT_ARENA_BYTES"] == str(2**30)


def test_another_kind_of_source_is_refused() -> None:
    with pytest.raises(TypeError, match="a file, a dict or None"):
        load_config(7)  # type: ignore[arg-type]


def test_one_pool_may_have_another_name_than_default(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('name = "api"\nadapter = "a:B"\npool_size = 1\n')
    monkeypatch.setenv("SNAKEPIT_POOL_SIZE", "3")
    monkeypatch.setenv("SNAKEPIT_POOLS__API__TIMEOUT", "4")
    config = load_config(path)
    assert [(pool.name, pool.pool_size, pool.timeout) for pool in config.pools] == [("api", 3, 4)]
    assert config.provenance["pools.api.name"] == "snakepit.toml:1"
    monkeypatch.delenv("SNAKEPIT_POOLS__API__TIMEOUT")
    assert load_config({"pools": [ADAPTER]}).pool().name == "default"


def test_overrides_win_over_what_a_pool_says(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(API)
    monkeypatch.setenv("SNAKEPIT_POOLS__API__POOL_SIZE", "8")
    config = load_config(path, pool_size=7)
    assert [pool.pool_size for pool in config.pools] == [8, 7]
    config = load_config(path, pool_size=7, pools=[{"name": "ml-big", "pool_size": 5}])
    assert config.pool("ml-big").pool_size == 5


def test_nothing_at_all() -> None:
    with pytest.raises(ConfigError, match="no pool is configured") as caught:
        load_config()
    assert "snakepit.toml" in str(caught.value)
    with pytest.raises(ConfigError, match=r"^no pool is configured; name at least an adapter$"):
        load_config({})


def test_pooling_that_is_switched_off(write: Write) -> None:
    path = write("pooling_enabled = false\npool_size = 2\n")
    assert load_config(path).pools == ()


@pytest.mark.parametrize("text", ["64MiB", str(64 << 20), "0.0625 GiB"])
def test_arena_takes_what_the_configuration_takes(text: str, tmp_path: Path) -> None:
    source = """
        from snakepit.config import load_config
        from snakepit.pool.memory import own_arena
        config = load_config({"adapter": "a:B"})
        print(config.process.arena_bytes, own_arena().usage()["bytes_budget"])
        """
    assert run_clean(source, tmp_path, env={"SNAKEPIT_ARENA_BYTES": text}) == ["67108864 67108864"]


@pytest.mark.parametrize("text", ["much", "0", "-1", "0.5B", "5 apples"])
def test_arena_names_the_variable_that_it_cannot_take(text: str, tmp_path: Path) -> None:
    source = """
        import snakepit
        try:
            snakepit.Executor(1)
        except ValueError as error:
            print("SNAKEPIT_ARENA_BYTES" in str(error))
        """
    assert run_clean(source, tmp_path, env={"SNAKEPIT_ARENA_BYTES": text}) == ["True"]
