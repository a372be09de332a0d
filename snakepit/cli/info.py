"""``snakepit info``: what is true on this machine and in this process."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count

import snakepit
from snakepit._core.memory import memory_kind
from snakepit.diagnostics.python_version import gil_enabled
from snakepit.lifecycle.template import can_use_template
from snakepit.pool.memory import arena
from snakepit.resources import memory_limit, usable_cpus

PACKAGES = ("cloudpickle", "msgpack", "numpy", "psutil", "pydantic", "rich", "tqdm", "typer")


def print_facts() -> None:
    """Print each fact as a line: its name, and its value in a second column."""
    for name, value in facts():
        print(f"{name:<14} {value}")


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, all found out now."""
    yield "snakepit", snakepit.__version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "GIL", "on" if gil_enabled() else "off"
    yield "CPUs", f"{usable_cpus()} usable of {cpu_count()}"
    yield "memory", f"{memory_limit():,} bytes usable"
    yield "start method", "template" if can_use_template() else "spawn"
    yield "shared memory", memory_kind()
    yield "arena budget", f"{arena().usage()['bytes_budget']:,} bytes"
    for name in PACKAGES:
        yield name, _installed(name)


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
