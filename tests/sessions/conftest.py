"""Stores for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit.sessions import watches

from .support import Clock

MakeStore = Callable[..., snakepit.SessionStore]


@pytest.fixture(autouse=True)
def _short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the thread of callbacks end soon after the last one: the audit waits for that."""
    monkeypatch.setattr(watches, "LINGER", 0.02)


@pytest.fixture
def clock() -> Clock:
    """The clock of the test's stores."""
    return Clock()


@pytest.fixture
def make_store(clock: Clock) -> Iterator[MakeStore]:
    """Return a function that makes stores, which are closed after the test."""
    made: list[snakepit.SessionStore] = []

    def make(**options: Any) -> snakepit.SessionStore:
        store = snakepit.SessionStore(**{"clock": clock, **options})
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, make_store: MakeStore, tmp_path: Path) -> Any:
    """A store with each backend."""
    return make_store(backend=tmp_path / "store.db" if request.param == "sqlite" else None)


@pytest.fixture
def session(store: snakepit.SessionStore) -> snakepit.Session:
    """A session of that store."""
    return store.create_session("the-session")


@pytest.fixture
def quick(make_store: MakeStore) -> snakepit.Session:
    """A session in memory, where the backend makes no difference."""
    return make_store().create_session("the-session")
