"""Which libraries may be used by threads, and which profile follows from it, here and now.

What libraries say of themselves stands in `libraries`; this module adds what is true of the
interpreter that runs and of the versions that are installed in it.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any, Literal

from snakepit.diagnostics.libraries import LIBRARIES, TRACKER, Library, Source
from snakepit.diagnostics.python_version import Profile, PythonVersion
from snakepit.options import did_you_mean

__all__ = ["Compatibility", "CompatibilityCheck", "recommend_profile"]

PROFILES = ("process", "thread", "local")
PATIENCE = 120.0  # seconds that importing a library may take
EXTENSIONS = (".so", ".pyd")

_MAY_TURN_ON = "importing it may turn the GIL on (Compatibility.keeps_gil_off finds out)"
_NOT_A_NAME = re.compile(r"[-_.]+")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_FREE_THREADED_TAG = re.compile(r"cp3\d+t\b")
_QUESTION = "import importlib, sys; importlib.import_module(sys.argv[1]); "
_QUESTION += "print('gil', int(getattr(sys, '_is_gil_enabled', lambda: True)()))"


@dataclass(frozen=True)
class CompatibilityCheck:
    """What is known about one library under one profile.

    `status`: "ok", "warning" or "unknown"; `message` says why. `version`: the one that is
    installed, None if none is; of modules of the standard library, Python's. `source`: where the
    statement stands, None where there is none. True if the status is "ok".
    """

    library: str
    status: Literal["ok", "warning", "unknown"]
    message: str
    version: str | None = None
    source: str | None = None

    def __bool__(self) -> bool:
        return self.status == "ok"


class Compatibility:
    """What is known about libraries and threads.

    Libraries go by the name that they are installed by ("scikit-learn"), or imported by
    ("sklearn"); modules of the standard library are libraries, too. Nothing is imported here.
    """

    @staticmethod
    def check(library: str, profile: str = "thread") -> CompatibilityCheck:
        """Return whether a library may be used under a profile, by what its authors say.

        Under "process" every worker has one thread and its own copy of everything. Under "thread"
        and "local" a library that is safe only under a condition is a warning that names it, and
        so is one that would turn the GIL on again where it is off. Raises ValueError for an unknown
        profile.
        """
        if profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
        known, installed = _known(library), _installed(library)
        version = _version(library, installed)
        if profile == "process":
            message = "each worker has one thread and its own copy"
            return CompatibilityCheck(library, "ok", message, version)
        if known is None:
            return CompatibilityCheck(library, "unknown", _hearsay(library, installed), version)
        build = Compatibility.check_python_version(library)
        source = _cited(known.source)
        if known.threads in ("not_thread_safe", "conditional"):
            message = known.note
            if build.status == "warning":
                message += f"; {build.message}"
            return CompatibilityCheck(library, "warning", message, version, source)
        if build.status == "warning":
            return build
        status: Literal["ok", "unknown"] = "ok" if known.threads == "thread_safe" else "unknown"
        return CompatibilityCheck(library, status, known.note, version, source)

    @staticmethod
    def check_python_version(
        library: str, python_version: tuple[int, ...] | None = None
    ) -> CompatibilityCheck:
        """Return whether a library supports the free-threaded build of Python.

        `python_version`: None asks about this interpreter, for which the answer is "ok" while it
        runs with a GIL that is always there; a version from 3.13 on asks about the free-threaded
        build of it. The version that is installed is compared with the first that has support, if
        one is installed.
        """
        known, installed = _known(library), _installed(library)
        version = _version(library, installed)
        if python_version is None:
            concerned = PythonVersion.supports_free_threading()
        else:
            concerned = PythonVersion.supports_free_threading(python_version)
        if not concerned:
            message = "this Python always has the GIL"
            return CompatibilityCheck(library, "ok", message, version)
        if _is_standard(library):
            message = "is part of Python, and supports the builds that it has"
            return CompatibilityCheck(library, "ok", message, version)
        if known is None:
            return CompatibilityCheck(library, "unknown", _hearsay(library, installed), version)
        if known.pure:
            message = "has no extension modules"
            return CompatibilityCheck(library, "ok", message, version)
        return _free_threaded(library, known, version)

    @staticmethod
    def get_library_info(library: str) -> dict[str, Any]:
        """Return all that is known about a library as plain values.

        Keys: name, threads, note, source, read, module, free_threaded_since, releases_gil,
        installed (its version or None), has_extensions, free_threaded_wheel (None if it is not
        installed, or comes with Python). Raises LookupError for a library that is not listed,
        naming the nearest.
        """
        known = _known(library)
        if known is None:
            hint = did_you_mean(library, _names())
            raise LookupError(f"nothing is known about {library!r}{hint}")
        installed = _installed(library)
        return {
            "name": known.name,
            "threads": known.threads,
            "note": known.note,
            "source": known.source.url,
            "read": known.source.read,
            "module": known.import_name,
            "free_threaded_since": known.free_threaded_since,
            "releases_gil": known.releases_gil,
            "installed": _version(library, installed),
            "has_extensions": _has_extensions(installed) if installed is not None else None,
            "free_threaded_wheel": _is_free_threaded(installed) if installed is not None else None,
        }

    @staticmethod
    def list_all() -> dict[str, list[str]]:
        """Return the names of all libraries that are listed, by what they say about threads."""
        groups: dict[str, list[str]] = {
            "thread_safe": [],
            "conditional": [],
            "not_thread_safe": [],
            "unknown": [],
        }
        for library in LIBRARIES.values():
            groups[library.threads].append(library.name)
        return groups

    @staticmethod
    def generate_report(
        libraries: Iterable[str], profile: str = "thread"
    ) -> dict[str, list[CompatibilityCheck]]:
        """Check several libraries: their checks under "compatible", "warnings" and "unknown"."""
        report: dict[str, list[CompatibilityCheck]] = {
            "compatible": [],
            "warnings": [],
            "unknown": [],
        }
        places = {"ok": "compatible", "warning": "warnings", "unknown": "unknown"}
        for library in _several(libraries):
            found = Compatibility.check(library, profile)
            report[places[found.status]].append(found)
        return report

    @staticmethod
    def keeps_gil_off(library: str) -> bool | None:
        """Whether the GIL stays off when the library is imported, found out by doing so.

        It is imported in a process of its own. None: this build of Python always has the GIL, or
        the GIL was asked for. Raises ImportError if it cannot be imported, or not in two minutes.
        """
        if not PythonVersion.supports_free_threading():
            return None
        known = _known(library)
        module = known.import_name if known is not None else library
        if _gil_after("sys"):
            return None
        return not _gil_after(module)


def recommend_profile(libraries: Iterable[str] = (), cpu_bound: bool = True) -> Profile:
    """Return the profile for an adapter, "thread" or "process", by what is true here and now.

    `libraries`: what the adapter uses. `cpu_bound`: its calls compute, rather than wait for others.

    Threads are recommended only where all the libraries say without a condition that they are
    thread-safe, and where threads get something done at the same time: the GIL is off, or the calls
    mostly wait, or they compute in libraries that release the GIL. `Compatibility.generate_report`
    tells what stands against it.

    "local" is never recommended: libraries that threads may use in a worker may be used by threads
    here, but whether a crash or a leak of theirs may be this program's, and whether they may have
    the GIL that its other threads need, is not to be known from libraries.
    """
    names = _several(libraries)
    if not all(Compatibility.check(name, "thread") for name in names):
        return "process"
    if not cpu_bound or PythonVersion.recommend_profile() == "thread":
        return "thread"
    found = [_known(name) for name in names]
    computes_outside = all(library is not None and library.releases_gil for library in found)
    return "thread" if found and computes_outside else "process"


def _several(libraries: Iterable[str]) -> list[str]:
    if isinstance(libraries, str):
        raise TypeError(f"libraries must be several names, not the text {libraries!r}")
    return list(libraries)


def _known(library: str) -> Library | None:
    """Find a library by the name of its distribution or of its module."""
    name = _NOT_A_NAME.sub("-", library).lower()
    found = LIBRARIES.get(name)
    if found is None:
        for candidate in LIBRARIES.values():
            if candidate.import_name == library:
                return candidate
    return found


def _names() -> list[str]:
    return [*LIBRARIES, *(library.import_name for library in LIBRARIES.values())]


def _is_standard(library: str) -> bool:
    known = _known(library)
    if known is not None:
        return known.standard
    return library.partition(".")[0] in sys.stdlib_module_names


def _version(library: str, installed: Distribution | None) -> str | None:
    if _is_standard(library):
        return platform.python_version()
    return installed.version if installed is not None else None


def _installed(library: str) -> Distribution | None:
    if _is_standard(library):
        return None  # what is installed under its name is something else
    known = _known(library)
    try:
        return distribution(known.name if known is not None else library)
    except (PackageNotFoundError, ValueError):
        return None


def _has_extensions(installed: Distribution) -> bool:
    return any(str(file).endswith(EXTENSIONS) for file in installed.files or ())


def _is_free_threaded(installed: Distribution) -> bool:
    """Whether the wheel that was installed was made for the free-threaded build."""
    return _FREE_THREADED_TAG.search(installed.read_text("WHEEL") or "") is not None


def _cited(source: Source) -> str:
    return f"{source.url} (read {source.read})"


def _hearsay(library: str, installed: Distribution | None) -> str:
    """What can be said about a library that is not listed."""
    if _is_standard(library):
        return (
            f"{library} is a module of the standard library; what it allows threads is not listed"
        )
    if installed is None:
        return f"{library} is not listed, and not installed here"
    if not _has_extensions(installed):
        return f"{library} is not listed; it has no extension modules, which says little of threads"
    if _is_free_threaded(installed):
        return f"{library} is not listed; its wheel was made for the free-threaded build"
    return f"{library} is not listed; it has extension modules, which may turn the GIL on"


def _free_threaded(library: str, known: Library, version: str | None) -> CompatibilityCheck:
    since = known.free_threaded_since
    status: Literal["ok", "warning"] = "warning"
    if since is None:
        message = f"no version that supports the free-threaded build was known: {_MAY_TURN_ON}"
    elif version is not None and _numbers(version) < _numbers(since):
        message = f"supports the free-threaded build since {since}, but {version} is installed: "
        message += _MAY_TURN_ON
    else:
        status = "ok"
        message = f"supports the free-threaded build since {since}"
    return CompatibilityCheck(library, status, message, version, _cited(TRACKER))


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers; what follows, such as rc1, is left out."""
    match = _NUMBERS.match(version)
    return tuple(map(int, match[0].split("."))) if match is not None else ()


def _gil_after(module: str) -> bool:
    command = [sys.executable, "-W", "ignore", "-c", _QUESTION, module]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ImportError(f"{module} was not imported within {PATIENCE:g} s") from error
    answer = ended.stdout.strip().rpartition("gil ")[2]
    if ended.returncode != 0 or answer not in ("0", "1"):
        reason = (ended.stderr.strip().splitlines() or ["the interpreter died"])[-1]
        raise ImportError(f"{module} cannot be imported: {reason}")
    return answer == "1"
