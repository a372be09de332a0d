"""Variables keep to their types and constraints, have versions, and lose no update."""

from __future__ import annotations

import math
import pickle
from enum import Enum, StrEnum
from typing import Any

import numpy as np
import pytest

import snakepit
from snakepit.errors import VariableError, VariableNotFoundError, VersionConflictError

from .support import in_threads


class Color(StrEnum):
    RED = "red"


class Mood(Enum):
    GOOD = 1


def refused(quick: snakepit.Session, name: str, value: Any) -> VariableError:
    """Set a variable to what it must not be; return the error, once nothing has changed."""
    before = quick.read_variable(name)
    with pytest.raises(VariableError) as caught:
        quick.set_variable(name, value)
    after = quick.read_variable(name)
    assert after[1] == before[1] and after[0] is before[0]
    error = caught.value
    assert error.details["variable"] == name and repr(name) in str(error)
    assert pickle.loads(pickle.dumps(error)).details == error.details
    return error


# Types


@pytest.mark.parametrize(
    ("type_name", "given", "kept"),
    [
        ("string", "", ""),
        ("string", Color.RED, "red"),
        ("string", "\ud800 half\x00", "\ud800 half\x00"),
        ("integer", 10**400, 10**400),
        ("integer", np.int8(-3), -3),
        ("float", 3, 3.0),
        ("float", np.float32(0.5), 0.5),
        ("float", -0.0, -0.0),
        ("float", math.inf, math.inf),
        ("float", -math.inf, -math.inf),
        ("boolean", True, True),
        ("boolean", np.bool_(False), False),
        ("module", "package.sub.module", "package.sub.module"),
        ("module", math, "math"),
        (str, "text", "text"),
        (int, 4, 4),
        (float, 4, 4.0),
        (bool, False, False),
    ],
)
def test_value_is_kept_as_its_type(
    quick: snakepit.Session, type_name: object, given: Any, kept: Any
) -> None:
    quick.register_variable("x", type_name, given)
    value = quick.get_variable("x")
    assert type(value) is type(kept) and value == kept
    assert str(value) == str(kept) if type_name == "float" else True


def test_nan_is_kept(quick: snakepit.Session) -> None:
    quick.register_variable("x", "float", math.nan)
    assert math.isnan(quick.get_variable("x"))


@pytest.mark.parametrize(
    ("type_name", "good", "bad"),
    [
        ("string", "a", b"a"),
        ("string", "a", None),
        ("integer", 1, True),
        ("integer", 1, 1.0),
        ("integer", 1, np.bool_(True)),
        ("integer", 1, "1"),
        ("float", 1.0, "1.0"),
        ("float", 1.0, True),
        ("float", 1.0, 1j),
        ("float", 1.0, 10**400),
        ("boolean", True, 1),
        ("boolean", True, "true"),
        ("module", "os", "not a module"),
        ("module", "os", "a..b"),
        ("module", "os", 7),
        ("tensor", [1], "text"),
        ("tensor", [1], [[1, 2], [3]]),
        ("tensor", [1], [None]),
        ("embedding", [1.0], [[1.0]]),
        ("embedding", [1.0], [1j]),
        ("embedding", [1.0], [True]),
        ("embedding", [1.0], 1.0),
    ],
)
def test_value_of_the_wrong_type_is_refused(
    quick: snakepit.Session, type_name: str, good: Any, bad: Any
) -> None:
    quick.register_variable("x", type_name, good)
    error = refused(quick, "x", bad)
    assert error.details["type"] == type_name and error.details["constraint"] is None
    with pytest.raises(VariableError):
        quick.register_variable("y", type_name, bad)
    assert [variable.name for variable in quick.list_variables()] == ["x"]


def test_choices_may_be_given_by_an_iterator(session: snakepit.Session) -> None:
    session.register_variable("x", "choice", "b", {"choices": iter("ab")})
    session.set_variable("x", "a")
    assert session.list_variables()[0].constraints == {"choices": ["a", "b"]}


def test_messages_shorten_the_value(quick: snakepit.Session) -> None:
    quick.register_variable("x", "integer", 1)
    error = refused(quick, "x", "z" * 10_000)
    assert len(str(error)) < 400 and error.details["value"].endswith("…")


# Constraints


