"""Run ids: 7 characters of base 36 that a command line carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakepit.lifecycle import run_id
from tests.support import run_clean


def test_generated_ids_are_valid_and_differ() -> None:
    ids = {run_id.generate() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(run_id.valid(one) for one in ids)


@pytest.mark.parametrize(
    "bad", ["", "abc123", "abcd1234", "ABC1234", "abc 123", "äbc1234", None, 7]
)
def test_anything_else_is_not_valid(bad: object) -> None:
    assert not run_id.valid(bad)


@pytest.mark.parametrize(
    "command",
    [
        ["python", "-c", "code", "--run-id", "abc1234"],
        ["python", "--run-id=abc1234", "more"],
        "python x.py --run-id abc1234",
        "python\0--run-id\0abc1234\0",
    ],
)
def test_found_in_a_command(command: str | list[str]) -> None:
    assert run_id.extract_from_command(command) == "abc1234"


@pytest.mark.parametrize(
    "command",
    ["python", "--run-id", "--run-id abc123", "--run-id abc12345", "x--run-id abc1234", []],
)
def test_not_found_in_a_command_without_one(command: str | list[str]) -> None:
    assert run_id.extract_from_command(command) is None


def test_a_forked_child_has_its_own(tmp_path: Path) -> None:
    source = """
        import os, warnings
        warnings.simplefilter("ignore")
        from snakepit.lifecycle import run_id
        mine = run_id.current()
        assert run_id.current() == mine
        if (pid := os.fork()) == 0:
            os._exit(run_id.current() == mine)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    assert run_clean(source, tmp_path) == ["0"]
