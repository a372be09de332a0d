"""The environment variables SNAKEPIT_*: which of them are settings."""

from __future__ import annotations

import os

__all__ = ["CONFIG_VARIABLE", "PREFIX", "PROCESS_SETTINGS", "setting_variables"]

PREFIX = "SNAKEPIT_"
CONFIG_VARIABLE = "SNAKEPIT_CONFIG"

# Settings of the whole process; the parts that they are for read the variables themselves.
PROCESS_SETTINGS = frozenset(
    {"arena_bytes", "data_dir", "instance_name", "instance_token", "shared_memory"}
)

# Set by the package itself for the processes that it starts, or read when it is built and tested.
_INTERNAL = frozenset(
    {CONFIG_VARIABLE, "SNAKEPIT_DEBUG", "SNAKEPIT_POINTS", "SNAKEPIT_RUN_ID", "SNAKEPIT_WORKER"}
)
_INTERNAL_PREFIXES = ("SNAKEPIT_BENCH_", "SNAKEPIT_FAULTS_", "SNAKEPIT_TEST_")


def setting_variables() -> dict[str, str]:
    """Return the variables that are settings and not empty, sorted by name."""
    return {
        name: text
        for name, text in sorted(os.environ.items())
        if name.startswith(PREFIX)
        and text
        and name not in _INTERNAL
        and not name.startswith(_INTERNAL_PREFIXES)
    }
