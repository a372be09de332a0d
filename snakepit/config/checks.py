"""Checks of single settings: each takes what a source said and returns what is meant.

They raise ValueError with a sentence that names the setting; pydantic would let a TypeError pass
through as a programming error, so none leaves this module.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import BaseContext
from typing import Any

from snakepit.config.exceptions import one_by_one, with_classes
from snakepit.config.references import is_reference
from snakepit.lifecycle.blas import checked_blas_threads
from snakepit.lifecycle.graces import Graces
from snakepit.options import SECONDS, checked_bytes, checked_count, checked_seconds, did_you_mean
from snakepit.pool.limits import checked_every

# TOML and the environment have no word for None.
NEVER = ("none", "never", "infinity", "inf")

Check = Callable[[str, Any], Any]


class Problems(ValueError):
    """All that is wrong with the value of one setting: `messages`, a sentence each."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = messages


def check_each(check: Check, name: str, parts: Iterable[Any]) -> list[Any]:
    """Return what `check(name, part)` returns of each part. Raises Problems, of all parts."""
    found: list[Any] = []
    wrong: list[str] = []
    for part in parts:
        try:
            found.append(check(name, part))
        except (TypeError, ValueError) as error:
            wrong.append(str(error))
    if wrong:
        raise Problems(wrong)
    return found


def is_never(value: object) -> bool:
    """Whether a source says that there is no limit."""
    if isinstance(value, str):
        return value.strip().lower() in NEVER
    return value is None or (isinstance(value, float) and value == math.inf)


def optional(check: Check) -> Check:
    """Return a check that also takes None and the words for it."""
    return lambda name, value: None if is_never(value) else check(name, value)


def choice(*known: str) -> Check:
    """Return a check for one of a few words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            near = did_you_mean(value, known)
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{near}")
        return value

    return check


def seconds(name: str, value: Any) -> float:
    """A time above 0, in seconds or with a unit."""
    return checked_seconds(name, value)


def megabytes(name: str, value: Any) -> float:
    """A size in megabytes, or with a unit; returned in megabytes."""
    return checked_bytes(name, value, unit=10**6) / 10**6


def size_in_bytes(name: str, value: Any) -> int:
    """A size in bytes, or with a unit."""
    return checked_bytes(name, value)


def count(name: str, value: Any) -> int:
    """A whole number from 1 on."""
    return checked_count(name, value)


def count_up_to(most: int) -> Check:
    """Return a check for a whole number from 1 to `most`."""

    def check(name: str, value: Any) -> int:
        number = checked_count(name, value)
        if number > most:
            raise ValueError(f"{name} must be at most {most}, not {number}")
        return number

    return check


def milliseconds(name: str, value: Any) -> float:
    """A time of 0 or more, in milliseconds or with a unit; returned in milliseconds."""
    if isinstance(value, str):
        return round(checked_seconds(name, value) / SECONDS["ms"], 6)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number of milliseconds, not {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be 0 or more milliseconds, not {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """Text that is not empty; a number, as the environment may give it, counts as its digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be text that is not empty, not {value!r}")
    return value


def path(name: str, value: Any) -> str:
    """The name of a folder, with a leading ~ for the user's own."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    return os.path.expanduser(text(name, value))


def adapter(name: str, value: Any) -> Any:
    """An adapter class, or where to import it from."""
    if isinstance(value, type):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{name} must be a class or "package.module:Class", not {value!r}')
    if not is_reference(value):
        raise ValueError(f'{name} must be of the form "package.module:Class", not {value!r}')
    return value


def adapter_args(name: str, value: Any) -> dict[str, Any]:
    """What the adapter's constructor is given, by name."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a table of the adapter's constructor arguments, not {value!r}"
        )
    check_each(_argument_name, name, value)
    return dict(value)


def _argument_name(name: str, key: Any) -> None:
    if not isinstance(key, str) or not key.isidentifier():
        raise ValueError(f"{name}: {key!r} cannot be the name of an argument")


