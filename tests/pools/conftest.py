"""Pools of each kind, ended after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from tests.executor.tasks import Gate, Log
from tests.pools.adapters import Counter

KINDS: dict[str, dict[str, Any]] = {
    "process": {"profile": "process", "pool_size": 2},
    "thread": {"profile": "thread", "pool_size": 1, "threads_per_worker": 2},
    "local": {"profile": "local", "threads_per_worker": 2},
}

# Those whose workers are processes, of one thread each or of two.
WITH_PROCESSES: dict[str, dict[str, Any]] = {
    "process": {"pool_size": 2},
    "thread": {"profile": "thread", "pool_size": 2, "threads_per_worker": 2},
}


def one_worker(profile: str) -> dict[str, Any]:
    """The shape of a pool that runs one call at a time."""
    processes = {} if profile == "local" else {"pool_size": 1}
    return processes | ({} if profile == "process" else {"threads_per_worker": 1})


@pytest.fixture(params=list(KINDS))
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_pool(tmp_path: Path) -> Iterator[Callable[..., snakepit.Pool]]:
    made: list[snakepit.Pool] = []

    def make(kind: str = "process", adapter: Any = Counter, **options: Any) -> snakepit.Pool:
        made.append(snakepit.Pool(adapter, **{**KINDS[kind], **options}))
        return made[-1]

    yield make
    for pool in made:
        pool.stop(cancel_calls=True)


@pytest.fixture
def gates(tmp_path: Path) -> Callable[[str], Gate]:
    return lambda name: Gate(tmp_path / name)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")
