"""Functions over shared arrays that the tests run in workers, which so import nothing else."""

from __future__ import annotations

from typing import Any

KEPT: Any = None
"""What a worker holds between two calls."""


def total(array: Any) -> float:
    return float(array.sum())


def fill(array: Any, value: float) -> None:
    array[...] = value


def keep(array: Any) -> None:
    global KEPT
    KEPT = array


def kept_total() -> float:
    return float(KEPT.sum())


def forget() -> None:
    global KEPT
    KEPT = None
