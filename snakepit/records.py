"""`record`: `dataclasses.dataclass` for the classes that a program loads before its first call.

`dataclasses` writes source text for each class and compiles it, and brings `inspect` and `ast`
along: together some 40 ms of CPU time for the twenty classes that a pool and a worker need, more
than everything else they load. A record has the same face (fields, defaults, equality, hash, repr,
`__post_init__`, `frozen`), made of ordinary functions. For who asks, with `dataclasses.replace`,
`asdict`, `fields` or `is_dataclass`, it is a dataclass: what these look for is made at that moment.
For a type checker it is one anyway.

Making an instance costs a microsecond more than a dataclass's. So this is for classes of which a
pool has a few, and without inheritance.
"""

from __future__ import annotations

TYPE_CHECKING = False  # As in `typing`, which is not needed here.
if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field as field
    from typing import Any

__all__ = ["field", "record"]


class _Fresh:
    """In place of a default: each instance gets a new value."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory


class _MadeWhenAsked:
    """An attribute of a record's class that takes `dataclasses` to be made."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: Any) -> Any:
        import dataclasses
        import inspect

        fields = []
        for name in owner.__match_args__:
            default = owner._defaults.get(name, dataclasses.MISSING)
            if isinstance(default, _Fresh):
                made: Any = dataclasses.field(default_factory=default.factory)
            else:
                made = dataclasses.field(default=default)
            fields.append((name, owner.__annotations__[name], made))
        twin = dataclasses.make_dataclass(owner.__name__, fields)
        owner.__dataclass_fields__ = twin.__dataclass_fields__  # type: ignore[attr-defined]
        owner.__signature__ = inspect.signature(twin)
        return getattr(owner, self._name)


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    cls = type(self)
    names = cls.__match_args__
    given = dict(zip(names, args, strict=False))
    if len(args) > len(names) or not kwargs.keys() <= set(names) - given.keys():
        raise TypeError(_why_refused(cls, names, args, kwargs))
    given.update(kwargs)
    for name in names:
        if name not in given:
            try:
                default = cls._defaults[name]
            except KeyError:
                raise TypeError(f"{cls.__qualname__}() needs a value for {name!r}") from None
            given[name] = default.factory() if type(default) is _Fresh else default
    # Past `__setattr__`, which a frozen record refuses.
    self.__dict__.update(given)
    if cls._completes:
        self.__post_init__()


def _why_refused(
    cls: Any, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    if len(args) > len(names):
        return f"{cls.__qualname__}() takes {len(names)} values at most, but {len(args)} were given"
    for name in kwargs:
        if name not in names:
            return (
                f"{cls.__qualname__}() got an unexpected keyword argument {name!r}; "
                f"it takes {', '.join(names)}"
            )
    twice = next(name for name in kwargs if name in names[: len(args)])
    return f"{cls.__qualname__}() got multiple values for argument {twice!r}"


def _values(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, name) for name in self.__match_args__])


def _repr(self: Any) -> str:
    pairs = zip(self.__match_args__, _values(self), strict=True)
    return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"


def _eq(self: Any, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash(_values(self))


def _replaced(self: Any, /, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(self, **changes)


def _set(self: Any, name: str, value: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _made(cls: Any, frozen: bool) -> Any:
    names = tuple(cls.__annotations__)
    cls.__match_args__ = names  # type: ignore[misc]
    cls._defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
    for name, default in cls._defaults.items():
        if type(default) is _Fresh:
            delattr(cls, name)
    cls._completes = hasattr(cls, "__post_init__")
    cls.__init__, cls.__repr__, cls.__eq__ = _init, _repr, _eq
    cls.__replace__ = _replaced  # what `copy.replace` calls, from Python 3.13 on
    if frozen:
        cls.__hash__, cls.__setattr__, cls.__delattr__ = _hash, _set, _delete
    else:
        cls.__hash__ = None
    cls.__dataclass_fields__ = _MadeWhenAsked("__dataclass_fields__")
    cls.__signature__ = _MadeWhenAsked("__signature__")
    return cls


if not TYPE_CHECKING:

    def record(cls=None, /, *, frozen=False):
        """Make a class with annotated fields a record."""
        if cls is None:
            return lambda cls: _made(cls, frozen)
        return _made(cls, frozen)

    def field(*, default_factory):
        """A field whose default is made anew for each instance."""
        return _Fresh(default_factory)
