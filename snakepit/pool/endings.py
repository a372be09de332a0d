"""The interpreter's exit: the end of every pool that still runs."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401 - registers its hook
import sys

from snakepit.lifecycle.registry import registry
from snakepit.pool import process_life as processes

PATIENCE = 1.0  # seconds that the registry's writer has


def end_all() -> None:
    """Close all pools, wait until they are gone, and let what became of them be written down."""
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    processes.close_all(interrupted=isinstance(last, KeyboardInterrupt))
    local = sys.modules.get("snakepit.pool.local")
    if local is not None:
        local.close_all()
    registry.flush(PATIENCE)


# `snakepit.executor` has it called before threads are joined. This is once more after that, for
# pools that such a thread started, but still before multiprocessing's own hook, which would wait
# for the workers for ever.
atexit.register(end_all)