@pytest.mark.parametrize(
    ("type_name", "constraints", "good", "bad", "broken"),
    [
        ("string", {"min_length": 2}, "ab", "a", "min_length"),
        ("string", {"max_length": 2}, "ab", "abc", "max_length"),
        ("string", {"pattern": "[a-z]+"}, "abc", "abc1", "pattern"),
        ("string", {"choices": ["a", "b"]}, "a", "c", "choices"),
        ("integer", {"min": 0}, 0, -1, "min"),
        ("integer", {"max": 10**300}, 10**300, 10**300 + 1, "max"),
        ("integer", {"choices": (1, 2)}, 2, 3, "choices"),
        ("float", {"min": 0, "max": 1}, 0.5, 1.1, "max"),
        ("float", {"min": 0}, math.inf, math.nan, "min"),
        ("float", {"max": 0}, -math.inf, math.nan, "max"),
        ("choice", {"choices": ["low", "high", 3, 0.5, True]}, 3, 4, "choices"),
        ("choice", {"choices": [1]}, 1, True, "choices"),
        ("choice", {"choices": range(3)}, 2, 3, "choices"),
        ("module", {"choices": ["os", "os.path"]}, "os.path", "sys", "choices"),
        ("tensor", {"shape": (None, 2)}, [[1, 2]], [[1, 2, 3]], "shape"),
        ("tensor", {"shape": [2]}, [1, 2], [[1, 2]], "shape"),
        ("tensor", {"dimensions": 2}, [[1]], [1], "dimensions"),
        ("tensor", {"dtype": "int16"}, [1], [1.5], "dtype"),
        ("tensor", {"dtype": "f4"}, np.ones(2, "f4"), np.ones(2, "f8"), "dtype"),
        ("embedding", {"dimensions": 3}, [1, 2, 3], [1, 2], "dimensions"),
        ("embedding", {"normalised": True}, [0.6, 0.8], [0.6, 0.9], "normalised"),
        ("embedding", {"normalized": True}, [0.6, 0.8], [math.nan], "normalised"),
        ("embedding", {"normalise": True}, [3, 4], [0, 0], "normalise"),
    ],
)
def test_value_that_breaks_a_constraint_is_refused(
    quick: snakepit.Session,
    type_name: str,
    constraints: dict[str, Any],
    good: Any,
    bad: Any,
    broken: str,
) -> None:
    quick.register_variable("x", type_name, good, constraints)
    quick.set_variable("x", good)
    error = refused(quick, "x", bad)
    assert error.details["constraint"] == broken and repr(broken) in str(error)


@pytest.mark.parametrize(
    ("type_name", "value", "constraints", "text"),
    [
        ("strnig", "a", None, "did you mean 'string'"),
        (list, [1], None, "the types are string, integer"),
        (7, 7, None, "there is no type 7"),
        ("string", "a", {"max_lenght": 3}, "did you mean 'max_length'"),
        ("integer", 1, {"pattern": "a"}, "it knows min, max, choices"),
        ("boolean", True, {"min": 0}, "it knows none"),
        ("integer", 1, {"min": 2, "max": 1}, r"min \(2\) is above max \(1\)"),
        ("integer", 1, {"min": "low"}, "min must be a number"),
        ("float", 1, {"max": math.nan}, "max must be a number"),
        ("string", "a", {"min_length": -1}, "min_length must be a whole number"),
        ("string", "a", {"pattern": "("}, "no regular expression"),
        ("string", "a", {"pattern": b"a"}, "no regular expression"),
        ("string", "a", {"choices": "abc"}, "choices must be a list"),
        ("string", "a", {"choices": []}, "choices must not be empty"),
        ("string", "a", {"choices": [1]}, "choices: it is not a string"),
        ("choice", "a", None, 'needs the constraint "choices"'),
        ("string", "a", ["min_length"], "constraints must be a dict"),
        ("tensor", [1], {"shape": (1.5,)}, "shape has lengths"),
        ("tensor", [1], {"shape": (-2,)}, "negative"),
        ("tensor", [1], {"shape": (1,), "dimensions": 2}, "contradicts"),
        ("tensor", [1], {"dtype": "floaty"}, "none of numpy's"),
        ("tensor", [1], {"dtype": object}, "numbers or booleans"),
        ("embedding", [1.0], {"dtype": "int8"}, "one of floats"),
        ("embedding", [1.0], {"normalised": "yes"}, "True or False"),
    ],
)
def test_senseless_registration_is_refused(
    quick: snakepit.Session, type_name: object, value: Any, constraints: Any, text: str
) -> None:
    with pytest.raises(VariableError, match=text):
        quick.register_variable("x", type_name, value, constraints)
    assert quick.list_variables() == []


@pytest.mark.parametrize("name", ["", None, 3])
def test_senseless_name_is_refused(quick: snakepit.Session, name: Any) -> None:
    with pytest.raises(VariableError, match="a variable's name must be"):
        quick.register_variable(name, "integer", 1)


