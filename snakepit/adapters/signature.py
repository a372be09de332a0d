"""The parameters of a tool, from its signature and type hints, and the check of a call's arguments.

What a hint can be checked by is settled once: a class, or several, or an object that `isinstance`
takes. Of a generic (`list[int]`) only the outer type is checked: to look at each element would cost
more than the call. A hint that cannot be resolved is not checked.

Numbers are what they are in Python: an int is fine where a float is asked for, and a bool is an
int. Those of other libraries (`numpy.int64`, `numpy.float32`, `fractions.Fraction`) are given to
the tool as the int, float or complex that its hint asks for.
"""

from __future__ import annotations

import inspect
import logging
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from snakepit._core.signature import REQUIRED, UNSENT, Binder
from snakepit.errors import ToolArgumentError
from snakepit.options import did_you_mean

logger = logging.getLogger("snakepit")

# Defaults that mean the same wherever they are.
_PLAIN = (type(None), bool, int, float, str, bytes)
_WIDER: dict[Any, tuple[type, ...]] = {float: (float, int), complex: (complex, float, int)}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a tool."""

    name: str
    type: str  # as the hint reads; "" without one
    required: bool
    default: Any = None  # of one that is not required
    kind: Any = None  # what `isinstance` takes; None: not checked


class _OneOf:
    """What `isinstance` takes for a Literal; values of another type do not pass for equal ones."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = [(type(value), value) for value in values]

    def __instancecheck__(self, value: Any) -> bool:
        return any(type(value) is kind and value == known for kind, known in self._values)


