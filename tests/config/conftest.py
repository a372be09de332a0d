"""A folder of its own for each test, and an environment without settings."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's variables nor a file above the checkout decide what a test sees."""
    for name in list(os.environ):
        if name.startswith("SNAKEPIT_") and not name.startswith("SNAKEPIT_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file into the test's folder: `write(text, name="snakepit.toml")`."""

    def write(text: str, name: str = "snakepit.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    return write