def test_registering_twice_is_refused(quick: snakepit.Session) -> None:
    quick.register_variable("x", "integer", 1)
    with pytest.raises(VariableError, match="already, of type integer"):
        quick.register_variable("x", "string", "a")
    assert quick.read_variable("x") == (1, 1)


def test_wrong_choice_names_the_nearest(quick: snakepit.Session) -> None:
    quick.register_variable("mood", "choice", "good", {"choices": ["good", "bad"]})
    assert "did you mean 'good'" in str(refused(quick, "mood", "goood"))
    assert refused(quick, "mood", Mood.GOOD).details["constraint"] is None


# Arrays


def test_tensor_is_a_copy_that_nobody_can_change(quick: snakepit.Session) -> None:
    given = np.arange(6, dtype="i2").reshape(2, 3)
    quick.register_variable("t", "tensor", given)
    given[:] = 0
    kept = quick.get_variable("t")
    assert kept.dtype == np.int16 and kept.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 9
    quick.set_variable("t", [[True, False]])
    assert quick.get_variable("t").dtype == np.bool_


def test_special_floats_survive_in_arrays(quick: snakepit.Session) -> None:
    quick.register_variable("t", "tensor", [math.nan, math.inf, -math.inf, -0.0])
    quick.register_variable("e", "embedding", np.array([math.nan, -math.inf], "f4"))
    assert [str(value) for value in quick.get_variable("t")] == ["nan", "inf", "-inf", "-0.0"]
    assert quick.get_variable("e").dtype == np.float32


def test_embedding_is_of_floats_and_normalised_on_request(quick: snakepit.Session) -> None:
    quick.register_variable("e", "embedding", [3, 4], {"normalise": True, "dtype": "f4"})
    kept = quick.get_variable("e")
    assert kept.dtype == np.float32 and kept == pytest.approx([0.6, 0.8])
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1
    quick.register_variable("empty", "embedding", [])
    assert quick.get_variable("empty").shape == (0,)


# Reading and writing


def test_versions_count_the_writes(session: snakepit.Session) -> None:
    before = session.revision
    assert session.register_variable("x", "integer", 1) == 1
    assert session.set_variable("x", 2) == 2
    assert session.update_variable("x", lambda value: value + 5) == 7
    assert session.read_variable("x") == (7, 3)
    revision = session.revision
    assert revision > before
    session.get_variable("x")
    assert session.revision == revision
    session.delete_variable("x")
    assert session.revision > revision


def test_version_never_comes_again(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1)
    version = session.set_variable("x", 2)
    session.delete_variable("x")
    assert session.register_variable("x", "integer", 2) > version


def test_revision_of_a_session_made_again_is_another(store: snakepit.SessionStore) -> None:
    revisions = set()
    for _ in range(3):
        session = store.create_session("alice")
        session.register_variable("x", "integer", 1)
        revisions.add(session.revision)
        store.delete_session("alice")
    assert len(revisions) == 3


def test_missing_variable_is_an_error_that_names_the_nearest(session: snakepit.Session) -> None:
    session.register_variable("temperature", "float", 0.5)
    for use in (
        lambda: session.get_variable("temprature"),
        lambda: session.read_variable("temprature"),
        lambda: session.set_variable("temprature", 1),
        lambda: session.update_variable("temprature", abs),
        lambda: session.compare_and_set_variable("temprature", 1, 1),
        lambda: session.delete_variable("temprature"),
        lambda: session.watch_variable("temprature"),
    ):
        with pytest.raises(VariableNotFoundError, match="did you mean 'temperature'") as caught:
            use()
        assert isinstance(caught.value, LookupError)
    with pytest.raises(VariableNotFoundError) as caught:
        session.get_variables(["a", "temperature", "b"])
    assert caught.value.details["missing"] == ["a", "b"]


def test_list_tells_all_of_the_matching_variables(session: snakepit.Session) -> None:
    session.register_variable("model.top_p", "float", 1, {"min": 0}, {"unit": "share"})
    session.register_variable("model.name", "string", "small")
    session.register_variable("seed", "integer", 7)
    assert [variable.name for variable in session.list_variables()] == [
        "model.name",
        "model.top_p",
        "seed",
    ]
    top = session.list_variables("model.*")[1]
    assert (top.type, top.value, top.version) == ("float", 1.0, 1)
    assert (top.constraints, top.metadata) == ({"min": 0}, {"unit": "share"})
    assert session.list_variables("*[z]") == []
    assert session.get_variables("model.*") == {"model.name": "small", "model.top_p": 1.0}
    assert session.get_variables(["seed", "model.name"]) == {"seed": 7, "model.name": "small"}
    copied = pickle.loads(pickle.dumps(top))
    assert (copied.name, copied.value, copied.constraints) == (top.name, 1.0, {"min": 0})
    with pytest.raises(TypeError, match="pattern"):
        session.list_variables(3)  # type: ignore[arg-type]


