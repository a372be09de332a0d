"""Every example runs, prints what its text promises, and leaves no process behind."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path

import pytest

from tests.support import Outcome, need, start_script

EXAMPLES = Path(__file__).resolve().parents[2]
SHOWN = re.compile(
    r"\(\.\./\.\./examples/(?P<name>\w+)\.py\)"
    r"(?:(?!```).)*```text\n\$ python -m examples\.(?P=name)\n(?P<output>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = r"-?\d[\d,.]*(e-\d+)?"


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


def shown_outputs() -> dict[str, str]:
    """What the guide says that each example prints."""
    guide = (EXAMPLES / "docs" / "guide" / "examples.md").read_text()
    return {found["name"]: found["output"] for found in SHOWN.finditer(guide)}


def without(varying: str, output: str) -> list[str]:
    """The lines of an output without what varies; of equal lines that follow each other, one."""
    lines = [re.sub(varying, "…", line) if varying else line for line in output.splitlines()]
    return [line for place, line in enumerate(lines) if lines[place - 1 : place] != [line]]


def run_shown(directory: Path, name: str, varying: str = "", package: str = "") -> Outcome:
    """Run an example and expect what the guide shows; `varying` is a pattern of what may differ."""
    if package:
        need(package, f"the example {name} is about {package}")
    outcome = run_example(directory, name)
    assert outcome.stderr == ""
    assert without(varying, outcome.stdout) == without(varying, shown_outputs()[name]), outcome
    return outcome


def test_the_guide_shows_every_example_and_its_output() -> None:
    names = {path.stem for path in (EXAMPLES / "examples").glob("[!_]*.py")}
    assert set(shown_outputs()) == names - {"stdlib_report"}


@pytest.mark.parametrize("path", sorted((EXAMPLES / "examples").glob("[!_]*.py")), ids=str)
def test_every_example_has_its_test(path: Path) -> None:
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert f'"{path.stem}"' in tests


@pytest.mark.parametrize("path", sorted((EXAMPLES / "examples").glob("[!_]*.py")), ids=str)
def test_every_example_but_the_report_is_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert (lines < 100) == (path.stem != "stdlib_report"), f"{path.name} has {lines} lines"


@pytest.mark.parametrize("ci", ["", "true"])
def test_what_an_example_is_about_may_be_missing_but_not_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ModuleNotFoundError if ci else pytest.skip.Exception, match="no_such"):
        need("no_such_package", "an example is about no_such_package")


def test_first_program(tmp_path: Path) -> None:
    run_shown(tmp_path, "first_program")


def test_shared_array(tmp_path: Path) -> None:
    outcome = run_shown(tmp_path, "shared_array", NUMBER)
    by_reference, copied = (int(line.split()[-3].replace(",", "")) for line in outcome.lines[1:3])
    assert by_reference < 10_000 < 250_000_000 < copied
    assert re.fullmatch(r"seen here: mean -?0\.0000, deviation 1\.0000", outcome.lines[-1])


def test_crash_and_go_on(tmp_path: Path) -> None:
    outcome = run_shown(tmp_path, "crash_and_go_on", NUMBER)
    assert outcome.lines[1].startswith("task 7 failed: ")
    assert outcome.lines[-1] == "19 results, 1 crash, 1 restart"


def test_asyncio_service(tmp_path: Path) -> None:
    outcome = run_shown(tmp_path, "asyncio_service", NUMBER)
    assert outcome.lines[0].startswith("4 clients, 20 answers in ")


def test_digits(tmp_path: Path) -> None:
    run_shown(tmp_path, "digits", NUMBER + " images", package="sklearn")


def test_log_tail(tmp_path: Path) -> None:
    run_shown(tmp_path, "log_tail")


def test_session_cache(tmp_path: Path) -> None:
    outcome = run_shown(tmp_path, "session_cache", r"(?<=customers, )\d+")
    by_hint, strictly = (int(line.split()[-3]) for line in outcome.lines[:2])
    assert strictly == 6 <= by_hint <= 12


def test_tuning(tmp_path: Path) -> None:
    outcome = run_shown(tmp_path, "tuning", NUMBER)
    assert outcome.lines[0] == "step 1: rate 64, loss 5.809"
    assert outcome.lines[1].split(":")[1].startswith(" rate 32, ")
    assert 0.85 < float(outcome.lines[-1].split()[1]) < 1.0


def test_pipeline(tmp_path: Path) -> None:
    run_shown(tmp_path, "pipeline", rf"{NUMBER} (compressed|s$)")


def test_picture_of_the_pipeline_is_a_png_of_its_size(tmp_path: Path) -> None:
    run_example(tmp_path, "pipeline", "picture.png")
    data = (tmp_path / "picture.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, chunks = 8, []
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        (checksum,) = struct.unpack_from(">I", data, place + 8 + length)
        assert checksum == zlib.crc32(data[place + 4 : place + 8 + length])
        chunks.append((kind, data[place + 8 : place + 8 + length]))
        place += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height = struct.unpack_from(">II", chunks[0][1])
    pixels = zlib.decompress(chunks[1][1])
    assert len(pixels) == (width + 1) * height
    middle = pixels[height // 2 * (width + 1) :][: width + 1]
    assert middle[width * 3 // 4] == 240  # a point of the set
    assert middle[1] < 20


def test_web(tmp_path: Path) -> None:
    need("httpx", "the example web calls itself by httpx")
    run_shown(tmp_path, "web", r"(?<=it waited ).*", package="starlette")
