"""What is known about libraries, and what follows from it on this interpreter and on others."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from snakepit import Compatibility, PythonVersion, recommend_profile
from snakepit.diagnostics.libraries import LIBRARIES

Interpreter = Callable[..., None]


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Interpreter:
    """Let this process look like another interpreter: `interpreter(free_threaded=…, gil=…)`."""

    def pretend(*, free_threaded: bool, gil: bool) -> None:
        info = replace(
            PythonVersion.get_info(),
            version=(3, 13, 5),
            free_threaded_build=free_threaded,
            gil_enabled=gil,
        )
        monkeypatch.setattr(PythonVersion, "get_info", lambda _executable=None: info)

    return pretend


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a distribution be installed: `installed(name, version, files=(), tag="py3-none-any")`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(
        name: str, version: str, files: tuple[str, ...] = (), tag: str = "py3-none-any"
    ) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}")
        (folder / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()

    return install


def test_every_statement_has_a_source_and_a_date() -> None:
    assert len(LIBRARIES) >= 20
    for library in LIBRARIES.values():
        assert library.source.url.startswith("https://"), library
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", library.source.read), library
        assert library.note, library
        assert re.fullmatch(r"\d+(\.\d+)+", library.free_threaded_since or "1.0"), library


def test_all_libraries_are_listed_once() -> None:
    groups = Compatibility.list_all()
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(LIBRARIES)
    assert "numpy" in groups["thread_safe"]
    assert "pandas" in groups["not_thread_safe"]


def test_process_profile_asks_nothing_of_a_library() -> None:
    assert Compatibility.check("pandas", "process")
    assert Compatibility.check("never-heard-of", "process")


def test_thread_profile_under_a_gil(interpreter: Interpreter) -> None:
    interpreter(free_threaded=False, gil=True)
    numpy = Compatibility.check("numpy")
    assert numpy
    assert numpy.version is not None
    assert numpy.source is not None
    assert numpy.source.startswith("https://numpy.org/")
    pandas = Compatibility.check("pandas", "local")
    assert (pandas.status, bool(pandas)) == ("warning", False)
    assert "DataFrame" in pandas.message
    assert Compatibility.check("requests").status == "warning"
    assert Compatibility.check("lxml").status == "unknown"
    with pytest.raises(ValueError, match="profile must be one of process, thread, local"):
        Compatibility.check("numpy", "threads")


def test_names_are_those_of_distributions_and_of_modules() -> None:
    for name in ("scikit-learn", "scikit_learn", "Scikit.Learn", "sklearn"):
        assert Compatibility.get_library_info(name)["name"] == "scikit-learn"
    assert Compatibility.get_library_info("PIL")["name"] == "pillow"
    with pytest.raises(LookupError, match="did you mean 'numpy'"):
        Compatibility.get_library_info("numpi")


def test_installed_version_is_looked_at(
    interpreter: Interpreter, installed: Callable[..., None]
) -> None:
    interpreter(free_threaded=True, gil=False)
    installed("scipy", "1.14.1", ("scipy/_lib.so",), "cp313-cp313-linux_x86_64")
    old = Compatibility.check("scipy")
    assert (old.status, old.version) == ("warning", "1.14.1")
    assert "supports the free-threaded build since 1.15.0, but 1.14.1 is installed" in old.message
    installed("h5py", "3.16.0rc1", ("h5py/_x.so",), "cp313-cp313t-linux_x86_64")
    assert Compatibility.check("h5py")
    info = Compatibility.get_library_info("h5py")
    assert (info["installed"], info["has_extensions"], info["free_threaded_wheel"]) == (
        "3.16.0rc1",
        True,
        True,
    )


def test_warnings_of_threads_and_of_the_build_come_together(
    interpreter: Interpreter, installed: Callable[..., None]
) -> None:
    interpreter(free_threaded=True, gil=False)
    installed("pandas", "2.1.0")
    message = Compatibility.check("pandas").message
    assert "DataFrame" in message
    assert "but 2.1.0 is installed" in message


def test_library_that_is_not_listed(
    interpreter: Interpreter, installed: Callable[..., None]
) -> None:
    interpreter(free_threaded=False, gil=True)
    for number, (files, tag, message) in enumerate(
        [
            ((), "py3-none-any", "no extension modules"),
            (("x.so",), "cp313-cp313t-linux_x86_64", "made for the free-threaded build"),
            (("x.so",), "cp313-cp313-linux_x86_64", "may turn the GIL on"),
        ]
    ):
        name = f"never-heard-of-{number}"
        installed(name, "1.0", files, tag)
        found = Compatibility.check(name)
        assert (found.status, found.version) == ("unknown", "1.0")
        assert message in found.message
    assert "not installed here" in Compatibility.check("never-heard-of").message


def test_standard_library(interpreter: Interpreter, installed: Callable[..., None]) -> None:
    installed("json", "0.1")  # of which no import takes notice
    for gil in (True, False):
        interpreter(free_threaded=not gil, gil=gil)
        for name in ("hashlib", "zlib", "bz2", "lzma"):
            found = Compatibility.check(name)
            assert found and found.version == platform.python_version() and found.source
            assert Compatibility.get_library_info(name)["releases_gil"]
        for name in ("sqlite3", "ssl", "tkinter"):
            found = Compatibility.check(name)
            assert found.status == "warning" and found.source and "thread" in found.message
        for name in ("json", "xml.etree"):
            found = Compatibility.check(name)
            assert (found.status, found.version) == ("unknown", platform.python_version())
            assert f"{name} is a module of the standard library" in found.message
        assert Compatibility.check_python_version("json", (3, 13))
        assert Compatibility.check_python_version("sqlite3", (3, 13))
        assert recommend_profile(["zlib"]) == recommend_profile(["numpy", "hashlib"]) == "thread"
        assert recommend_profile(["sqlite3"], cpu_bound=False) == "process"


def test_python_versions(interpreter: Interpreter, installed: Callable[..., None]) -> None:
    interpreter(free_threaded=False, gil=True)
    assert Compatibility.check_python_version("lxml")
    assert Compatibility.check_python_version("lxml", (3, 12, 0))
    lxml = Compatibility.check_python_version("lxml", (3, 13, 0))
    assert lxml.status == "warning"
    assert lxml.source is not None
    installed("scipy", "1.15.0")
    assert Compatibility.check_python_version("scipy", (3, 13))
    assert Compatibility.check_python_version("requests", (3, 13))
    assert Compatibility.check_python_version("never-heard-of", (3, 13)).status == "unknown"
    interpreter(free_threaded=True, gil=True)
    assert Compatibility.check_python_version("lxml").status == "warning"


def test_report(interpreter: Interpreter) -> None:
    interpreter(free_threaded=False, gil=True)
    report = Compatibility.generate_report(["numpy", "pandas", "lxml"])
    assert {place: [check.library for check in checks] for place, checks in report.items()} == {
        "compatible": ["numpy"],
        "warnings": ["pandas"],
        "unknown": ["lxml"],
    }
    with pytest.raises(TypeError, match="several names"):
        Compatibility.generate_report("numpy")


def test_recommended_profile(interpreter: Interpreter, installed: Callable[..., None]) -> None:
    installed("scipy", "1.15.0")
    interpreter(free_threaded=False, gil=True)
    assert recommend_profile() == "process"
    assert recommend_profile(cpu_bound=False) == "thread"
    assert recommend_profile(["numpy", "scipy"]) == "thread"  # they release the GIL
    assert recommend_profile(["h5py"]) == "process"
    assert recommend_profile(["h5py"], cpu_bound=False) == "thread"
    interpreter(free_threaded=True, gil=True)
    assert recommend_profile() == "process"
    interpreter(free_threaded=True, gil=False)
    assert recommend_profile() == "thread"
    assert recommend_profile(["scipy"]) == "thread"
    for unsafe in ("pandas", "requests", "lxml", "never-heard-of"):
        assert recommend_profile([unsafe], cpu_bound=False) == "process"


def test_gil_after_an_import_is_found_out_by_importing() -> None:
    if not PythonVersion.supports_free_threading():
        assert Compatibility.keeps_gil_off("json") is None
        return
    assert Compatibility.keeps_gil_off("json") is True
    with pytest.raises(ImportError, match="never_heard_of cannot be imported"):
        Compatibility.keeps_gil_off("never_heard_of")
