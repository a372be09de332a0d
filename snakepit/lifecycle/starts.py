"""When a pool is told that its workers cannot be started."""

from __future__ import annotations

# Starts of workers that may fail: in a row, before a pool without a ready worker is broken; and
# while somebody waits for workers to be ready.
MOST_FAILED_STARTS = 3
# Why the pool ends a worker that is not ready in time, in its autopsy.
LATE = "start_timeout"