def environment(name: str, value: Any) -> dict[str, str]:
    """Environment variables, as a table or as pairs."""
    pairs: Iterable[Any] = value.items() if isinstance(value, Mapping) else value
    if isinstance(value, str) or not isinstance(pairs, Iterable):
        raise ValueError(f"{name} must be a table of environment variables, not {value!r}")
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Iterable):
            raise ValueError(f"{name} must be a table, or a list of [name, value], not {value!r}")
    return dict(check_each(_variable, name, pairs))


def _variable(name: str, pair: Any) -> tuple[str, str]:
    key, *values = pair
    if not isinstance(key, str) or not key or "=" in key or "\0" in key:
        raise ValueError(f"{name}: {key!r} cannot be the name of an environment variable")
    if len(values) != 1 or not isinstance(values[0], str | int | float | os.PathLike):
        raise ValueError(f"{name}: {key} must be text or a number, not {values!r}")
    plain = values[0]
    # As shells and most libraries write it, not as Python does.
    return key, str(plain).lower() if isinstance(plain, bool) else str(plain)


def module_names(name: str, value: Any) -> tuple[str, ...]:
    """Names of modules: a list, or one."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError(f"{name} must be a list of names of modules, not {value!r}")
    return tuple(check_each(_module_name, name, names))


def _module_name(name: str, module: Any) -> str:
    if not isinstance(module, str) or not all(p.isidentifier() for p in module.split(".")):
        raise ValueError(f"{name}: {module!r} is not the name of a module")
    return module


def graces(name: str, value: Any) -> Graces:
    """Grace times of stopping a call, as a table of seconds or of text with units."""
    if isinstance(value, Mapping):
        check_each(lambda _, pair: Graces.checked(dict([pair])), name, value.items())
    return Graces.checked(value)


def blas_threads(name: str, value: Any) -> int | str | None:
    """A number of threads, or "share"."""
    return checked_blas_threads(value)


def snapshot_every(_name: str, value: Any) -> int | str | None:
    """A number of calls, or a time with a unit."""
    checked_every(value)
    return value if isinstance(value, str) else int(value)


def inline_threshold(name: str, value: Any) -> int:
    """A number of bytes, from 0 on."""
    return 0 if value == 0 and not isinstance(value, bool) else count_up_to(1 << 20)(name, value)


def context(name: str, value: Any) -> BaseContext:
    """A multiprocessing context, which only a program can give."""
    if not isinstance(value, BaseContext):
        raise ValueError(
            f"{name} must be a multiprocessing context, not {value!r}; start_method names one as "
            "text"
        )
    return value


def session_store(name: str, value: Any) -> Any:
    """A store of sessions, which only a program can give."""
    import snakepit

    if not isinstance(value, snakepit.SessionStore):
        raise ValueError(f"{name} must be a snakepit.SessionStore, not {value!r}")
    return value


def thread_safety(name: str, value: Any) -> str | None:
    """Whether an adapter that is not declared thread-safe is warned about, or refused."""
    if isinstance(value, bool):
        return "warn" if value else None
    if value in ("warn", "strict"):
        return str(value)
    if is_never(value):
        return None
    raise ValueError(f'{name} must be true, false, "warn" or "strict", not {value!r}')


def table_for(maker: str) -> Check:
    """Return a check for a table of the arguments of a class of `snakepit`, or such an object.

    Exception classes may be named as text, which stays in the table.
    """

    def check(name: str, value: Any) -> Any:
        import snakepit

        cls = getattr(snakepit, maker)
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a table of the arguments of snakepit.{maker}")
        known = cls.__init__.__annotations__.keys() - {"return", "clock"}

        def make(name: str, arguments: Mapping[str, Any]) -> None:
            for key in arguments:
                if key not in known:
                    near = did_you_mean(str(key), known)
                    raise ValueError(f"{name} has no setting {key!r}{near}")
            try:
                cls(**with_classes(arguments, imported=False))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from error

        check_each(make, name, one_by_one(value))
        make(name, value)
        return dict(value)

    return check
