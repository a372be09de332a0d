"""Modules that another thread still loads lie in sys.modules, without what they will define."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict

import pytest

from snakepit.pickling import careful_dumps
from snakepit.pool import endings
from snakepit.pool.functions import is_importable
from snakepit.sessions import kinds


@pytest.fixture
def half_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "cloudpickle.cloudpickle", "multiprocessing.reduction", "numpy", "snakepit.pool.local",
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


@pytest.mark.usefixtures("half_loaded")
def test_functions_are_found() -> None:
    assert is_importable(OrderedDict)


@pytest.mark.usefixtures("half_loaded")
def test_values_are_pickled() -> None:
    assert careful_dumps({1: 2}, None)


@pytest.mark.usefixtures("half_loaded")
def test_booleans_are_told() -> None:
    assert kinds._is_boolean(True) and not kinds._is_boolean(1)


@pytest.mark.usefixtures("half_loaded")
def test_pools_that_run_are_found_at_the_exit() -> None:
    assert endings._running_here() == []
