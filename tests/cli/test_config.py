"""``snakepit config``: what is wrong, what is in force, and where it came from."""

from __future__ import annotations

import json
import os
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

ADAPTERS = """
import snakepit

class Good(snakepit.Adapter):
    def __init__(self, size=1): pass

    @snakepit.tool
    def work(self): pass

class Picky(Good):
    def __init__(self, size): pass

class Half(Good):
    def snapshot(self, session): pass

class Idle(snakepit.Adapter):
    def __init__(self, size=1): pass

class Plain: pass

class Raising(snakepit.Adapter):
    @classmethod
    def supported_commands(cls): raise LookupError("no commands")
"""


def pools(*tables: str) -> str:
    """A configuration of pools named p0, p1 and so on."""
    return "".join(f'[[pools]]\nname = "p{n}"\n{table}\n' for n, table in enumerate(tables))


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
    configured.path("adapters.py").write_text(ADAPTERS)
    text = FILE.replace("functions:Group", "adapters:Good")
    configured.path("snakepit.toml").write_text(text + 'preload = ["adapters", "os.path"]\n')
    ended = configured.run("config", "check", "--import", "snakepit.toml")
    assert (ended.code, ended.lines, ended.errors) == (0, ["snakepit.toml: ok (api)"], "")


def test_check_names_all_that_is_wrong(configured: Command) -> None:
    text = FILE.replace("1h", "1 year").replace("functions:", "functoins:")
    configured.path("snakepit.toml").write_text(text + "pool_sze = 3\n")
    ended = configured.run("config", "check")
    assert (ended.code, ended.output) == (1, b"")
    assert ended.error_lines == [
        "snakepit.toml:4: pool 'api': adapter 'functoins:Group': no module named 'functoins'; "
        "did you mean 'functions'?",
        "snakepit.toml:6: pools[0].worker_ttl: worker_ttl='1 year' has the unknown unit 'year'; "
        "the units are ms, s, m, min, h, d",
        "snakepit.toml:8: pools[0].pool_sze: unknown setting; did you mean 'pool_size'?",
    ]


def test_check_names_the_adapters_that_are_missing(configured: Command) -> None:
    configured.path("package").mkdir()
    configured.path("package/__init__.py").write_text("raise RuntimeError('imported')\n")
    configured.path("package/tools.py").write_text("")
    adapters = ["functoins:Group", "package.tols:A", "package.tools:A", "functions.inner:A"]
    text = pools(*(f'adapter = "{name}"' for name in adapters))
    configured.path("snakepit.toml").write_text(text)
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
    adapters = ["broken:A", "functions:Grup", "functions:PI"]
    text = pools(*(f'adapter = "{name}"' for name in adapters))
    configured.path("snakepit.toml").write_text(text)
    ended = configured.run("config", "check", "--import", "snakepit.toml")
    assert ended.code == 1
    assert [line.partition("': ")[2].partition("': ")[2] for line in ended.error_lines] == [
        "cannot be imported: ZeroDivisionError: division by zero",
        "'functions' has no 'Grup'; did you mean 'Group'?",
        "an adapter is a subclass of snakepit.Adapter, or its name as 'package.module:Class'; 3.14 "
        "is neither",
    ]


NO_ADAPTER = "an adapter is a subclass of snakepit.Adapter, or its name as 'package.module:Class'"
UNFIT = [
    ('adapter = "collections:OrderedDict"', f"{NO_ADAPTER}; OrderedDict is neither"),
    ('adapter = "adapters:Plain"', f"{NO_ADAPTER}; Plain is neither"),
    ('adapter = "adapters:Idle"', "pool 'p2': adapter 'adapters:Idle': Idle has no tools"),
    ('adapter = "adapters:Half"', "Half has snapshot() and no restore()"),
    ('adapter = "adapters:Raising"', "'adapters:Raising': LookupError: no commands"),
    (
        'adapter_args = { siz = 2 }\nadapter = "adapters:Good"',
        "snakepit.toml:18: pool 'p5': adapter_args: got an unexpected keyword argument 'siz'; "
        "those of Good are: size",
    ),
    (
        'adapter = "adapters:Picky"',
        "snakepit.toml:22: pool 'p6': adapter_args: missing a required argument: 'size'; those of "
        "Picky are: size",
    ),
    (
        'profile = "thread"\nadapter = "adapters:Good"\nthread_safety_checks = "strict"',
        "snakepit.toml:27: pool 'p7': thread_safety_checks 'strict': Good does not declare "
        "__thread_safe__ = True",
    ),
]


def test_check_that_imports_names_every_adapter_that_could_not_run(configured: Command) -> None:
    configured.path("adapters.py").write_text(ADAPTERS)
    right = 'profile = "{}"\nadapter = "adapters:Good"\nthread_safety_checks = "strict"\n{}'
    text = pools(
        *(table for table, _ in UNFIT),
        right.format("process", ""),
        right.format("thread", "threads_per_worker = 1"),
        right.format("thread", 'capacity_strategy = "profile"'),
    )
    configured.path("snakepit.toml").write_text(text)
    assert configured.run("config", "check").code == 0
    ended = configured.run("config", "check", "--import")
    assert ended.code == 1
    assert len(ended.error_lines) == len(UNFIT), ended
    for line, (_, problem) in zip(ended.error_lines, UNFIT, strict=True):
        assert problem in line


