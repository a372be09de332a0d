"""Usage errors, ``--version``, ``info``, and the command without its optional dependencies."""

import os
import subprocess
import sys

import pytest

from .command import Command


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("functions:sqare", "module 'functions' has no attribute 'sqare' (near: square"),
        ("functions:Group.shoot", "'Group' has no attribute 'shoot' (near: shout"),
        ("functoins:square", "no module named 'functoins' (near: functions"),
        ("json.decodr:JSONDecoder", "no module named 'decodr' in 'json' (near: decoder"),
        ("functions:PI", "'functions:PI' cannot be called: it is of type float"),
        ("functions", "'functions' is not of the form MODULE:FUNCTION"),
        ("functions:", "'functions:' is not of the form MODULE:FUNCTION"),
        ("functions.py:square", "'functions.py' is a file; give its module: functions:square"),
    ],
)
def test_function_that_is_not_there(command: Command, function: str, message: str) -> None:
    ended = command.map(function, stdin=b"1\n")
    assert (ended.code, ended.output) == (2, b"")
    assert ended.errors.startswith(f"snakepit map: {message}")
    assert len(ended.error_lines) == 1


def test_module_that_raises_while_it_is_imported(command: Command) -> None:
    command.path("broken.py").write_text("x = 1\nprint('seen')\nx / 0\n")
    ended = command.map("broken:f", stdin=b"1\n")
    assert (ended.code, ended.output) == (2, b"")
    (error,) = [line for line in ended.error_lines if line != "seen"]
    assert error.startswith("snakepit map: cannot import 'broken': ZeroDivisionError: division")
    assert error.endswith("broken.py:3)")


def test_module_that_exits_while_it_is_imported(command: Command) -> None:
    command.path("leaves.py").write_text("raise SystemExit(0)\n")
    ended = command.map("leaves:f", stdin=b"1\n")
    assert ended.code == 2
    assert ended.errors.startswith("snakepit map: cannot import 'leaves': SystemExit: 0")


def test_module_that_imports_what_is_not_there(command: Command) -> None:
    command.path("needs.py").write_text("import no_such_thing\n")
    ended = command.map("needs:f", stdin=b"1\n")
    assert ended.code == 2
    assert "cannot import 'needs': ModuleNotFoundError: No module named 'no_such_thing'" in (
        ended.errors
    )


def test_syntax_error_of_the_module(command: Command) -> None:
    command.path("wrong.py").write_text("def f(:\n")
    ended = command.map("wrong:f", stdin=b"1\n")
    assert ended.code == 2
    assert "cannot import 'wrong': SyntaxError: " in ended.errors
    assert "wrong.py, line 1" in ended.errors


def test_what_a_module_prints_while_it_is_imported_is_no_result(command: Command) -> None:
    command.path("talks.py").write_text("print('hello')\ndef f(item): return item\n")
    assert command.map("talks:f", stdin=b"1\n").output == b"1\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "0"],
        ["--workers", "many"],
        ["--chunksize", "0"],
        ["--timeout", "-1"],
        ["--profile", "thread"],
        ["--timeout", "1", "--profile", "local"],
        ["--workers", "100000"],
        ["--no-such-option"],
    ],
)
def test_bad_option_is_a_usage_error(command: Command, options: list[str]) -> None:
    ended = command.run("map", "functions:same", *options)
    assert (ended.code, ended.output) == (2, b"")
    assert options[0].strip("-") in ended.errors
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.txt", "there is no such file"), (".", "it is a directory")],
)
def test_unreadable_file_is_found_before_anything_is_run(
    command: Command, name: str, reason: str
) -> None:
    command.path("a.txt").write_text("1\n")
    ended = command.map("functions:same", "a.txt", name)
    assert (ended.code, ended.output) == (2, b"")
    assert ended.error_lines == [f"snakepit map: cannot read '{name}': {reason}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file_is_a_usage_error(command: Command) -> None:
    command.path("a.txt").touch(mode=0)
    ended = command.map("functions:same", "a.txt")
    assert ended.code == 2
    assert ended.error_lines == ["snakepit map: cannot read 'a.txt': permission denied"]


def test_file_that_cannot_be_read_to_its_end(command: Command) -> None:
    command.path("a.txt").write_text("1\n2\n")
    # Reading a process's memory from address 0 fails, though the file can be opened.
    ended = command.map("functions:same", "a.txt", "/proc/self/mem")
    assert (ended.code, ended.lines) == (2, ["1", "2"])
    assert ended.error_lines == ["snakepit map: cannot read '/proc/self/mem': Input/output error"]


@pytest.mark.parametrize(("stream", "message"), [(0, "cannot read '-'"), (1, "cannot write")])
def test_closed_stream_is_a_usage_error(command: Command, stream: int, message: str) -> None:
    process = command.start_map("functions:same", preexec_fn=lambda: os.close(stream))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.decode().startswith(f"snakepit map: {message}")


def test_version(command: Command) -> None:
    ended = command.run("--version")
    assert ended.code == 0
    name, number = ended.output.split()
    assert name == b"snakepit"
    assert number[:1].isdigit()


def test_help_names_every_option(command: Command) -> None:
    ended = command.run("map", "--help")
    assert ended.code == 0
    for option in (
        "--workers",
        "--json",
        "--print0",
        "--unordered",
        "--stop-on-error",
        "--timeout",
    ):
        assert option in ended.output.decode()


def test_info_states_facts(command: Command) -> None:
    ended = command.run("info")
    assert (ended.code, ended.errors) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in ended.lines)
    assert facts["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert facts["GIL"] in ("on", "off")
    assert int(facts["CPUs"].split()[0]) >= 1


@pytest.mark.parametrize(
    "arguments", [["info"], ["--help"], ["map", "--help"], ["--version"], ["clean"]]
)
def test_output_that_nobody_reads_is_told_by_the_exit_code(
    command: Command, arguments: list[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = command.start(*arguments, stdout=writer)
    os.close(writer)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.parametrize("arguments", [["info"], ["--help"], ["--version"], ["clean"]])
def test_output_that_finds_no_space_is_one_line(command: Command, arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        process = command.start(*arguments, stdout=full)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.decode().splitlines()
    assert line.startswith("snakepit: ") and line.endswith("No space left on device")


def test_missing_typer_is_one_line(command: Command) -> None:
    script = (
        "import sys; sys.modules['typer'] = None\nfrom snakepit.cli import main; sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=command.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install 'snakepit-pool[cli]'" in ended.stderr


def test_package_does_not_import_the_command_line(command: Command) -> None:
    script = (
        "import sys, snakepit, snakepit.cli.items\n"
        "print([name for name in ('typer', 'rich', 'tqdm', 'snakepit.cli.app') "
        "if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=command.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[]"
