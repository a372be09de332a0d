"""`snakepit new adapter`: what it writes runs at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from snakepit.cli.new import write_adapter
from tests.support import LONG, ROOT


def snakepit_new(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snakepit", "new", "adapter", *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


def run_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{folder}"},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


def test_what_is_written_runs_and_passes(tmp_path: Path) -> None:
    ended = snakepit_new(tmp_path, "TextTools", "--folder", "made")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-2:] == [
        "try it: python made/example_text_tools.py",
        "its test needs pytest; then: python -m pytest made",
    ]
    folder = tmp_path / "made"
    names = ["example_text_tools.py", "test_text_tools.py", "text_tools.py"]
    assert sorted(path.name for path in folder.iterdir()) == names
    example = run_in(folder, "example_text_tools.py")
    assert example.returncode == 0, example.stderr
    assert example.stdout.splitlines()[-1].startswith("TextTools for en")
    tests = run_in(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")
    assert tests.returncode == 0 and "3 passed" in tests.stdout, tests.stdout


def test_what_is_missing_for_the_test_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if it were not installed: import and search go on at sys.path, where it is not.
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytest"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert write_adapter("TextTools", tmp_path / "made") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("its test needs pytest, which is not installed here: pip install pytest")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_model.py").write_text("mine")
    ended = snakepit_new(tmp_path, "model")
    assert ended.returncode == 2 and "test_model.py is there already" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["test_model.py"]


def test_a_name_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ["2fast", "a b", "class", "_x", "é", ""]:
        assert write_adapter(name, tmp_path) == 2
        assert "no name for an adapter" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_would_hide_a_module_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / ".venv" / "site-packages"
    (library / "numbers_of_mine").mkdir(parents=True)
    (library / "numbers_of_mine" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (library / "one_file.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(library)
    for name in ["NumbersOfMine", "one-file", "json", "snakepit", "pytest"]:
        assert write_adapter(name, tmp_path) == 2
        told = capsys.readouterr().err
        assert "would hide the module" in told and "choose another name" in told
    assert "pytest.py" in told and told.endswith("such as PytestTools\n")
    assert [path.name for path in tmp_path.iterdir()] == [".venv"]


def test_a_name_that_only_its_own_folder_has_is_free_until_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "text_tools"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert write_adapter("TextTools", folder) == 0
    monkeypatch.syspath_prepend(folder)
    assert write_adapter("TextTools", folder) == 2
    assert "is there already" in capsys.readouterr().err