def test_what_was_read_stays_as_it_was(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1, {"min": 0}, {"a": 1})
    (record,) = session.list_variables()
    record.constraints["min"] = 100
    record.metadata["a"] = 2
    session.set_variable("x", 2)
    assert (record.value, record.version) == (1, 1)
    (now,) = session.list_variables()
    assert now.constraints == {"min": 0} and now.metadata == {"a": 1}


def test_atomic_batch_is_all_or_nothing(session: snakepit.Session) -> None:
    session.register_variable("a", "integer", 1, {"max": 10})
    session.register_variable("b", "string", "b")
    assert session.set_variables({"a": 2, "b": "c"}) == {"a": 2, "b": 2}
    with pytest.raises(VariableError) as caught:
        session.set_variables({"b": "d", "a": 11, "missing": 1})
    assert set(caught.value.details["errors"]) == {"a", "missing"}
    assert "'a'" in str(caught.value) and "'missing'" in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert session.get_variables("*") == {"a": 2, "b": "c"}
    with pytest.raises(TypeError, match="must be a dict"):
        session.set_variables(["a"])  # type: ignore[arg-type]


def test_batch_that_is_not_atomic_sets_what_it_can(session: snakepit.Session) -> None:
    session.register_variable("a", "integer", 1)
    session.register_variable("b", "string", "b")
    with pytest.raises(VariableError, match="1 others were set") as caught:
        session.set_variables({"a": "no", "b": "c"}, atomic=False)
    assert set(caught.value.details["errors"]) == {"a"}
    assert caught.value.details["versions"] == {"b": 2}
    assert session.get_variables("*") == {"a": 1, "b": "c"}


def test_compare_and_set_needs_the_version(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1)
    assert session.compare_and_set_variable("x", 1, 5) == 2
    with pytest.raises(VersionConflictError) as caught:
        session.compare_and_set_variable("x", 1, 6)
    assert caught.value.details["expected"] == 1 and caught.value.details["actual"] == 2
    assert session.get_variable("x") == 5
    with pytest.raises(TypeError, match="expected_version"):
        session.compare_and_set_variable("x", "1", 6)  # type: ignore[arg-type]


def test_update_that_fails_changes_nothing(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1)
    with pytest.raises(ZeroDivisionError):
        session.update_variable("x", lambda value: value // 0)
    with pytest.raises(VariableError):
        session.update_variable("x", str)
    assert session.read_variable("x") == (1, 1)


def test_update_runs_again_on_what_somebody_else_has_set(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1)
    seen: list[int] = []

    def add(value: int) -> int:
        seen.append(value)
        if len(seen) == 1:
            session.set_variable("x", 10)  # no lock is held that this would wait for
        return value + 1

    assert session.update_variable("x", add) == 11
    assert seen == [1, 10]


def test_update_does_not_fall_for_a_variable_made_again(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 1)

    def replace(value: Any) -> Any:
        if value == 1:
            session.delete_variable("x")
            session.register_variable("x", "string", "new")
            return 2
        return value + "er"

    assert session.update_variable("x", replace) == "newer"


# Threads


def test_no_update_of_eight_threads_is_lost(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)

    def add(_: int) -> None:
        for _ in range(50):
            session.update_variable("x", lambda value: value + 1)

    in_threads(8, add)
    assert session.read_variable("x") == (400, 401)


def test_one_of_eight_threads_wins_each_compare_and_set(session: snakepit.Session) -> None:
    session.register_variable("x", "integer", 0)

    def compete(number: int) -> int:
        wins = 0
        for _ in range(50):
            value, version = session.read_variable("x")
            try:
                session.compare_and_set_variable("x", version, value + 1)
                wins += 1
            except VersionConflictError:
                pass
        return wins

    wins = sum(in_threads(8, compete))
    assert session.read_variable("x") == (wins, wins + 1)


def test_readers_never_see_half_a_batch(session: snakepit.Session) -> None:
    for name in "ab":
        session.register_variable(name, "integer", 0)

    def work(number: int) -> None:
        for turn in range(40):
            if number < 4:
                value = number * 1000 + turn
                session.set_variables({"a": value, "b": value})
            else:
                values = session.get_variables(["a", "b"])
                assert values["a"] == values["b"]

    in_threads(8, work)
    assert session.read_variable("a")[1] == session.read_variable("b")[1] == 161
