"""Records: what `dataclasses` gives, without its cost."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from pathlib import Path

import pytest

from snakepit.lifecycle.graces import Graces
from snakepit.records import field, record
from tests.support import run_clean


@record(frozen=True)
class Point:
    """Fields with and without defaults."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)


@record
class Counter:
    """What may change."""

    count: int = 0


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    point = Point(1, tags=["a"])
    assert (point.x, point.y, point.tags) == (1, 2, ["a"])
    assert Point(1).tags is not Point(1).tags


def test_equality_hash_and_repr_are_a_dataclasses() -> None:
    assert Point(1) == Point(1, 2)
    assert Point(1) != Point(2)
    assert Point(1) != object()
    assert hash(Graces()) == hash(Graces(0.1))
    assert repr(Point(1)) == "Point(x=1, y=2, tags=[])"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Counter())


def test_only_what_is_not_frozen_changes() -> None:
    counter = Counter()
    counter.count += 1
    assert counter == Counter(1)
    point = Point(1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
        del point.x


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "needs a value for 'x'"),
        ((1, 2, [], 4), {}, "takes 3 values at most, but 4 were given"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        ((1,), {"z": 1}, "unexpected keyword argument 'z'; it takes x, y, tags"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    args: tuple[object, ...], kwargs: dict[str, object], why: str
) -> None:
    with pytest.raises(TypeError, match=why):
        Point(*args, **kwargs)  # type: ignore[arg-type]


def test_who_asks_finds_a_dataclass() -> None:
    assert dataclasses.is_dataclass(Point)
    assert [each.name for each in dataclasses.fields(Point(1))] == ["x", "y", "tags"]
    assert dataclasses.replace(Point(1), y=5) == Point(1, 5)
    assert Point(1).__replace__(y=5) == Point(1, 5)  # type: ignore[attr-defined]
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 2, "tags": []}
    parameters = inspect.signature(Graces).parameters
    assert {name: each.default for name, each in parameters.items()} == {
        "flag": 0.1,
        "interrupt": 0.4,
        "terminate": 1.0,
    }


def test_replacing_checks_again() -> None:
    with pytest.raises(ValueError, match="flag must be 0 to"):
        dataclasses.replace(Graces(), flag=-1.0)


def test_copies_and_pickles_are_equal() -> None:
    for each in (Graces(0.5), Point(1, tags=["a"])):
        assert pickle.loads(pickle.dumps(each)) == each
        assert copy.deepcopy(each) == each


def test_making_one_loads_no_dataclasses(tmp_path: Path) -> None:
    lines = run_clean(
        """
        import sys
        from snakepit.lifecycle.graces import Graces
        print(Graces(), "dataclasses" in sys.modules, "inspect" in sys.modules)
        """,
        tmp_path,
    )
    assert lines == ["Graces(flag=0.1, interrupt=0.4, terminate=1.0) False False"]
