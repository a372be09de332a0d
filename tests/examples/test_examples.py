"""Every example runs, prints what its text promises, and leaves no process behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support import Outcome, start_script

EXAMPLES = Path(__file__).resolve().parents[2]


def run_example(directory: Path, name: str, *arguments: str, code: int = 0) -> Outcome:
    """Run an example as a module, to its end."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(EXAMPLES)]))
    script = start_script(
        None,
        directory,
        command=["-m", f"examples.{name}", *arguments],
        env={"PYTHONPATH": path, "COLUMNS": "120"},
    )
    outcome = script.finish()
    assert outcome.returncode == code, outcome
    script.expect_nothing_left()
    return outcome


@pytest.mark.parametrize("path", sorted((EXAMPLES / "examples").glob("[!_]*.py")), ids=str)
def test_every_example_has_its_test(path: Path) -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert f'"{path.stem}"' in tests


def test_first_program(tmp_path: Path) -> None:
    outcome = run_example(tmp_path, "first_program")
    assert outcome.stderr == ""
    assert outcome.lines[0].split() == ["78,498", "primes", "below", "1,000,000"]
    assert outcome.lines[-1].split() == ["664,579", "primes", "below", "10,000,000"]


def test_shared_array(tmp_path: Path) -> None:
    outcome = run_example(tmp_path, "shared_array")
    assert outcome.stderr == ""
    by_reference, copied = (int(line.split()[-3].replace(",", "")) for line in outcome.lines[1:3])
    assert by_reference < 10_000 < 250_000_000 < copied
    assert "a reader that writes: assignment destination is read-only" in outcome.lines
    assert re.fullmatch(r"seen here: mean -?0\.0000, deviation 1\.0000", outcome.lines[-1])


def test_crash_and_go_on(tmp_path: Path) -> None:
    outcome = run_example(tmp_path, "crash_and_go_on")
    failed = [line for line in outcome.lines if "failed" in line]
    assert len(failed) == 1
    assert failed[0].startswith("task 7 failed: ")
    assert outcome.lines[-1] == "19 results, 1 crash, 1 restart"


def test_asyncio_service(tmp_path: Path) -> None:
    outcome = run_example(tmp_path, "asyncio_service")
    assert outcome.stderr == ""
    assert outcome.lines[0].startswith("4 clients, 20 answers in ")
    assert outcome.lines[-1] == "run_in_executor gives the same key: True"
