"""Whether the adapters and exception classes that a configuration names are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path

from snakepit.config.exceptions import class_problem, references_in
from snakepit.config.loading import Config
from snakepit.config.models import PoolSettings
from snakepit.config.references import module_of, resolved
from snakepit.options import did_you_mean

__all__ = ["adapter_problems"]


def adapter_problems(config: Config, *, imported: bool = False) -> list[str]:
    """Return what is wrong with the classes that pools name by their modules, a line each.

    These are adapters, and the exception classes of `retry` and `breaker`. Their modules are looked
    for as Python would from the current folder; no code of theirs runs. `imported`: import them,
    and look for the classes too.
    """
    problems = []
    for pool in config.pools:
        for path, setting, reference in _references(pool):
            place = config.provenance.get(f"pools.{pool.name}.{path}", "configuration")
            with _current_folder_importable():
                problem = _missing_module(module_of(reference))
                if problem is None and imported:
                    problem = _import_problem(setting, reference)
            if problem is not None:
                problems.append(f"{place}: pool {pool.name!r}: {setting} {reference!r}: {problem}")
    return problems


def _references(pool: PoolSettings) -> Iterator[tuple[str, str, str]]:
    """Yield each: the setting that came from somewhere, the one that it is for, and the text."""
    if isinstance(pool.adapter, str):
        yield "adapter", "adapter", pool.adapter
    for table in ("retry", "breaker"):
        for setting, reference in references_in(getattr(pool, table)):
            yield table, setting, reference


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As for `python -m` and a program of this folder; the command itself was started elsewhere."""
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _missing_module(module: str) -> str | None:
    """The first part of a dotted name that is not there.

    Unlike importlib.util.find_spec, which imports the packages above a module, this asks the path
    finder folder by folder, so that a check has no effects.
    """
    folders: Sequence[str] | None = None
    names = module.split(".")
    for depth, name in enumerate(names):
        whole = ".".join(names[: depth + 1])
        if depth == 0 and (BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name)):
            return None
        spec = PathFinder.find_spec(whole, folders)
        if spec is None:
            package = ".".join(names[:depth])
            where = f" in {package!r}" if package else ""
            return (
                f"no module named {name!r}{where}{did_you_mean(name, _modules_in(folders), 0.75)}"
            )
        if depth + 1 < len(names) and spec.submodule_search_locations is None:
            return f"{whole!r} is a module, not a package"
        if spec.submodule_search_locations is not None:
            folders = list(spec.submodule_search_locations)
    return None


def _modules_in(folders: Sequence[str] | None) -> set[str]:
    found: set[str] = set()
    for folder in sys.path if folders is None else folders:
        try:
            entries = list(Path(folder or ".").iterdir())
        except OSError:
            continue
        found.update(entry.name.partition(".")[0] for entry in entries)
    return {name for name in found if name.isidentifier()}


def _import_problem(setting: str, reference: str) -> str | None:
    try:
        found = resolved(reference)
    except ValueError as error:
        return str(error)
    if setting != "adapter":
        return class_problem(found)
    if not isinstance(found, type):
        return f"is not a class but of type {type(found).__name__}"
    return None
