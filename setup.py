"""The compiled core: an extension module for each snakepit/_core/*.pyx, and its directives."""

import os
import sysconfig
from glob import glob
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("SNAKEPIT_DEBUG") == "1"
JOBS = 2

# Each interpreter and mode builds in a tree of its own, so that several can share a checkout.
# build_ext is told too: an editable install would compile everything anew in a temporary tree.
BUILD = Path("build") / f"{sysconfig.get_config_var('SOABI')}{'-debug' if DEBUG else ''}"
BUILD_DIRS = {"build_lib": str(BUILD / "lib"), "build_temp": str(BUILD / "temp")}

DIRECTIVES = {
    "language_level": 3,
    "binding": False,
    "boundscheck": False,
    "cdivision": True,
    "embedsignature": False,
    "freethreading_compatible": True,
    "initializedcheck": False,
    "wraparound": False,
}

COMPILE_ARGS = ["-std=gnu11", "-Wall", "-Wno-sign-compare", "-Wno-unused-function"]
COMPILE_ARGS += ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O2", "-g0"]

extensions = [
    Extension(
        ".".join(Path(source).with_suffix("").parts),
        sources=[source],
        depends=["setup.py"],
        include_dirs=["snakepit/_core"],
        define_macros=[("SNAKEPIT_DEBUG", str(int(DEBUG)))],
        extra_compile_args=COMPILE_ARGS,
    )
    for source in sorted(glob("snakepit/_core/*.pyx"))
]

# Cython looks at the age of the sources only: without this, a changed directive would go unnoticed.
generated = BUILD.glob("c/**/*.c")
outdated = any(c.stat().st_mtime < Path(__file__).stat().st_mtime for c in generated)

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=str(BUILD / "c"),
        compiler_directives=DIRECTIVES,
        force=outdated,
        nthreads=JOBS,
    ),
    options={
        "build": {"build_base": str(BUILD), **BUILD_DIRS},
        "build_ext": {"parallel": JOBS, **BUILD_DIRS},
    },
)
