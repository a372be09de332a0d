"""The types that variables have, the constraints that each type knows, and the check of a value.

A `Kind` is made once a variable, from its type and constraints, and then turns every value that is
given for it into the value that is kept. It is without state: any number of threads may use one.
"""

from __future__ import annotations

import numbers
import operator
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar

from snakepit.options import did_you_mean

__all__ = ["Kind", "UnfitError", "make_kind", "shortened"]


class UnfitError(Exception):
    """A value, type or constraint is not as it should be. The table makes a VariableError of it."""

    def __init__(self, text: str, constraint: str | None = None) -> None:
        super().__init__(text)
        self.constraint = constraint


class Kind:
    """A type with its constraints. Subclasses say which there are and what they mean."""

    name: ClassVar[str]
    known: ClassVar[tuple[str, ...]]

    constraints: dict[str, Any]

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        """Take the constraints, whose names are known. Raises UnfitError if one makes no sense."""

    def accept(self, value: Any) -> Any:
        """Return what is to be kept for `value`. Raises UnfitError."""
        raise NotImplementedError

    def adopt(self, value: Any) -> Any:
        """Return what is to be kept for a value that `accept` gave once, and a pickle has kept."""
        return value

    def __repr__(self) -> str:
        return self.name


def make_kind(kind: object, constraints: Mapping[str, Any] | None) -> Kind:
    """Return the kind of a type's name, or of str, int, float or bool. Raises UnfitError."""
    chosen = _find(kind)
    if constraints is None:
        constraints = {}
    if not isinstance(constraints, Mapping):
        raise UnfitError(f"constraints must be a dict, not {shortened(constraints)}")
    for constraint in constraints:
        if constraint not in chosen.known:
            raise UnfitError(
                f"a variable of type {chosen.name} has no constraint {constraint!r}"
                f"{did_you_mean(constraint, chosen.known)}; it knows "
                f"{', '.join(chosen.known) or 'none'}",
                str(constraint),
            )
    # What can be read only once is read here.
    own = {
        name: list(value) if isinstance(value, Iterator) else value
        for name, value in constraints.items()
    }
    made = chosen(own)
    made.constraints = own
    return made


def _find(kind: object) -> type[Kind]:
    name = _BUILTIN.get(kind, kind) if isinstance(kind, type) else kind
    found = _kinds().get(name) if isinstance(name, str) else None
    if found is None:
        names = tuple(_kinds())
        hint = did_you_mean(kind, names)
        raise UnfitError(f"there is no type {kind!r}{hint}; the types are {', '.join(names)}")
    return found


def shortened(value: object, limit: int = 80) -> str:
    """Return the repr of a value for a message, cut to `limit` characters; never raises."""
    try:
        # Nobody wants to wait for the digits or items of what is cut off anyway.
        if isinstance(value, int) and value.bit_length() > 4 * limit:
            return f"an integer of {value.bit_length()} bits"
        text = repr(value[:limit] if isinstance(value, (str, bytes)) else value)
    except Exception:
        text = f"<{type(value).__name__} whose repr fails>"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# -- constraints that several types share ----------------------------------------------------------


def real_bound(constraints: Mapping[str, Any], name: str) -> Any:
    """Return a constraint that is a number, or None where there is none."""
    bound = constraints.get(name)
    if bound is None:
        return None
    # NaN is what differs from itself; math.isnan() refuses whole numbers beyond a float.
    if isinstance(bound, bool) or not isinstance(bound, numbers.Real) or bound != bound:
        raise UnfitError(f"{name} must be a number, not {shortened(bound)}", name)
    return bound


def whole_bound(constraints: Mapping[str, Any], name: str) -> int | None:
    """Return a constraint that is a whole number from 0 on, or None where there is none."""
    bound = constraints.get(name)
    if bound is None:
        return None
    if isinstance(bound, bool) or not isinstance(bound, numbers.Integral) or bound < 0:
        raise UnfitError(f"{name} must be a whole number >= 0, not {shortened(bound)}", name)
    return int(bound)


def in_order(low: Any, high: Any, low_name: str, high_name: str) -> None:
    """Refuse bounds between which nothing is."""
    if low is not None and high is not None and low > high:
        raise UnfitError(
            f"{low_name} ({shortened(low)}) is above {high_name} ({shortened(high)})", low_name
        )


def switch(constraints: Mapping[str, Any], *names: str) -> bool:
    """Return a constraint that is on or off, by whichever of its spellings is given."""
    for name in names:
        if name in constraints:
            if not isinstance(constraints[name], bool):
                raise UnfitError(
                    f"{name} must be True or False, not {shortened(constraints[name])}", name
                )
            if constraints[name]:
                return True
    return False


class _Choices:
    """The values that are allowed; of equal values of different types, such as 1 and True, one."""

    def __init__(self, constraints: Mapping[str, Any], accept: Callable[[Any], Any]) -> None:
        given = constraints.get("choices")
        if given is None:
            self._allowed = None
            return
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise UnfitError(f"choices must be a list, not {shortened(given)}", "choices")
        try:
            values = [accept(value) for value in given]
        except UnfitError as problem:
            raise UnfitError(f"choices: {problem}", "choices") from None
        if not values:
            raise UnfitError("choices must not be empty", "choices")
        self._allowed = {(type(value), value) for value in values}
        self._values = values

    def check(self, value: Any) -> None:
        if self._allowed is not None and (type(value), value) not in self._allowed:
            near = did_you_mean(value, [item for item in self._values if isinstance(item, str)])
            raise UnfitError(
                f"it is none of the choices {shortened(self._values, 200)}{near}", "choices"
            )


# -- types -----------------------------------------------------------------------------------------


