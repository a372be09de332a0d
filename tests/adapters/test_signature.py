"""What a tool takes is read from its signature, and what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Annotated, Any, Literal, NewType, Optional, TypedDict

import numpy
import pytest

import snakepit
from snakepit.adapters.signature import Signature, kind_of
from snakepit.adapters.tools import find_adapter, tools_of
from snakepit.errors import AdapterError, ToolArgumentError
from tests.pools.adapters import Typed

Name = NewType("Name", str)


class Options(TypedDict):
    depth: int


def signature(name: str) -> Signature:
    return tools_of(Typed)[name].signature


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [1, True], ["1", 1.5, None]),
        (float, [1.5, 1], ["1"]),
        (complex, [1j, 1.5, 1], ["1"]),
        (None, [None], [0]),
        (int | str, [1, "1"], [1.5]),
        (Optional[int], [1, None], ["1"]),  # noqa: UP045 - as older code has it
        (int | float | None, [1, 1.5, None], ["1"]),
        (Literal["a", 1], ["a", 1], ["b", True, 1.0]),
        (Literal["a"] | None, ["a", None], ["b"]),
        (list[int], [[1], ["unseen"]], [(1,)]),
        (dict[str, int] | None, [{}, None], [[]]),
        (Callable[[int], int], [len], [1]),
        (Annotated[int, "positive"], [1], ["1"]),
        (Name, ["x"], [1]),
        (Options, [{"depth": 1}], [[]]),
        (type[int], [int], [1]),
    ],
)
def test_kind_of_a_hint(hint: Any, good: list[Any], bad: list[Any]) -> None:
    kind = kind_of(hint)
    assert all(isinstance(value, kind) for value in good)
    assert not any(isinstance(value, kind) for value in bad)


@pytest.mark.parametrize("hint", [Any, object, int | Any])
def test_what_takes_anything_is_not_checked(hint: Any) -> None:
    assert kind_of(hint) is None


def test_arguments_are_put_in_order() -> None:
    bind = signature("gaps").bind
    assert bind({"a": 1}) == (1,)
    assert bind({"b": 5, "a": 1}) == (1, 5)
    assert bind({"c": 5, "a": 1}) == (1, 2, 5)


def test_a_default_that_cannot_be_sent_is_left_to_the_worker() -> None:
    assert signature("mutable").bind({"a": 1, "c": 5}) is None
    assert signature("mutable").check({"a": 1, "c": 5}) == {"a": 1, "c": 5}


def test_named_parameters_travel_by_name() -> None:
    assert signature("plain").bind({"a": 1}) is None
    assert signature("plain").check({"a": 1, "flag": True}) == {"a": 1, "flag": True}


def test_positional_only_parameters_have_names_for_callers() -> None:
    by_place = signature("by_place")
    assert str(by_place).startswith("a: int, b: list[int] = [], c: int")
    assert by_place.bind({"b": [2], "a": 1}) == (1, [2])
    assert by_place.check({"a": 1, "c": 5}) == {"a": 1, "c": 5}
    place = by_place.placing(lambda *values, **named: (values, named))
    assert place(1, [2]) == ((1, [2]), {})
    assert place(a=1, c=5) == ((1,), {"c": 5})
    assert place(b=[2], c=5, a=1) == ((1, [2]), {"c": 5})
    with pytest.raises(ToolArgumentError, match="'a' is missing"):
        place(b=[2])


@pytest.mark.parametrize(
    ("tool", "arguments", "argument", "problem", "words"),
    [
        ("gaps", {}, "a", "missing", "'a' is missing"),
        ("gaps", {"a": 1, "bb": 2}, "bb", "unknown", "did you mean 'b'"),
        ("gaps", {"a": "one"}, "a", "type", "must be int, not 'one' (str)"),
        ("plain", {"a": 1, "flag": "no"}, "flag", "type", "must be bool"),
        ("union", {"value": 1.5}, "value", "type", "int | str | None"),
        ("literal", {"mode": "other"}, "mode", "type", "'fast'"),
        ("generic", {"values": (1,)}, "values", "type", "list[int]"),
        ("gaps", [1], None, "usage", "a dict of names and values"),
        ("gaps", {1: 2}, None, "usage", "names are strings"),
    ],
)
def test_what_does_not_fit_is_named(
    tool: str, arguments: Any, argument: str | None, problem: str, words: str
) -> None:
    if type(arguments) is dict:
        assert signature(tool).bind(arguments) is None
    with pytest.raises(ToolArgumentError) as caught:
        signature(tool).check(arguments)
    assert words in str(caught.value) and repr(tool) in str(caught.value)
    assert caught.value.details == {"tool": tool, "argument": argument, "problem": problem}
    assert isinstance(caught.value, TypeError)


def test_a_hint_that_cannot_be_resolved_is_not_checked() -> None:
    assert signature("unresolved").bind({"value": object}) == (object,)


def test_a_tool_that_takes_further_names_gets_them() -> None:
    assert signature("anything").check({"x": 1, "y": 2}) == {"x": 1, "y": 2}


def test_tools_are_described() -> None:
    from tests.pools.adapters import Counter

    tools = tools_of(Counter)
    assert tools["echo"].description == "Return the value."
    assert tools["count_to"].streaming and tools["sleep_long"].timeout == 0.2
    (by,) = tools["increment"].parameters
    assert (by.name, by.type, by.required, by.default) == ("by", "int", False, 1)
    assert Counter.supported_commands() == sorted(tools)
    assert tools_of(Counter) is tools


def test_a_tool_that_is_overridden_stays_one() -> None:
    class Louder(Typed):
        def union(self, value: int) -> str:  # type: ignore[override]
            return f"{value}!"

    assert [parameter.type for parameter in tools_of(Louder)["union"].parameters] == ["int"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tests.pools.nowhere:Counter", "nowhere"),
        ("tests.pools.adapters:Countr", "did you mean 'Counter'"),
        ("Counter", "package.module:Class"),
        ("tests.pools.adapters:threading", "subclass of snakepit.Adapter"),
        (int, "subclass of snakepit.Adapter"),
    ],
)
def test_an_adapter_that_is_none_is_named(name: Any, words: str) -> None:
    with pytest.raises(AdapterError) as caught:
        find_adapter(name)
    assert words in str(caught.value) and caught.value.details["step"] == "import"


@pytest.mark.parametrize("name", ["tests.pools.adapters:Typed", "tests.pools.adapters.Typed"])
def test_an_adapter_is_found_by_name(name: str) -> None:
    assert find_adapter(name) is Typed


def test_what_cannot_be_a_tool_is_refused_where_it_is_declared() -> None:
    from snakepit import tool

    async def wait(self: Any) -> None: ...

    def count(self: Any) -> Any:
        yield 1

    with pytest.raises(AdapterError, match="coroutine"):
        tool(wait)
    with pytest.raises(AdapterError, match="streaming=True"):
        tool(count)
    with pytest.raises(AdapterError, match="ordinary methods"):
        tool(staticmethod(len))
    with pytest.raises(ValueError, match="timeout"):
        tool(timeout=-1)


def test_a_hook_that_runs_without_an_instance_must_be_a_class_method() -> None:
    class Wrong(Typed):
        def command_timeout(self, command: str, args: dict[str, Any]) -> float:  # type: ignore[override]
            return 1.0

    with pytest.raises(AdapterError, match="class method"):
        find_adapter(Wrong)


@pytest.mark.parametrize("returned", [None, "plain", ["plain", 7]])
def test_supported_commands_that_are_no_names_are_an_error_that_says_so(returned: Any) -> None:
    class Wrong(Typed):
        @classmethod
        def supported_commands(cls) -> Any:
            return returned

    with pytest.raises(AdapterError, match=r"Wrong: supported_commands\(\) must return a list of"):
        find_adapter(Wrong)


@pytest.mark.parametrize(
    ("hint", "given", "arrives"),
    [
        ("int", numpy.int64(3), 3),
        ("int", numpy.uint8(3), 3),
        ("int", True, True),
        ("int | None", numpy.int64(3), 3),
        ("float", numpy.float32(0.5), 0.5),
        ("float", numpy.float64(0.5), numpy.float64(0.5)),
        ("float", numpy.int64(3), 3),
        ("float", Fraction(1, 2), 0.5),
        ("complex", numpy.complex64(1j), 1j),
        ("complex", numpy.float32(0.5), 0.5),
    ],
)
def test_numbers_of_other_libraries_arrive_as_those_of_python(
    hint: str, given: Any, arrives: Any
) -> None:
    def method(self: Any, value: Any) -> Any: ...

    method.__annotations__["value"] = hint
    value = Signature("method", "Cls", method).check({"value": given})["value"]
    assert value == arrives and type(value) is type(arrives)


@pytest.mark.parametrize(
    ("hint", "given"),
    [("int", numpy.float32(3)), ("int", Fraction(1, 2)), ("bool", numpy.int64(1)), ("str", 1)],
)
def test_numbers_that_do_not_fit_are_refused(hint: str, given: Any) -> None:
    def method(self: Any, value: Any) -> Any: ...

    method.__annotations__["value"] = hint
    with pytest.raises(ToolArgumentError, match="argument 'value' must be"):
        Signature("method", "Cls", method).check({"value": given})


def test_an_argument_that_would_meet_the_tools_own_first_parameter_is_refused() -> None:
    def usual(self: Any, **more: Any) -> Any: ...

    def careful(self: Any, /, **more: Any) -> Any: ...

    with pytest.raises(ToolArgumentError, match=r"'self'.*positional-only") as caught:
        Signature("usual", "Cls", usual).check({"self": 1})
    assert caught.value.details == {"tool": "usual", "argument": "self", "problem": "unknown"}
    assert Signature("careful", "Cls", careful).check({"self": 1}) == {"self": 1}


class Forgetful(snakepit.Adapter):
    def greet(self, name: str) -> str:
        return f"Hello, {name}"


class Bare(snakepit.Adapter):
    @classmethod
    def supported_commands(cls) -> list[str]:
        return []


def test_an_adapter_without_tools_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"Forgetful has no tools.*@snakepit\.tool") as caught:
        find_adapter(Forgetful)
    assert caught.value.details["step"] == "declare"


def test_an_adapter_that_says_that_it_has_no_tools_is_warned_of() -> None:
    with pytest.warns(RuntimeWarning, match="Bare has no tools"):
        assert find_adapter(Bare) is Bare
