"""Threads of BLAS and OpenMP libraries in workers."""

from __future__ import annotations

import os
from typing import Any

import pytest

import snakepit
from snakepit.lifecycle import blas
from snakepit.lifecycle.blas import blas_environment
from tests.conftest import Make
from tests.support import LONG

NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in blas_environment(1, 1, {}):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def in_worker(executor: snakepit.Executor) -> list[str | None]:
    return [executor.submit(os.getenv, name).result(LONG) for name in NAMES]


@pytest.mark.all_kinds
@pytest.mark.processes
@pytest.mark.parametrize(("option", "expected"), [(None, "1"), (3, "3")])
def test_workers_get_the_number(
    make: Make, unset: pytest.MonkeyPatch, option: Any, expected: str
) -> None:
    assert in_worker(make(1, blas_threads=option)) == [expected] * 3


@pytest.mark.processes
def test_what_the_user_set_wins(make: Make, unset: pytest.MonkeyPatch) -> None:
    unset.setenv("MKL_NUM_THREADS", "7")
    executor = make(1, blas_threads=3, env={"OPENBLAS_NUM_THREADS": "5"})
    assert in_worker(executor) == ["3", "5", "7"]


def test_openmp_set_alone_holds_for_all_libraries() -> None:
    assert blas_environment(4, 2, {"OMP_NUM_THREADS": "2"}) == {}


@pytest.mark.parametrize(("cpus", "workers", "each"), [(8, 2, "4"), (7, 2, "3"), (2, 8, "1")])
def test_usable_cpus_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int, each: str
) -> None:
    monkeypatch.setattr(blas, "usable_cpus", lambda: cpus)
    assert set(blas_environment("share", workers, {}).values()) == {each}


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), ("all", TypeError), (1.5, TypeError)],
)
def test_bad_number_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="blas_threads"):
        snakepit.Executor(1, blas_threads=value)


def test_threads_of_this_process_cannot_be_limited() -> None:
    with pytest.raises(ValueError, match="blas_threads is for workers that are processes"):
        snakepit.Executor(1, profile="local", blas_threads=2)
