"""What the interpreter is: of this process as it is now, and of others by asking them."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

import snakepit
from snakepit import PythonVersion
from snakepit.diagnostics import python_version
from snakepit.diagnostics.python_version import gil_enabled

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_this_interpreter_as_it_is() -> None:
    info = PythonVersion.get_info()
    assert PythonVersion.detect() == info.version == sys.version_info[:3]
    assert info.executable == sys.executable
    assert info.free_threaded_build is PythonVersion.supports_free_threading() is FREE_THREADED
    assert info.gil_enabled is gil_enabled()
    assert info.recommended_profile == ("process" if gil_enabled() else "thread")
    assert snakepit.recommend_profile() == info.recommended_profile
    assert info.as_dict()["gil_status"] == info.gil_status


def test_another_interpreter_is_asked() -> None:
    info = PythonVersion.get_info(sys.executable)
    assert info.version == sys.version_info[:3]
    assert info.free_threaded_build is FREE_THREADED
    assert PythonVersion.recommend_profile(sys.executable) == info.recommended_profile


def test_what_is_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is not a Python interpreter"):
        PythonVersion.detect("/bin/true")
    with pytest.raises(FileNotFoundError):
        PythonVersion.detect(str(tmp_path / "python"))
    forever = tmp_path / "forever"
    forever.write_text("#!/bin/sh\nexec sleep 1000\n")
    forever.chmod(0o755)
    monkeypatch.setattr(python_version, "PATIENCE", 0.1)
    with pytest.raises(ValueError, match=r"did not say within 0\.1 s what it is"):
        PythonVersion.detect(str(forever))


def test_version_tells_whether_there_is_a_free_threaded_build_of_it() -> None:
    assert not PythonVersion.supports_free_threading((3, 12, 9))
    assert PythonVersion.supports_free_threading((3, 13))
    assert PythonVersion.supports_free_threading((3, 14, 1))


@pytest.mark.parametrize(
    ("build", "enabled", "status", "profile"),
    [
        (False, True, "always on", "process"),
        (True, True, "forced on", "process"),
        (True, False, "off", "thread"),
    ],
)
def test_profile_follows_the_state_and_not_the_build(
    build: bool, enabled: bool, status: str, profile: str
) -> None:
    info = replace(PythonVersion.get_info(), free_threaded_build=build, gil_enabled=enabled)
    assert (info.gil_status, info.recommended_profile) == (status, profile)


def test_validate_says_what_a_user_should_know(monkeypatch: pytest.MonkeyPatch) -> None:
    info = replace(PythonVersion.get_info(), free_threaded_build=False, gil_enabled=True)
    monkeypatch.setattr(PythonVersion, "get_info", lambda _executable=None: info)
    assert PythonVersion.validate() == []
    info = replace(info, version=(3, 10, 2), implementation="PyPy", free_threaded_build=True)
    old, other, forced = PythonVersion.validate()
    assert old == "Python 3.10.2 is too old: Snakepit needs 3.11"
    assert other == "PyPy cannot load the compiled core: use CPython"
    assert "can run without the GIL, but the GIL is on: a module that was imported" in forced
    monkeypatch.setenv("PYTHON_GIL", "1")
    assert "PYTHON_GIL=1 or -X gil=1 asks for it" in PythonVersion.validate()[2]