class Signature:
    """What a tool can be called with: names, also of parameters that are positional-only.

    `bind(arguments)` is the quick half of `check`: the values by position, or None.
    """

    def __init__(self, tool: str, adapter: str, function: Callable[..., Any]) -> None:
        self._tool = tool
        self._adapter = adapter
        self.parameters: tuple[Parameter, ...] = ()
        self._open = False  # takes any further names
        only_positional: list[Parameter] = []
        positional: list[Parameter] = []
        named: list[Parameter] = []
        hints = _hints(function)
        # Without the first, which is `self`.
        first, *others = inspect.signature(function).parameters.values()
        self._taken = first.name if first.kind is first.POSITIONAL_OR_KEYWORD else None
        for parameter in others:
            if parameter.kind is parameter.VAR_KEYWORD:
                self._open = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                known = _parameter(parameter, hints.get(parameter.name, parameter.annotation))
                (named if parameter.kind is parameter.KEYWORD_ONLY else positional).append(known)
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    only_positional.append(known)
        self._only_positional = tuple(only_positional)
        self.parameters = (*positional, *named)
        self._known = {parameter.name: parameter for parameter in self.parameters}
        # Where a name may be missing here, there is no quick half.
        quick = () if named or self._open else tuple(positional)
        self._binder = Binder(
            tuple(parameter.name for parameter in quick),
            tuple(parameter.kind for parameter in quick),
            tuple(_default(parameter) for parameter in quick),
        )
        self.bind = self._binder.bind

    def check(self, arguments: Any) -> dict[str, Any]:
        """Return the arguments by name. Raises ToolArgumentError, which says what is wrong."""
        if not isinstance(arguments, Mapping):
            raise self._error(
                f"its arguments are a dict of names and values, not {type(arguments).__name__}",
                None,
                "usage",
            )
        for name in arguments:
            if not isinstance(name, str):
                raise self._error(f"names are strings, not {name!r}", None, "usage")
            if name not in self._known and not self._open:
                raise self._unknown(name)
            if name == self._taken:
                raise self._error(
                    f"argument {name!r} would meet its own parameter of this name; give it another "
                    f"name, or declare that one positional-only, as in ({name}, /, ...)",
                    name,
                    "unknown",
                )
        given = dict(arguments)
        for parameter in self.parameters:
            if parameter.name in arguments:
                value = arguments[parameter.name]
                if parameter.kind is not None and not isinstance(value, parameter.kind):
                    number = _plain_number(value, parameter.kind)
                    if number is None:
                        raise self._error(
                            f"argument {parameter.name!r} must be {parameter.type}, "
                            f"not {_shortened(value)} ({type(value).__name__})",
                            parameter.name,
                            "type",
                        )
                    given[parameter.name] = number
            elif parameter.required:
                raise self._missing(parameter)
        return given

    def by_name(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Return by name what came by position."""
        return dict(zip(self._binder.names, values, strict=False))

    def placing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return what takes all arguments by name, and calls `method` as its parameters ask."""

        def call(*values: Any, **named: Any) -> Any:
            placed = values or self._placed(named)
            return method(*placed, **named)

        return call

    def _placed(self, named: dict[str, Any]) -> list[Any]:
        """Take out what can only be given by position, and return it in order."""
        values: list[Any] = []
        left = sum(parameter.name in named for parameter in self._only_positional)
        for parameter in self._only_positional:
            if left == 0:
                break
            if parameter.name in named:
                values.append(named.pop(parameter.name))
                left -= 1
            elif parameter.required:
                raise self._missing(parameter)  # a hook has taken it away
            else:
                values.append(parameter.default)
        return values

    def _missing(self, parameter: Parameter) -> ToolArgumentError:
        return self._error(
            f"argument {parameter.name!r} is missing; it takes {self}", parameter.name, "missing"
        )

    def _unknown(self, name: str) -> ToolArgumentError:
        hint = did_you_mean(name, self._known) or f"; it takes {self}"
        return self._error(f"it has no argument {name!r}{hint}", name, "unknown")

    def takes(self, name: str) -> bool:
        """Whether a call may give an argument of this name."""
        return self._open or name in self._known

    def _error(self, what: str, argument: str | None, problem: str) -> ToolArgumentError:
        return ToolArgumentError(
            f"tool {self._tool!r} of {self._adapter}: {what}",
            details={"tool": self._tool, "argument": argument, "problem": problem},
        )

    def __str__(self) -> str:
        texts = [
            f"{parameter.name}{': ' * bool(parameter.type)}{parameter.type}"
            f"{'' if parameter.required else f' = {parameter.default!r}'}"
            for parameter in self.parameters
        ]
        return ", ".join([*texts, *(["…"] if self._open else [])]) or "no arguments"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception as error:
        # Names that exist for type checkers only, for instance; what is declared so is not checked.
        logger.debug("snakepit: the hints of %r cannot be resolved: %s", function, error)
        return {}


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    required = parameter.default is parameter.empty
    unhinted = hint is parameter.empty or isinstance(hint, str)
    kind = None if unhinted else kind_of(hint)
    if kind is not None and parameter.default is None and not isinstance(None, kind):
        # `x: int = None`, as many write it.
        kind = (*(kind if isinstance(kind, tuple) else (kind,)), type(None))
    return Parameter(
        parameter.name,
        "" if hint is parameter.empty else _text(hint),
        required,
        None if required else parameter.default,
        kind,
    )


def _plain_number(value: Any, kind: Any) -> int | float | complex | None:
    """Return a number of another library as one of Python that fits `kind`; None: none does."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if int in kinds and isinstance(value, numbers.Integral):
        return int(value)
    if float in kinds and isinstance(value, numbers.Real):
        return float(value)
    if complex in kinds and isinstance(value, numbers.Complex):
        return complex(value)
    return None


def _text(hint: Any) -> str:
    return hint.__qualname__ if type(hint) is type else str(hint).replace("typing.", "")


def _default(parameter: Parameter) -> Any:
    if parameter.required:
        return REQUIRED
    return parameter.default if type(parameter.default) in _PLAIN else UNSENT


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(hint: Any) -> Any:
    """Return what `isinstance` checks a hint by, None when it cannot or need not be checked."""
    if hint is None:
        return type(None)
    if hint is Any or hint is object:
        return None
    origin = typing.get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        kinds = [kind_of(member) for member in typing.get_args(hint)]
        if any(kind is None for kind in kinds):
            return None
        return tuple(
            one for kind in kinds for one in (kind if isinstance(kind, tuple) else (kind,))
        )
    if origin is typing.Literal:
        return _OneOf(typing.get_args(hint))
    if origin is typing.Annotated:
        return kind_of(typing.get_args(hint)[0])
    if origin is not None:
        return kind_of(origin) if isinstance(origin, type) else None
    if isinstance(hint, typing.NewType):
        return kind_of(hint.__supertype__)
    if not isinstance(hint, type):
        return None
    if typing.is_typeddict(hint):
        return dict
    if getattr(hint, "_is_protocol", False):
        return None
    return _WIDER.get(hint, hint)
