"""From ``MODULE:FUNCTION`` to something that can be called, or to the reason why not."""

import os
import pkgutil
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

from snakepit.cli.items import Target, describe, resolve


class UsageError(Exception):
    """The command line asks for something that cannot be; the command ends with exit code 2."""


def find_target(name: str) -> Target:
    """Import the module of ``MODULE:FUNCTION`` and check that the function is there.

    Raises UsageError: not of that form, no such module or attribute (with the nearest names), a
    module that fails while it is imported, or an attribute that cannot be called.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"'{name}' is not of the form MODULE:FUNCTION, for example math:sqrt")
    if module.endswith(".py") or os.sep in module:
        dotted = module.removesuffix(".py").removeprefix("./").replace(os.sep, ".")
        raise UsageError(f"'{module}' is a file; give its module: {dotted}:{attribute}")
    target = Target(module, attribute, os.getcwd())
    if target.directory not in sys.path:
        sys.path.insert(0, target.directory)
    _import(module)
    try:
        function = resolve(target)
    except AttributeError as error:
        raise UsageError(_missing_attribute(target)) from error
    if not callable(function):
        raise UsageError(f"'{target}' cannot be called: it is of type {type(function).__name__}")
    return target


def _import(module: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(f"cannot import '{module}': {describe(error)}") from error
        package, _, name = error.name.rpartition(".")
        near = _nearest(name, _module_names(package))
        where = f" in '{package}'" if package else ""
        raise UsageError(f"no module named '{name}'{where}{near}") from error
    except KeyboardInterrupt:
        raise
    except (
        BaseException
    ) as error:  # whatever a module raises, SystemExit too, is its author's to see
        raise UsageError(f"cannot import '{module}': {describe(error)}{_place(error)}") from error


def _missing_attribute(target: Target) -> str:
    """The message for the first name of the path that is not there."""
    holder: object = sys.modules[target.module]
    shown = f"module '{target.module}'"
    for name in target.attribute.split("."):
        if not hasattr(holder, name):
            return f"{shown} has no attribute '{name}'{_nearest(name, dir(holder))}"
        holder = getattr(holder, name)
        shown = f"'{name}'"
    return f"'{target}' was not found"


def _module_names(package: str) -> Iterable[str]:
    """The names of the modules in a package, or of those that can be imported by themselves."""
    if package:
        path = getattr(sys.modules.get(package), "__path__", [])
        return [info.name for info in pkgutil.iter_modules(path)]
    return sys.stdlib_module_names | {info.name for info in pkgutil.iter_modules()}


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, names, n=3)
    return f" (near: {', '.join(near)})" if near else ""


def _place(error: BaseException) -> str:
    """Where the innermost frame of the error's traceback stands."""
    traceback = error.__traceback__
    if traceback is None or isinstance(error, SyntaxError):
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f" ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})"
