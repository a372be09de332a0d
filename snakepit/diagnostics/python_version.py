"""What the interpreter is and does: its version, its build, and whether the GIL is on now."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["PythonInfo", "PythonVersion", "gil_enabled"]

Version = tuple[int, int, int]
Profile = Literal["process", "thread"]

OLDEST: Version = (3, 11, 0)
FIRST_FREE_THREADED: Version = (3, 13, 0)
PATIENCE = 30.0  # seconds that another interpreter has to say what it is

# Run by the other interpreter, which need not have this package, nor be able to load it.
_QUESTION = """
import json, platform, sys, sysconfig
print(json.dumps([
    list(sys.version_info[:3]), sys.version.split("\\n")[0], platform.python_implementation(),
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    bool(getattr(sys, "_is_gil_enabled", lambda: True)()), sys.executable,
]))
"""


def gil_enabled() -> bool:
    """Whether the GIL is on in this process, at this moment.

    Importing an extension module that does not say that it can do without turns it on, for good.
    """
    # Before Python 3.13 there was no way to run without it, and no function that asks.
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


@dataclass(frozen=True)
class PythonInfo:
    """An interpreter.

    `free_threaded_build`: it was built so that it can run without the GIL. `gil_enabled`: the GIL
    is on; of this process that is the state now, of another interpreter that at its start.
    """

    version: Version
    version_string: str
    implementation: str
    free_threaded_build: bool
    gil_enabled: bool
    executable: str

    @property
    def gil_status(self) -> str:
        """ "off"; "on"; "forced on" where the build could do without; "always on"."""
        if not self.gil_enabled:
            return "off"
        return "forced on" if self.free_threaded_build else "always on"

    @property
    def recommended_profile(self) -> Profile:
        """The profile for Python code that keeps a CPU busy."""
        return "process" if self.gil_enabled else "thread"

    def as_dict(self) -> dict[str, object]:
        """All of it as plain values."""
        return {
            **asdict(self),
            "gil_status": self.gil_status,
            "recommended_profile": self.recommended_profile,
        }


class PythonVersion:
    """Questions about an interpreter; `executable` None: the one that runs this, as it is now.

    Those about another run it once: they raise OSError if it cannot be run, and ValueError if it
    does not answer as a Python does within half a minute.
    """

    @staticmethod
    def detect(executable: str | None = None) -> Version:
        """Return the version as (major, minor, patch)."""
        return PythonVersion.get_info(executable).version

    @staticmethod
    def get_info(executable: str | None = None) -> PythonInfo:
        """Return what there is to know about it."""
        if executable is not None:
            return _ask(executable)
        return PythonInfo(
            sys.version_info[:3],
            sys.version.split("\n")[0],
            platform.python_implementation(),
            bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            gil_enabled(),
            sys.executable,
        )

    @staticmethod
    def supports_free_threading(version: tuple[int, ...] | None = None) -> bool:
        """Whether this interpreter was built so that it can run without the GIL.

        With a version: whether such a build of that version exists, which is another question.
        """
        if version is not None:
            return tuple(version) >= FIRST_FREE_THREADED[:2]
        return PythonVersion.get_info().free_threaded_build

    @staticmethod
    def recommend_profile(executable: str | None = None) -> Profile:
        """Return "thread" if threads run Python code side by side there, else "process"."""
        return PythonVersion.get_info(executable).recommended_profile

    @staticmethod
    def validate(executable: str | None = None) -> list[str]:
        """Return what about the interpreter a user should know; empty if there is nothing."""
        info = PythonVersion.get_info(executable)
        found = []
        if info.version < OLDEST:
            found.append(
                f"Python {_dotted(info.version)} is too old: Snakepit needs {_dotted(OLDEST[:2])}"
            )
        if info.implementation != "CPython":
            found.append(f"{info.implementation} cannot load the compiled core: use CPython")
        if info.gil_status == "forced on":
            found.append(
                f"this build of Python {_dotted(info.version)} can run without the GIL, but the "
                f"GIL is on: {_why_on()}; threads do not run Python code side by side"
            )
        return found


def _why_on() -> str:
    if sys._xoptions.get("gil", os.environ.get("PYTHON_GIL")) == "1":
        return "PYTHON_GIL=1 or -X gil=1 asks for it"
    return "a module that was imported has turned it on (Python warned of it, and named the module)"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _ask(executable: str) -> PythonInfo:
    # -I: what stands in the current folder must not be taken for modules of the library.
    command = [executable, "-I", "-c", _QUESTION]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL
        )
        version, string, implementation, build, enabled, path = json.loads(ended.stdout)
        return PythonInfo(
            (version[0], version[1], version[2]), string, implementation, build, enabled, path
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{executable!r} did not say within {PATIENCE:g} s what it is") from error
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"{executable!r} is not a Python interpreter") from error
