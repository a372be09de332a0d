"""``snakepit config``: what is wrong, what is in force, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snakepit.cli.configuration import check, show

from .command import Command

FILE = """
[[pools]]
name = "api"
adapter = "functions:Group"
pool_size = 4
worker_ttl = "1h"
adapter_env = { DEVICE = "cpu" }
"""


@pytest.fixture
def configured(command: Command) -> Command:
    """The command in a folder with a configuration, which the environment adds nothing to."""
    command.path("snakepit.toml").write_text(FILE)
    kept = ("SNAKEPIT_TEST_", "SNAKEPIT_DATA_DIR")
    command.environment = {
        name: value
        for name, value in command.environment.items()
        if not name.startswith("SNAKEPIT_") or name.startswith(kept)
    }
    return command


def test_check_of_what_is_right(configured: Command) -> None:
    ended = configured.run("config", "check", "--import", "snakepit.toml")
    assert (ended.code, ended.lines, ended.errors) == (0, ["snakepit.toml: ok (api)"], "")


def test_check_names_all_that_is_wrong(configured: Command) -> None:
    text = FILE.replace("1h", "1 year").replace("functions:", "functoins:")
    configured.path("snakepit.toml").write_text(text + "pool_sze = 3\n")
    ended = configured.run("config", "check")
    assert (ended.code, ended.output) == (1, b"")
    assert ended.error_lines == [
        "snakepit.toml:8: pools[0].pool_sze: unknown setting; did you mean 'pool_size'?",
        "snakepit.toml:6: pools[0].worker_ttl: worker_ttl='1 year' has the unknown unit 'year'; "
        "the units are ms, s, m, min, h, d",
        "snakepit.toml:4: pool 'api': adapter 'functoins:Group': no module named 'functoins'; "
        "did you mean 'functions'?",
    ]


def test_check_names_the_adapters_that_are_missing(configured: Command) -> None:
    configured.path("package").mkdir()
    configured.path("package/__init__.py").write_text("raise RuntimeError('imported')\n")
    configured.path("package/tools.py").write_text("")
    adapters = ["functoins:Group", "package.tols:A", "package.tools:A", "functions.inner:A"]
    pools = [f'[[pools]]\nname = "p{n}"\nadapter = "{name}"\n' for n, name in enumerate(adapters)]
    configured.path("snakepit.toml").write_text("".join(pools))
    ended = configured.run("config", "check")
    assert ended.code == 1
    # package/tools.py is there, and nothing was imported to see that.
    assert ended.error_lines == [
        "snakepit.toml:3: pool 'p0': adapter 'functoins:Group': no module named 'functoins'; "
        "did you mean 'functions'?",
        "snakepit.toml:6: pool 'p1': adapter 'package.tols:A': no module named 'tols' in "
        "'package'; did you mean 'tools'?",
        "snakepit.toml:12: pool 'p3': adapter 'functions.inner:A': 'functions' is a module, not a "
        "package",
    ]


def test_check_that_imports(configured: Command) -> None:
    configured.path("broken.py").write_text("1 / 0\n")
    adapters = ["broken:A", "functions:Grup", "functions:PI", "functions.Group"]
    pools = [f'[[pools]]\nname = "p{n}"\nadapter = "{name}"\n' for n, name in enumerate(adapters)]
    configured.path("snakepit.toml").write_text("".join(pools))
    ended = configured.run("config", "check", "--import", "snakepit.toml")
    assert ended.code == 1
    assert [line.partition("': ")[2].partition("': ")[2] for line in ended.error_lines] == [
        "cannot be imported: ZeroDivisionError: division by zero",
        "'functions' has no 'Grup'; did you mean 'Group'?",
        "is not a class but of type float",
    ]


def test_check_looks_at_exception_classes_too(configured: Command) -> None:
    configured.path("snakepit.toml").write_text(
        FILE + 'retry = { retry_on = ["OSError", "functoins:Busy", "functions:PI"] }\n'
    )
    missing = (
        "snakepit.toml:8: pool 'api': retry_on 'functoins:Busy': no module named 'functoins'; "
        "did you mean 'functions'?"
    )
    ended = configured.run("config", "check")
    assert (ended.code, ended.error_lines) == (1, [missing])
    ended = configured.run("config", "check", "--import")
    assert ended.error_lines == [
        missing,
        "snakepit.toml:8: pool 'api': retry_on 'functions:PI': is not an exception class but of "
        "type float",
    ]


def test_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    missing = Path("no-such-file.toml")
    assert check(missing, imported=False) == 1
    assert show(missing, as_json=True, everything=True) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors == 2 * "no-such-file.toml: cannot be read: No such file or directory\n"


def test_show_tells_where_each_value_came_from(configured: Command) -> None:
    configured.environment["SNAKEPIT_POOLS__API__POOL_SIZE"] = "3"
    ended = configured.run("config", "show")
    assert ended.code == 0
    rows = [line.split() for line in ended.lines]
    assert ["pool_size", "3", "environment", "SNAKEPIT_POOLS__API__POOL_SIZE"] in rows
    assert ["worker_ttl", "3600", "snakepit.toml:6"] in rows
    assert ["adapter_env", '{"DEVICE":', '"cpu"}', "snakepit.toml:7"] in rows
    assert ["affinity", "hint", "default"] in rows
    assert not any(line.endswith(" ") for line in ended.lines)


def test_show_as_json(
    configured: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(configured.directory)
    assert show(Path("snakepit.toml"), as_json=True, everything=False) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == "snakepit.toml"
    assert document["pools"]["api"] == {
        "name": {"value": "api", "from": "snakepit.toml:3"},
        "adapter": {"value": "functions:Group", "from": "snakepit.toml:4"},
        "pool_size": {"value": 4, "from": "snakepit.toml:5"},
        "adapter_env": {"value": {"DEVICE": "cpu"}, "from": "snakepit.toml:7"},
        "worker_ttl": {"value": 3600.0, "from": "snakepit.toml:6"},
    }
