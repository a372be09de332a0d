"""Every program in the documents runs, and prints what the document says."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import snakepit
from snakepit.lifecycle.recycling import REASONS
from snakepit.options import BYTES, SECONDS
from snakepit.pool.stats import WorkerStats
from tests.support import run_script, start_script

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
RUN_SHELL = "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', sys.argv[1]]))"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Program:
    """A block of Python in a document, and the output that the next block shows, if it does."""

    where: str
    source: str
    output: str | None
    settings: str | None = None


def programs() -> list[Program]:
    found: list[Program] = []
    for path in DOCUMENTS:
        text = path.read_text()
        blocks = list(BLOCK.finditer(text))
        for place, block in enumerate(blocks):
            if block[1] != "python":
                continue
            following = blocks[place + 1] if place + 1 < len(blocks) else None
            # Only what comes right after it is its output.
            shown = (
                following is not None
                and following[1] == "text"
                and not text[block.end() : following.start()].strip()
            )
            line = text.count("\n", 0, block.start()) + 1
            output = following[2] if following is not None and shown else None
            settings = settings_before(text, block.start())
            found.append(Program(f"{path.relative_to(ROOT)}:{line}", block[2], output, settings))
    return found


def settings_before(text: str, place: int) -> str | None:
    """The last configuration that the document shows before this place."""
    shown = [block[2] for block in BLOCK.finditer(text[:place]) if block[1] == "toml"]
    return shown[-1] if shown else None


def write_settings(settings: str | None, folder: Path) -> None:
    if settings is not None:
        (folder / "snakepit.toml").write_text(settings)


@pytest.mark.parametrize("program", programs(), ids=lambda program: str(program.where))
def test_program_runs_and_prints_what_the_document_says(program: Program, tmp_path: Path) -> None:
    write_settings(program.settings, tmp_path)
    outcome = run_script(program.source, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    # What a worker says there, the document shows as well.
    assert set(outcome.stderr.splitlines()) <= set((program.output or "").splitlines())
    if program.output is not None:
        assert outcome.stdout == program.output


def commands() -> list[tuple[str, str, str | None]]:
    """The commands of the console blocks, with the output and the configuration shown for each."""
    return [
        (
            block[2].partition("\n")[0].removeprefix("$ "),
            block[2].partition("\n")[2],
            settings_before(text, block.start()),
        )
        for path in DOCUMENTS
        for text in [path.read_text()]
        for block in BLOCK.finditer(text)
        if block[1] == "console"
    ]


@pytest.mark.parametrize(("command", "output", "settings"), commands())
def test_command_prints_what_the_document_says(
    command: str, output: str, settings: str | None, tmp_path: Path
) -> None:
    write_settings(settings, tmp_path)
    # The package under test, whether or not its command is on the path.
    shell = f'snakepit() {{ {shlex.quote(sys.executable)} -m snakepit "$@"; }}; {command}'
    script = start_script(None, tmp_path, command=["-c", RUN_SHELL, shell])
    outcome = script.finish()
    script.expect_nothing_left()
    assert outcome.stdout == output, outcome


@pytest.mark.parametrize("page", ["configuration.md", "recycling.md"])
def test_units_in_the_guide_are_those_that_options_take(page: str) -> None:
    text = (ROOT / "docs" / "guide" / page).read_text()
    shown = re.search(r"Units of time are (.*?); of size (.*?)\.$", text, re.DOTALL | re.MULTILINE)
    assert shown is not None
    for listed, known in ((shown[1], SECONDS), (shown[2], BYTES)):
        assert re.findall(r"`(\w+)`", listed) == list(known)


def test_every_number_of_a_pool_is_explained() -> None:
    text = (ROOT / "docs" / "guide" / "looking-inside.md").read_text()
    named = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    explained = set(re.findall(r"`(\w+)`", "".join(named)))
    with snakepit.Pool(snakepit.ThreadedShowcaseAdapter, profile="local") as pool:
        shown = pool.get_stats().keys()
    workers = {field.name for field in fields(WorkerStats)}
    assert explained == shown | workers | {"starting", "spare", "idle", "busy", "leaving"}
    assert all(f"`{reason}`" in text for reason in REASONS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    for target in targets:
        if "://" not in target:
            assert (path.parent / target).exists(), target
