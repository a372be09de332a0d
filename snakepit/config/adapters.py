"""Whether the modules and classes that a configuration names are there, and fit their pools."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from snakepit.adapters.adapter import Adapter
from snakepit.adapters.tools import can_move_sessions, find_adapter
from snakepit.config.exceptions import class_problem, references_in
from snakepit.config.loading import MISSING_ADAPTER, Config
from snakepit.config.models import PoolSettings
from snakepit.config.references import imported_module, module_of, resolved
from snakepit.errors import AdapterError
from snakepit.options import did_you_mean
from snakepit.pool.shape import check_thread_safety, checked_shape

__all__ = ["adapter_problems"]

# What decides whether an adapter is refused because several threads would share it.
SHARING = {"profile", "threads_per_worker", "capacity_strategy", "thread_safety_checks"}

Problems = Iterator[tuple[str, str]]  # each: the key of the pool that is wrong, and why


def adapter_problems(config: Config, *, imported: bool = False) -> list[str]:
    """Return what is wrong with the modules and classes that pools name, a line each.

    These are adapters, the modules of `preload`, and the exception classes of `retry` and
    `breaker`. Modules are looked for as Python would from the current folder; no code of theirs
    runs. `imported`: import them, look for the classes too, and whether each pool could run its
    adapter.
    """
    problems = []
    with _current_folder_importable():
        for pool in config.pools:
            places = {
                key: config.provenance[path]
                for key in PoolSettings.model_fields
                if (path := f"pools.{pool.name}.{key}") in config.provenance
            }
            for key, problem in _problems_of(pool, places.keys(), imported=imported):
                place = places.get(key, places.get("adapter", "configuration"))
                problems.append(f"{place}: pool {pool.name!r}: {problem}")
    return problems


def _problems_of(pool: PoolSettings, given: Set[str], *, imported: bool) -> Problems:
    """`given`: the keys that the sources have; a value that is wrong is not in the pool."""
    if isinstance(pool.adapter, str) and pool.adapter != MISSING_ADAPTER:
        cls, problem = _found(pool.adapter, imported=imported)
        if problem is not None:
            yield "adapter", f"adapter {pool.adapter!r}: {problem}"
        elif imported:
            yield from _misfits(cls, pool, given - pool.model_fields_set)
    for module in pool.preload:
        problem = _module_problem(module, imported=imported)
        if problem is not None:
            yield "preload", f"preload {module!r}: {problem}"
    for table in ("retry", "breaker"):
        for setting, reference in references_in(getattr(pool, table)):
            cls, problem = _found(reference, imported=imported)
            if imported and problem is None:
                problem = class_problem(cls)
            if problem is not None:
                yield table, f"{setting} {reference!r}: {problem}"


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


def _found(reference: str, *, imported: bool) -> tuple[Any, str | None]:
    """Return what a reference names, None unless `imported`; and what is wrong with it."""
    problem = _module_problem(module_of(reference), imported=imported)
    if problem is None and imported:
        try:
            return resolved(reference), None
        except ValueError as error:
            problem = str(error)
    return None, problem


def _module_problem(module: str, *, imported: bool) -> str | None:
    if not imported:
        return _missing_module(module)
    try:
        imported_module(module)
    except ValueError as error:
        missing = isinstance(error.__cause__, ModuleNotFoundError)
        # The search knows the names that are near.
        return (_missing_module(module) if missing else None) or str(error)
    return None


def _missing_module(module: str) -> str | None:
    """The first part of a dotted name that is not there.

    Unlike importlib.util.find_spec, which imports the packages above a module, this goes folder by
    folder below the first name, so that a check has no effects.
    """
    folders: Sequence[str] | None = None
    names = module.split(".")
    for depth, name in enumerate(names):
        whole = ".".join(names[: depth + 1])
        spec = PathFinder.find_spec(whole, folders) if depth else _spec_of(name)
        if spec is None:
            package = ".".join(names[:depth])
            where = f" in {package!r}" if package else ""
            near = did_you_mean(name, _modules_in(folders) - {name}, 0.75)
            return f"no module named {name!r}{where}{near}"
        if spec.origin in ("built-in", "frozen"):
            return None
        if depth + 1 < len(names) and spec.submodule_search_locations is None:
            return f"{whole!r} is a module, not a package"
        if spec.submodule_search_locations is not None:
            folders = list(spec.submodule_search_locations)
    return None


def _spec_of(name: str) -> ModuleSpec | None:
    """Ask all finders, as an import does: an editable install has one of its own."""
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    specs = (finder.find_spec(name, None) for finder in finders)
    return next((spec for spec in specs if spec is not None), None)


def _modules_in(folders: Sequence[str] | None) -> set[str]:
    found: set[str] = set()
    for folder in sys.path if folders is None else folders:
        try:
            entries = list(Path(folder or ".").iterdir())
        except OSError:
            continue
        # Not those of other files, such as a snakepit.toml.
        found.update(
            entry.name if entry.is_dir() else inspect.getmodulename(entry.name) or ""
            for entry in entries
        )
    return {name for name in found if name.isidentifier()}


def _misfits(cls: Any, pool: PoolSettings, unknown: Set[str]) -> Problems:
    """Yield why a pool could not run what it names as its adapter; its keys `unknown` are wrong."""
    try:
        find_adapter(cls)
        can_move_sessions(cls)
    except AdapterError as error:
        yield "adapter", f"adapter {pool.adapter!r}: {error}"
    except Exception as error:  # a class method that tells its tools is its author's
        yield "adapter", f"adapter {pool.adapter!r}: {type(error).__name__}: {error}"
    if not (isinstance(cls, type) and issubclass(cls, Adapter)):
        return
    if "adapter_args" not in unknown:
        problem = _argument_problem(cls, pool.adapter_args)
        if problem is not None:
            yield "adapter_args", f"adapter_args: {problem}"
    if pool.thread_safety_checks == "strict" and not unknown & SHARING:
        given = None if pool.profile == "process" else pool.threads_per_worker
        _, threads = checked_shape(pool.profile, None, given, pool.capacity_strategy)
        shared = pool.profile != "process" and threads > 1
        try:
            check_thread_safety(cls, "strict", pool.profile, shared=shared)
        except AdapterError as error:
            yield "thread_safety_checks", f"thread_safety_checks 'strict': {error}"


def _argument_problem(cls: type[Adapter], arguments: dict[str, Any]) -> str | None:
    try:
        signature = inspect.signature(cls)
    except ValueError:
        return None  # only a call could tell
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "none"
        return f"{error}; those of {cls.__qualname__} are: {takes}"
    return None