def test_check_tells_all_that_is_wrong_with_a_pool_in_one_go(configured: Command) -> None:
    configured.path("adapters.py").write_text(ADAPTERS)
    wrong = pools(
        'adapter = "adapters:Idle"\nadapter_args = { siz = 2 }\nworker_ttl = "1 fortnight"\n'
        'preload = ["nosuchmodule"]\nretry = { retry_on = "functions:PI" }',
        # What is wrong by itself is not held against the adapter, too.
        'adapter = "adapters:Picky"\nadapter_args = 7\nprofile = "thread"\n'
        'threads_per_worker = "one"\nthread_safety_checks = "strict"',
        'adapter = "adapters"\npreload = ["nosuchmodule"]',
    )
    configured.path("snakepit.toml").write_text(wrong)
    ended = configured.run("config", "check", "--import")
    assert [tuple(line.split(": ")[:3]) for line in ended.error_lines] == [
        ("snakepit.toml:3", "pool 'p0'", "adapter 'adapters:Idle'"),
        ("snakepit.toml:4", "pool 'p0'", "adapter_args"),
        (
            "snakepit.toml:5",
            "pools[0].worker_ttl",
            "worker_ttl='1 fortnight' has the unknown unit 'fortnight'; the units are ms, s, m, "
            "min, h, d",
        ),
        ("snakepit.toml:6", "pool 'p0'", "preload 'nosuchmodule'"),
        ("snakepit.toml:7", "pool 'p0'", "retry_on 'functions:PI'"),
        (
            "snakepit.toml:11",
            "pools[1].adapter_args",
            "adapter_args must be a table of the adapter's constructor arguments, not 7",
        ),
        (
            "snakepit.toml:13",
            "pools[1].threads_per_worker",
            "threads_per_worker must be a whole number, not 'one'",
        ),
        (
            "snakepit.toml:17",
            "pools[2].adapter",
            "adapter must be of the form \"package.module:Class\", not 'adapters'",
        ),
        ("snakepit.toml:18", "pool 'p2'", "preload 'nosuchmodule'"),
    ]


@pytest.mark.parametrize("option", [(), ("--import",)])
def test_check_looks_for_what_is_preloaded(configured: Command, option: tuple[str, ...]) -> None:
    configured.path("adapters.py").write_text(ADAPTERS)
    text = pools('adapter = "adapters:Good"\npreload = ["nosuchmodule", "json.tol", "functoins"]')
    configured.path("snakepit.toml").write_text(text)
    ended = configured.run("config", "check", *option)
    start = "snakepit.toml:4: pool 'p0': preload"
    assert ended.error_lines == [
        f"{start} 'nosuchmodule': no module named 'nosuchmodule'",
        f"{start} 'json.tol': no module named 'tol' in 'json'; did you mean 'tool'?",
        f"{start} 'functoins': no module named 'functoins'; did you mean 'functions'?",
    ]


FINDER = """
import sys
from importlib.util import spec_from_file_location

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "installed":
            return spec_from_file_location(
                name, "{folder}/__init__.py", submodule_search_locations=["{folder}"]
            )

class Old:  # as finders were once
    @staticmethod
    def find_module(name, path=None): pass

sys.meta_path += [Old, Finder]
"""


@pytest.mark.parametrize("option", [(), ("--import",)])
def test_check_asks_every_finder(configured: Command, option: tuple[str, ...]) -> None:
    """An editable install is found by a finder of its own, and lies in no folder of the path."""
    folder = configured.path("checkout/src")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("" if option else "raise RuntimeError('imported')\n")
    (folder / "tools.py").write_text(ADAPTERS)
    site = configured.path("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(FINDER.format(folder=folder))
    path = configured.environment["PYTHONPATH"]
    configured.environment["PYTHONPATH"] = os.pathsep.join([str(site), path])
    adapters = ["installed.tools:Good", "installed.tols:Good", "installde.tools:Good"]
    text = pools(*(f'adapter = "{name}"' for name in adapters))
    configured.path("snakepit.toml").write_text(text)
    ended = configured.run("config", "check", *option)
    assert [line.partition("Good': ")[2] for line in ended.error_lines] == [
        "no module named 'tols' in 'installed'; did you mean 'tools'?",
        "no module named 'installde'",
    ]


def test_check_suggests_no_files_that_are_no_modules(configured: Command) -> None:
    configured.path("gadgets.toml").write_text("")
    configured.path("snakepit.toml").write_text('adapter = "gadgets:Gadget"')
    ended = configured.run("config", "check")
    assert ended.errors.endswith("'gadgets:Gadget': no module named 'gadgets'\n")


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
    configured.path("adapters.py").write_text(ADAPTERS)
    text = configured.path("snakepit.toml").read_text().replace("functions:Group", "adapters:Good")
    configured.path("snakepit.toml").write_text(text)
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
