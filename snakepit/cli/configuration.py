"""``snakepit config``: check a configuration, and show where each value came from."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from snakepit.config import Config

commands = typer.Typer(
    name="config", help="Check a configuration, or show it.", no_args_is_help=True
)

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]",
        help="A TOML file.",
        show_default="the nearest snakepit.toml, or pyproject.toml with [tool.snakepit]",
    ),
]


@commands.command("check")
def _check(
    file: File = None,
    imported: Annotated[
        bool,
        typer.Option(
            "--import",
            help="Import the modules that are named, and see whether pools could run their "
            "adapters.",
        ),
    ] = False,
) -> None:
    """Check a configuration, with the variables SNAKEPIT_* of this environment, and say all that is wrong.

    Exit code: 0; 1 if something is wrong, a problem a line on stderr; 2 for a usage error.
    """  # noqa: E501 - the help keeps line ends, and wraps by itself
    raise typer.Exit(check(file, imported=imported))


@commands.command("show")
def _show(
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    everything: Annotated[
        bool, typer.Option("--all/--set", help="All settings, or only those that are set.")
    ] = True,
) -> None:
    """Show the values that are in force, and where each of them came from.

    Exit code: 0; 1 if the configuration is wrong; 2 for a usage error.
    """
    raise typer.Exit(show(file, as_json=as_json, everything=everything))


def check(file: Path | None, *, imported: bool) -> int:
    """Print what is wrong with a configuration to stderr and return the exit code."""
    try:
        from snakepit.config.adapters import adapter_problems
        from snakepit.config.loading import look_at
        from snakepit.config.sources import in_order
    except ModuleNotFoundError as error:
        print(f"snakepit config: {error}", file=sys.stderr)
        return 1
    from snakepit.errors import ConfigError

    try:
        config, problems = look_at(file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    problems += adapter_problems(config, imported=imported)
    if problems:
        print("\n".join(in_order(problems, config.file)), file=sys.stderr)
        return 1
    names = ", ".join(pool.name for pool in config.pools) or "no pools"
    print(f"{_origin(config)}: ok ({names})")
    return 0


def show(file: Path | None, *, as_json: bool, everything: bool) -> int:
    """Print the values that are in force and return the exit code."""
    config = _load(file)
    if config is None:
        return 1
    rows = [row for row in config.values() if everything or row[3] != "default"]
    process = [
        (key, value, config.provenance.get(key, "default"))
        for key, value in config.process
        if everything or value is not None
    ]
    if as_json:
        _print_json(config, rows, process)
    else:
        _print_tables(config, rows, process)
    return 0


def _load(file: Path | None) -> "Config | None":
    try:
        from snakepit.config import load_config
    except ModuleNotFoundError as error:
        print(f"snakepit config: {error}", file=sys.stderr)
        return None
    from snakepit.errors import ConfigError

    try:
        return load_config(file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return None


def _origin(config: "Config") -> str:
    return str(config.file) if config.file is not None else "environment"


Rows = list[tuple[str, str, Any, str]]
ProcessRows = list[tuple[str, Any, str]]


def _print_json(config: "Config", rows: Rows, process: ProcessRows) -> None:
    pools: dict[str, dict[str, Any]] = {pool.name: {} for pool in config.pools}
    for name, key, value, source in rows:
        pools[name][key] = {"value": _plain(value), "from": source}
    document = {
        "file": str(config.file) if config.file is not None else None,
        "process": {key: {"value": value, "from": source} for key, value, source in process},
        "pools": pools,
    }
    print(json.dumps(document, indent=2))


def _plain(value: Any) -> Any:
    """The value as JSON has it: times and policies as tables, a class by its name."""
    from dataclasses import asdict, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _print_tables(config: "Config", rows: Rows, process: ProcessRows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    groups = {pool.name: [row[1:] for row in rows if row[0] == pool.name] for pool in config.pools}
    tables = [("process", process), *((f"pool {name}", group) for name, group in groups.items())]
    texts = []
    for title, lines in tables:
        if not lines:
            continue
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in (title, "value", "from"):
            table.add_column(Text(heading), overflow="fold")
        for key, value, source in lines:
            table.add_row(Text(key), Text(_worded(value)), Text(source))
        with console.capture() as capture:
            console.print(table)
        # A table fills its columns up; nobody who copies the output wants that.
        texts.append("\n".join(line.rstrip() for line in capture.get().splitlines()))
    print("\n\n".join(texts))


def _worded(value: Any) -> str:
    """The value as one would write it in a file."""
    plain = _plain(value)
    if plain is None:
        return "none"
    if isinstance(plain, float):
        return f"{plain:g}"
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