def plain_text(value: Any) -> str:
    """Return a string as one of exactly that class."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    raise UnfitError("it is not a string")


def plain_integer(value: Any) -> int:
    """Return a whole number, such as one of numpy's, as an int. Booleans are none."""
    if type(value) is int:
        return value
    if not _is_boolean(value):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise UnfitError("it is not an integer")


def plain_float(value: Any) -> float:
    """Return a number as a float, NaN and infinities as they are. Booleans are none."""
    if type(value) is float:
        return value
    if isinstance(value, numbers.Real) and not _is_boolean(value):
        try:
            return float(value)
        except OverflowError:
            raise UnfitError("it is beyond the largest float") from None
    raise UnfitError("it is not a number")


def _is_boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return True
    # A value of numpy's can only come from where numpy is loaded: nothing is imported for it.
    # Another thread may still be loading it.
    kind = getattr(sys.modules.get("numpy"), "bool_", None)
    return kind is not None and isinstance(value, kind)


class StringKind(Kind):
    """Text. `pattern` is a regular expression that must match all of it; lengths in characters."""

    name = "string"
    known = ("min_length", "max_length", "pattern", "choices")

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._shortest = whole_bound(constraints, "min_length")
        self._longest = whole_bound(constraints, "max_length")
        in_order(self._shortest, self._longest, "min_length", "max_length")
        self._pattern: re.Pattern[str] | None = None
        pattern = constraints.get("pattern")
        if pattern is not None:
            try:
                self._pattern = re.compile(pattern)
                self._pattern.fullmatch("")
            except (re.error, TypeError) as error:
                raise UnfitError(
                    f"pattern is no regular expression for text: {error}", "pattern"
                ) from None
        self._choices = _Choices(constraints, plain_text)

    def accept(self, value: Any) -> str:
        text = plain_text(value)
        if self._shortest is not None and len(text) < self._shortest:
            raise UnfitError(
                f"it has {len(text)} characters, fewer than {self._shortest}", "min_length"
            )
        if self._longest is not None and len(text) > self._longest:
            raise UnfitError(
                f"it has {len(text)} characters, more than {self._longest}", "max_length"
            )
        if self._pattern is not None and self._pattern.fullmatch(text) is None:
            raise UnfitError(f"the pattern {self._pattern.pattern!r} does not match it", "pattern")
        self._choices.check(text)
        return text


class IntegerKind(Kind):
    """A whole number of any size."""

    name = "integer"
    known = ("min", "max", "choices")

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._low = real_bound(constraints, "min")
        self._high = real_bound(constraints, "max")
        in_order(self._low, self._high, "min", "max")
        self._choices = _Choices(constraints, plain_integer)

    def accept(self, value: Any) -> int:
        number = plain_integer(value)
        _within(number, self._low, self._high)
        self._choices.check(number)
        return number


class FloatKind(Kind):
    """A float; a whole number becomes one. NaN lies between no bounds."""

    name = "float"
    known = ("min", "max", "choices")

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._low = real_bound(constraints, "min")
        self._high = real_bound(constraints, "max")
        in_order(self._low, self._high, "min", "max")
        self._choices = _Choices(constraints, plain_float)

    def accept(self, value: Any) -> float:
        number = plain_float(value)
        _within(number, self._low, self._high)
        self._choices.check(number)
        return number


def _within(number: Any, low: Any, high: Any) -> None:
    # Asked this way round, NaN fails.
    if low is not None and not number >= low:
        raise UnfitError(f"it is not >= {shortened(low)}", "min")
    if high is not None and not number <= high:
        raise UnfitError(f"it is not <= {shortened(high)}", "max")


class BooleanKind(Kind):
    """True or False, and nothing that merely counts as one of them."""

    name = "boolean"
    known = ()

    def accept(self, value: Any) -> bool:
        if not _is_boolean(value):
            raise UnfitError("it is neither True nor False")
        return bool(value)


class ChoiceKind(Kind):
    """One of a list of strings, numbers or booleans, which the constraint `choices` gives."""

    name = "choice"
    known = ("choices",)

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        if constraints.get("choices") is None:
            raise UnfitError('a choice needs the constraint "choices", a list', "choices")
        self._choices = _Choices(constraints, self._plain)

    @staticmethod
    def _plain(value: Any) -> Any:
        if isinstance(value, str):
            return plain_text(value)
        if _is_boolean(value):
            return bool(value)
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        raise UnfitError("it is no string, number or boolean")

    def accept(self, value: Any) -> Any:
        plain = self._plain(value)
        self._choices.check(plain)
        return plain


class ModuleKind(Kind):
    """The dotted name of a module or class, or a module, of which the name is kept.

    It is not imported: it may be one that only workers have.
    """

    name = "module"
    known = ("choices",)

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._choices = _Choices(constraints, self._dotted)

    @staticmethod
    def _dotted(value: Any) -> str:
        name = value.__name__ if isinstance(value, ModuleType) else plain_text(value)
        if not all(part.isidentifier() for part in name.split(".")):
            raise UnfitError('it is not the name of a module, such as "package.module"')
        return name

    def accept(self, value: Any) -> str:
        name = self._dotted(value)
        self._choices.check(name)
        return name


_BUILTIN: dict[object, str] = {str: "string", int: "integer", float: "float", bool: "boolean"}


def _kinds() -> dict[str, type[Kind]]:
    # Imported when a variable is registered; it does not import numpy yet.
    from snakepit.sessions.arrays import EmbeddingKind, TensorKind

    every = (
        StringKind,
        IntegerKind,
        FloatKind,
        BooleanKind,
        ChoiceKind,
        ModuleKind,
        TensorKind,
        EmbeddingKind,
    )
    return {kind.name: kind for kind in every}
