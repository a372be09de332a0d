"""The report over the standard library, and the analysis beneath it."""

from __future__ import annotations

import ast
import json
import sysconfig
from pathlib import Path

import pytest

from examples._analysis import analyse_file, survey
from examples.stdlib_report import find_files

from .test_examples import run_example


def complexity_of(source: str) -> dict[str, int]:
    """The complexity of each function of a source text."""
    functions, _, _ = survey(ast.parse(source))
    return {function.name: function.complexity for function in functions}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("if a and b or c: pass", 4),
        ("return a if b else c", 2),
        ("while a: pass\n else: pass", 2),
        ("for a in b: pass\n else: pass", 2),
        ("assert a", 2),
        ("try: pass\n except A: pass\n except B: pass\n else: pass\n finally: pass", 3),
        ("with a: pass", 1),
        ("return [a for a in b for c in d if e if f]", 5),
        ("return lambda: a or b", 2),
        ("return f'{a or b}'", 2),
        ("match a:\n  case 1: pass\n  case _: pass", 2),
        ("match a:\n  case 1: pass\n  case b if b: pass", 3),
        ("match a:\n  case [1, _]: pass\n  case 1 | b: pass", 2),
    ],
)
def test_complexity_counts_the_conditions(body: str, expected: int) -> None:
    assert complexity_of(f"def f():\n {body}\n") == {"f": expected}


def test_nested_functions_and_methods_are_counted_alone() -> None:
    source = """
class Outer:
    flag = a or b
    async def method(self):
        if self: pass
        def inner():
            if a: pass
            if b: pass
        return inner
def last(): pass
"""
    assert complexity_of(source) == {"Outer.method": 2, "Outer.method.inner": 3, "last": 1}


def test_lines_are_code_comment_or_blank(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Text.\n\n# no comment\n"""\n'
        "# a comment\n\n"
        "x = 1  # code\n"
        'y = ("a"\n\n     # between two strings\n     "b")\n'
        'z = f"""{x}\n\n# no comment\n"""\n',
        encoding="utf-8",
    )
    report = analyse_file(str(path))
    assert (report.code, report.comment, report.blank) == (11, 2, 2)
    assert report.lines == 15


def error_of(source: str) -> Exception | None:
    """Return what this interpreter raises for a source that it cannot compile."""
    try:
        compile(source, "sample.py", "exec")
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"print 'old'\n", "SyntaxError"),
        (b"# coding: no-such-codec\n", "SyntaxError"),
        (b"x = '\xff'\n", "SyntaxError"),
        # A SyntaxError, too, but not of the first releases of 3.11.
        (b"x = 1\0\n", type(error_of("x = 1\0\n")).__name__),
    ],
)
def test_file_that_is_no_python_is_reported(tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "sample.py"
    path.write_bytes(content)
    report = analyse_file(str(path))
    assert report.error is not None
    assert report.error.startswith(error)
    assert report.lines == 0


def test_empty_file_and_other_encodings(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.touch()
    assert analyse_file(str(empty)).lines == 0
    latin = tmp_path / "latin.py"
    latin.write_bytes(b"# coding: latin-1\r\nx = '\xe9'\r\n")
    assert analyse_file(str(latin)).lines == 2


def test_report_on_a_part_of_the_standard_library(tmp_path: Path) -> None:
    outcome = run_example(
        tmp_path, "stdlib_report", "--limit", "60", "--workers", "2", "--json", "report.json"
    )
    assert "All 3 runs gave identical results." in outcome.lines
    findings = json.loads((tmp_path / "report.json").read_text())
    assert findings["identical"] is True
    assert findings["totals"]["files"] == 60
    assert findings["totals"]["functions"] > 100
    assert findings["pool"]["workers"] == 2
    assert len(findings["wall"]) == 3
    assert "60/60" in outcome.stderr


def test_report_names_unparseable_files_and_can_run_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "site-packages").mkdir(parents=True)
    (tree / "site-packages" / "other.py").touch()
    (tree / "good.py").write_text("def f(a):\n    return a or 1\n")
    (tree / "bad.py").write_text("def f(:\n")
    outcome = run_example(
        tmp_path, "stdlib_report", "--root", str(tree), "--no-compare", "--json", "report.json"
    )
    assert any(line.startswith("Unparseable: bad.py: SyntaxError") for line in outcome.lines)
    findings = json.loads((tmp_path / "report.json").read_text())
    assert findings["totals"]["files"] == 2
    assert findings["totals"]["unparseable files"] == 1
    assert [function["name"] for function in findings["most_complex"]] == ["f"]
    assert list(findings["wall"]) == ["snakepit.Executor"]


def test_report_without_files(tmp_path: Path) -> None:
    outcome = run_example(tmp_path, "stdlib_report", "--root", str(tmp_path), code=2)
    assert outcome.stderr == f"no Python files below {tmp_path}\n"


def test_files_are_those_of_the_standard_library() -> None:
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = find_files(root, None)
    assert str(root / "ast.py") in paths
    assert str(root / "json" / "decoder.py") in paths
    assert not any("site-packages" in path for path in paths)
    assert find_files(root, 3) == paths[:3]
