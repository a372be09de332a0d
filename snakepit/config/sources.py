"""Where configuration comes from: files, arguments, the environment."""

from __future__ import annotations

import datetime
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakepit.config.positions import KeyPath, key_lines
from snakepit.environment import CONFIG_VARIABLE, PREFIX, setting_variables
from snakepit.errors import ConfigError
from snakepit.options import did_you_mean

__all__ = [
    "Source",
    "find_file",
    "from_arguments",
    "from_environment",
    "from_file",
    "in_order",
    "shown",
]

FILE = "snakepit.toml"
PROJECT_FILE = "pyproject.toml"
NESTING = "__"


@dataclass(frozen=True)
class Source:
    """What one source says, as nested plain data, and where in it a key stands."""

    data: Mapping[str, Any]
    where: Callable[[KeyPath], str]
    is_environment: bool = False


def shown(path: KeyPath) -> str:
    """Return a path as one would write it: `pools[1].worker_ttl`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def find_file(folder: Path | None = None) -> Path | None:
    """Return the configuration file that is nearest: in `folder`, or above it.

    SNAKEPIT_CONFIG names another. In each folder snakepit.toml is looked for first, and then a
    pyproject.toml that has a table [tool.snakepit]. `folder`: by default the current one.
    """
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    start = (folder or Path.cwd()).resolve()
    for place in (start, *start.parents):
        if (place / FILE).is_file():
            return place / FILE
        project = place / PROJECT_FILE
        if project.is_file() and _has_table(project):
            return project
    return None


def _has_table(project: Path) -> bool:
    try:
        text = project.read_text(encoding="utf-8")
        # A project file that another tool has to complain about is not ours to refuse.
        return "snakepit" in text and "snakepit" in tomllib.loads(text).get("tool", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


def from_file(path: Path) -> Source:
    """Read a TOML file. Raises ConfigError: it cannot be read, or is not valid TOML."""
    name = _short(path)
    try:
        # Newlines as tomllib takes them; it refuses a carriage return that stands alone.
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
        data = tomllib.loads(text)
    except OSError as error:
        raise ConfigError.of([f"{name}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError.of([f"{name}: is not encoded in UTF-8: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.of([f"{name}: is not valid TOML: {error}"]) from error
    prefix: KeyPath = ()
    if path.name == PROJECT_FILE:
        tool = data.get("tool", {})
        prefix = ("tool", "snakepit")
        if "snakepit" not in tool:
            raise ConfigError.of([f"{name}: has no table [tool.snakepit]"])
        data = tool["snakepit"]
        if not isinstance(data, dict):
            raise ConfigError.of([f"{name}: tool.snakepit must be a table, not {data!r}"])
    lines = key_lines(text)

    def where(key: KeyPath) -> str:
        whole = (*prefix, *key)
        while whole and whole not in lines:
            whole = whole[:-1]
        return f"{name}:{lines[whole]}" if whole else name

    return Source(data, where)


def _short(path: Path) -> str:
    """The path from the current folder if it is below it, else as it is."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def in_order(problems: Iterable[str], file: Path | None) -> list[str]:
    """Sort problems by where they stand in the file; those of arguments and variables come last."""
    start = f"{_short(file)}:" if file is not None else ""

    def line(problem: str) -> float:
        if not start or not problem.startswith(start):
            return math.inf
        number = problem.removeprefix(start).partition(":")[0]
        return int(number) if number.isdecimal() else 0  # 0: about the file as a whole

    return sorted(problems, key=line)


def from_arguments(arguments: Mapping[str, Any]) -> Source:
    """Take a dict or keyword arguments."""
    return Source(arguments, lambda key: f"argument {shown(key)}")


def from_environment(pool_names: Mapping[str, str], problems: list[str]) -> Source:
    """Take the variables SNAKEPIT_*; two underscores lead one level down.

    `pool_names`: the names of the pools there are, by what stands for them in a variable. What is
    wrong, such as a variable for a pool that is not among them, is added to `problems`.
    """
    data: dict[str, Any] = {}
    names: dict[KeyPath, str] = {}
    for variable, path, text in _variables():
        if path[0] == "pools":
            if len(path) < 3:
                problems.append(
                    f"{variable}: pools are listed in a file; a variable sets one value of one of "
                    f"them, such as {PREFIX}POOLS{NESTING}DEFAULT{NESTING}POOL_SIZE"
                )
                continue
            if path[1] not in pool_names:
                near = did_you_mean(path[1], pool_names)
                known = ", ".join(pool_names) or "none"
                problems.append(f"{variable}: no pool {path[1]!r}; there are: {known}{near}")
                continue
            path = ("pools", pool_names[path[1]], *path[2:])
        table: Any = data
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                problems.append(f"{variable}: {PREFIX}{part.upper()} is set as well; set one")
                break
        else:
            table[path[-1]] = _value(text)
            names[path] = variable

    def where(key: KeyPath) -> str:
        for path, variable in names.items():
            if path[: len(key)] == key or key[: len(path)] == path:
                return f"environment {variable}"
        return "environment"

    return Source(data, where, is_environment=True)


def variable_part(pool: str) -> str:
    """Return what stands for a pool's name in a variable, in lower case."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in pool).lower()


def _variables() -> Iterator[tuple[str, tuple[str, ...], str]]:
    # Sorted, so that SNAKEPIT_X comes before SNAKEPIT_X__Y and messages keep their order.
    for variable, text in setting_variables().items():
        parts = variable[len(PREFIX) :].split(NESTING)
        free = False  # below adapter_env a name means itself
        path: list[str] = []
        for part in parts:
            path.append(part if free else part.lower())
            free = free or part.lower() == "adapter_env"
        if len(path) > 1 and "adapter_env" in path[:-1]:
            # A variable may have two underscores in its own name.
            place = path.index("adapter_env") + 1
            path = [*path[:place], NESTING.join(path[place:])]
        yield variable, tuple(path), text


def _value(text: str) -> Any:
    """A variable's text as the TOML value that it is, or else as text."""
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # "1\nother = 2" is TOML too, and so is a date, which no setting takes.
    if len(value) > 1 or isinstance(value["value"], datetime.date | datetime.time):
        return text
    return value["value"]
