"""The command in a directory of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .command import Command


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The command in an empty directory with ``functions.py``."""
    command = Command(tmp_path)
    yield command
    command.end()
