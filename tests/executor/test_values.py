"""Values arrive as what they are: in the worker, and back at home."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import re
import sys
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest

import snakepit
from tests.support import run_script

from . import tasks
from .sameness import difference


class Str(str):
    pass


class Int(int):
    pass


class Float(float):
    pass


class Bytes(bytes):
    pass


class List(list):  # type: ignore[type-arg]
    pass


class Dict(dict):  # type: ignore[type-arg]
    pass


class Tuple(tuple):  # type: ignore[type-arg]
    pass


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    x: int
    y: str = "y"


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: Any) -> None:
        self.a = a

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and other.a == self.a

    __hash__ = None  # type: ignore[assignment]


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Flags(enum.Flag):
    A = 1
    B = 2


def with_attribute(value: Any) -> Any:
    value.extra = [1, 2]
    return value


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [{"k": (value,)}]
    return value


PLAIN: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "ellipsis": ...,
    "not implemented": NotImplemented,
    "bool and int": [True, 1, False, 0, 1.0, 0.0],
    "small ints": [0, 1, -1, 127, 128, -128, -129, 255, 256, 2**15, -(2**15), 2**31 - 1, 2**31],
    "int limits": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, -(2**64)],
    "huge ints": [10**400, -(10**4000), 1 << 14_000],
    "floats": [0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, sys.float_info.max, 0.1],
    "complex": [complex(-0.0, math.nan), 1j, complex(math.inf, -0.0)],
    "text": ["", "a", "é", "日本", "\U0001f40d", "\x00", "a\x00b", "\n", "x" * 70_000],
    "lone surrogates": ["\ud800", "a\udfffb", "\udc80\udcff"],
    "bytes": [b"", b"\x00", b"\xff" * 300, bytes(range(256))],
    "bytearray": [bytearray(), bytearray(b"abc")],
    "tuples": [(), (1,), (1, (2, (3, ()))), ([], {})],
    "tuple in list in tuple": ([(1, [2, (3,)])],),
    "lists": [[], [[]], [[[1]]], list(range(5000))],
    "dicts": [{}, {"a": {"b": {}}}, {"z": 1, "a": 2, "m": 3}],
    "keys of many types": {1: "a", 1.5: "b", (1, 2): "c", None: "d", b"x": "e", "1": "f", ...: "g"},
    "true as key": {True: "true"},
    "int key": {1: "one", -5: "minus"},
    "sets": [set(), {1, 2}, frozenset({(1, 2)}), frozenset()],
    "ranges and slices": [range(3), range(10, 0, -2), slice(1, None, 2)],
    "str subclass": Str("text"),
    "int subclass": Int(5),
    "float subclass": Float(-0.0),
    "bytes subclass": Bytes(b"x"),
    "list subclass": with_attribute(List([1])),
    "dict subclass": with_attribute(Dict(a=1)),
    "tuple subclass": Tuple((1, 2)),
    "subclasses inside": [Str("a"), {Str("k"): Int(3)}, (Float(2.5),)],
    "named tuple": Pair(1, Pair([2], "x")),
    "dataclass": Point(3, ["a"]),
    "frozen dataclass": Frozen(3),
    "slotted": Slotted([1]),
    "enums": [Colour.RED, Number.ONE, Flags.A | Flags.B],
    "enum keys": {Colour.RED: 1, Number.ONE: 2},
    "collections": [
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        collections.deque([1, 2], maxlen=5),
        collections.defaultdict(list, {"a": [1]}),
        collections.ChainMap({"a": 1}),
    ],
    "dates": [
        datetime.date(2020, 2, 29),
        datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC),
        datetime.datetime(2020, 1, 1, fold=1),
        datetime.timedelta(days=-1, microseconds=1),
        datetime.time(1, 2, 3),
    ],
    "numbers": [decimal.Decimal("1.10"), fractions.Fraction(1, 3)],
    "others": [
        uuid.UUID(int=5),
        pathlib.PurePosixPath("/a/b"),
        re.compile("a+", re.I),
        ipaddress.ip_address("::1"),
        array.array("d", [1.0, -0.0]),
    ],
    "types and functions": [int, Point, len, tasks.square, str.upper],
    "nested deeply": nested(60),
}


@pytest.mark.parametrize("name", PLAIN)
def test_value_comes_back_the_same(shared: snakepit.Executor, name: str) -> None:
    value = PLAIN[name]
    assert difference(value, shared.submit(tasks.identity, value).result(60)) is None
    (args, kwargs) = shared.submit(tasks.capture, value, 1, key=value).result(60)
    assert difference(value, args[0]) is None
    assert difference(value, kwargs["key"]) is None


@pytest.mark.parametrize("name", PLAIN)
def test_value_comes_back_the_same_through_map(shared: snakepit.Executor, name: str) -> None:
    value = PLAIN[name]
    for got in shared.map(tasks.identity, [value] * 3):
        assert difference(value, got) is None


@pytest.mark.parametrize("name", PLAIN)
def test_value_arrives_as_what_it_is(shared: snakepit.Executor, name: str) -> None:
    """The way back cannot undo what the way there did: the worker compares for itself."""
    value = PLAIN[name]
    text = repr(value) if name not in ("types and functions", "slotted") else ""

    def look(got: Any) -> tuple[type[Any], str]:
        return type(got), repr(got) if text else ""

    cls, seen = shared.submit(look, value).result(60)
    assert cls is type(value)
    if "set" not in name:
        assert seen == text


ARRAYS: dict[str, Any] = {
    **{
        f"empty {kind}": np.empty(0, dtype)
        for kind, dtype in {"floats": "f8", "text": "U3", "objects": object}.items()
    },
    "zero dimensions": np.array(5.5),
    "zero dimensions of objects": np.array({"a": 1}, dtype=object),
    "a dimension of zero": np.empty((3, 0, 2), "i2"),
    "one": np.array([1], "i1"),
    "bools": np.array([True, False]),
    "every kind of number": [np.arange(7).astype(code) for code in "bhilqBHILQefdgFDG"],
    "big endian": np.arange(1000, dtype=">i4"),
    "fortran order": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
    "transposed": np.arange(6000).reshape(20, 300).T,
    "strided": np.arange(30_000)[::3],
    "reversed": np.arange(5000)[::-1],
    "broadcast": np.broadcast_to(np.arange(5.0), (100, 5)),
    "structured": np.array([(1, 2.5, "ab")] * 50, dtype=[("a", "i4"), ("b", "f8"), ("c", "U2")]),
    "record with padding": np.zeros(9, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "subarrays": np.zeros(4, dtype=[("m", "f4", (3, 3))]),
    "bytes strings": np.array([b"ab", b""], dtype="S5"),
    "text": np.array(["ab", "日本", ""], dtype="U9"),
    "dates": np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    "durations": np.array([1, -5], dtype="m8[ms]"),
    "objects": np.array([None, {"a": [1]}, "text", 2**70], dtype=object),
    "nans": np.array([np.nan, -0.0, np.inf]),
    "scalars": [np.float64(-0.0), np.int8(-5), np.bool_(True), np.float32(1.5), np.str_("x")],
    "scalar dates": [np.datetime64("2020-01-01"), np.timedelta64(5, "s"), np.datetime64("NaT")],
    "structured scalar": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])[0],
    "masked": np.ma.masked_array(np.arange(5), mask=[False, True, False, False, True]),
    "dtype objects": [np.dtype("f8"), np.dtype([("a", "i4")])],
    "arrays in containers": {"a": [np.arange(3000.0), (np.ones(5), np.zeros((2, 2000)))]},
    "read-only": np.arange(3000),
}
ARRAYS["read-only"].flags.writeable = False


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.VisibleDeprecationWarning")
def test_array_comes_back_the_same(shared: snakepit.Executor, name: str) -> None:
    value = ARRAYS[name]
    assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


@pytest.mark.parametrize("base", [0, 1, 10_240, 2 * 10_240, 65_536, 1 << 20])
def test_sizes_around_the_thresholds(shared: snakepit.Executor, base: int) -> None:
    for size in range(max(0, base - 40), base + 40):
        data = bytes([size % 251]) * size
        assert shared.submit(tasks.identity, data).result(60) == data
    for size in (base - 1, base, base + 1):
        if size < 0:
            continue
        numbers = np.arange(size, dtype="u1")
        for value in (bytearray(size), "x" * size, numbers, [b"a" * size, b"b"], ("ü" * size,)):
            assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


def test_many_small_pieces_beyond_the_threshold(shared: snakepit.Executor) -> None:
    for count in (100, 3000, 100_000):
        for value in ([float(n) for n in range(count)], {f"key{n}": n for n in range(count)}):
            assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


def test_many_large_pieces(shared: snakepit.Executor) -> None:
    value = [np.full(2_000, n) for n in range(300)]
    assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


def test_hundred_megabytes(shared: snakepit.Executor) -> None:
    data = np.arange(13_000_000, dtype="u8")
    got = shared.submit(tasks.identity, data).result(60)
    assert np.array_equal(got, data)


# Identity within one value


def test_shared_parts_stay_shared(shared: snakepit.Executor) -> None:
    part: list[int] = [1]
    array_part = np.arange(5000)
    for value in ([part, part], (part, [part], {"a": part}), [array_part, array_part]):
        assert difference(value, shared.submit(tasks.identity, value).result(60)) is None

    def look(pair: list[Any]) -> bool:
        return pair[0] is pair[1]

    assert shared.submit(look, [part, part]).result(60) is True
    assert shared.submit(look, [[1], [1]]).result(60) is False
    assert shared.submit(look, [array_part, array_part]).result(60) is True


def test_arguments_share_their_parts(shared: snakepit.Executor) -> None:
    part: list[int] = []
    compare: Any = lambda a, b, *, c: (a is b, b is c)  # noqa: E731
    same = shared.submit(compare, part, part, c=part)
    assert same.result(60) == (True, True)


def test_values_that_contain_themselves(shared: snakepit.Executor) -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    got = shared.submit(tasks.identity, ring).result(60)
    assert got[0] == 1
    assert got[1] is got
    mapping: dict[str, Any] = {}
    mapping["self"] = [mapping]
    back = shared.submit(tasks.identity, mapping).result(60)
    assert back["self"][0] is back
    assert shared.submit(lambda value: value[1] is value, ring).result(60) is True


def test_singletons_stay_singletons(shared: snakepit.Executor) -> None:
    values = [None, True, False, ..., NotImplemented, Colour.RED, int, tasks.square]
    for value in values:
        assert shared.submit(tasks.identity, value).result(60) is value


def test_mutable_results_are_not_shared_between_calls(shared: snakepit.Executor) -> None:
    first = shared.submit(tasks.identity, []).result(60)
    first.append(1)
    assert shared.submit(tasks.identity, []).result(60) == []


def test_memoryview_is_refused_or_arrives_whole(shared: snakepit.Executor) -> None:
    for size in (10, 50_000):
        future = shared.submit(bytes, memoryview(b"x" * size))
        error = future.exception(60)
        if error is None:
            assert future.result(60) == b"x" * size
        else:
            assert isinstance(error, TypeError)


def test_mutable_buffers_arrive_mutable(shared: snakepit.Executor) -> None:
    for size in (10, 50_000):

        def change(data: bytearray) -> bytearray:
            data[0] = 7
            data.extend(b"end")
            return data

        source = bytearray(size)
        got = shared.submit(change, source).result(60)
        assert type(got) is bytearray
        assert got == b"\x07" + bytes(size - 1) + b"end"
        assert source == bytearray(size)
        got.extend(b"more")


def test_immutable_buffers_stay_immutable(shared: snakepit.Executor) -> None:
    for size in (10, 50_000):
        got = shared.submit(bytes, size).result(60)
        assert type(got) is bytes
        assert memoryview(got).readonly
        assert hash(got) == hash(bytes(size))


def test_value_too_deep_to_pack_fails_without_harm(tmp_path: pathlib.Path) -> None:
    """A stack that overflows in compiled code would end the caller itself: hence a script."""
    source = """
        import snakepit
        deep = []
        for _ in range(200_000):
            deep = [deep]

        def make():
            value = ()
            for _ in range(200_000):
                value = (value,)
            return value

        with snakepit.Executor(1) as executor:
            for future in executor.submit(len, deep), executor.submit(make):
                try:
                    print(type(future.result(60)) in (int, tuple))
                except Exception as error:
                    print(isinstance(error, (RecursionError, snakepit.errors.SnakepitError)))
            print(executor.submit(pow, 2, 3).result(60), flush=True)
        import os
        os._exit(0)  # freeing the value is not what is tested
        """
    outcome = run_script(source, tmp_path)
    assert outcome.returncode == 0, outcome
    assert outcome.lines == ["True", "True", "8"]
