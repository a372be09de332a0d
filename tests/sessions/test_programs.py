"""Programs are kept by name, in a session or for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import snakepit
from snakepit.errors import ProgramNotFoundError

from .support import in_threads


@dataclass
class Programs:
    """The same five methods, of a session or of the store."""

    store: Callable[[str, Any], None]
    get: Callable[[str], Any]
    update: Callable[[str, Any], None]
    delete: Callable[[str], None]
    names: Callable[[], list[str]]


@pytest.fixture(params=["session", "global"])
def programs(
    request: pytest.FixtureRequest, store: snakepit.SessionStore, session: snakepit.Session
) -> Programs:
    if request.param == "session":
        return Programs(
            session.store_program,
            session.get_program,
            session.update_program,
            session.delete_program,
            session.list_programs,
        )
    return Programs(
        store.store_global_program,
        store.get_global_program,
        store.update_global_program,
        store.delete_global_program,
        store.list_global_programs,
    )


def test_program_is_stored_updated_and_deleted(programs: Programs) -> None:
    first = {"steps": [1, 2]}
    programs.store("plan", first)
    assert programs.get("plan") is first
    programs.update("plan", None)
    assert programs.get("plan") is None
    programs.store("plan", 3)
    programs.store("other", 4)
    assert programs.names() == ["other", "plan"]
    programs.delete("plan")
    assert programs.names() == ["other"]


def test_missing_program_is_an_error_that_names_the_nearest(programs: Programs) -> None:
    programs.store("planner", 1)
    for use in (
        lambda: programs.get("planer"),
        lambda: programs.update("planer", 2),
        lambda: programs.delete("planer"),
    ):
        with pytest.raises(ProgramNotFoundError, match="did you mean 'planner'") as caught:
            use()
        assert isinstance(caught.value, LookupError)
        assert caught.value.details["program"] == "planer"
    assert programs.get("planner") == 1


@pytest.mark.parametrize("name", ["", 3, None])
def test_senseless_name_is_refused(programs: Programs, name: Any) -> None:
    with pytest.raises(ValueError, match="a program's name must be"):
        programs.store(name, 1)


def test_programs_of_sessions_are_their_own(store: snakepit.SessionStore) -> None:
    alice, bob = store.create_session("alice"), store.create_session("bob")
    alice.store_program("plan", 1)
    store.store_global_program("shared", 2)
    with pytest.raises(ProgramNotFoundError, match="session 'bob' has no program"):
        bob.get_program("plan")
    with pytest.raises(ProgramNotFoundError):
        alice.get_program("shared")
    store.delete_session("alice")
    assert store.ensure_session("alice").list_programs() == []
    assert store.get_global_program("shared") == 2


def test_threads_store_and_delete_programs(programs: Programs) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            programs.store(f"{number}", turn)
            assert programs.get(f"{number}") == turn
            programs.delete(f"{number}")

    in_threads(8, work)
    assert programs.names() == []
