"""How fast do numpy arrays travel: in, out, there and back?

Beside them the limit: the machine's own memcpy into memory that was touched before.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benches import work
from benches.suite import KB, MB, PROCESS_POOLS, QUICK, Bench, Run, runs

SIZES = {"10 KB": 10 * KB, "100 KB": 100 * KB, "1 MB": MB, "8 MB": 8 * MB, "64 MB": 64 * MB}
QUICK_SIZES = ("10 KB", "1 MB", "8 MB")

MEMCPY = "memcpy"
LABELS = [label for label in SIZES if not QUICK or label in QUICK_SIZES]


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    return {label: np.ones(nbytes // 8) for label, nbytes in SIZES.items()}


def _rounds(bench: Bench, fn: Callable[[], Any]) -> Any:
    return bench.rounds(fn, seconds=0.4, least=3, most=2_000, warm=3, warm_seconds=0.1)


def _cases(direction: str) -> list[str]:
    return [f"{direction} {label}" for label in LABELS]


def _size(run: Run) -> str:
    return run.case.split(" ", 1)[1]


@runs(PROCESS_POOLS, _cases("in"), sweeps=2, cases_inside=True, limits=[MEMCPY])
def test_in(bench: Bench, run: Run, arrays: dict[str, Any]) -> None:
    array = arrays[_size(run)]
    if run.peer == MEMCPY:
        target = np.zeros_like(array)
        target[:] = 2
        _rounds(bench, lambda: np.copyto(target, array))
        return
    call = bench.pool().call
    assert _rounds(bench, lambda: call(work.peek, array)) == 2.0


@runs(PROCESS_POOLS, _cases("out"), sweeps=2, cases_inside=True)
def test_out(bench: Bench, run: Run) -> None:
    call, nbytes = bench.pool().call, SIZES[_size(run)]
    assert _rounds(bench, lambda: call(work.produce, nbytes)).nbytes == nbytes // 8 * 8


@runs(PROCESS_POOLS, _cases("both"), sweeps=2, cases_inside=True)
def test_there_and_back(bench: Bench, run: Run, arrays: dict[str, Any]) -> None:
    call, array = bench.pool().call, arrays[_size(run)]
    assert _rounds(bench, lambda: call(work.echo, array)).shape == array.shape
