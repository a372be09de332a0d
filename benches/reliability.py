"""``python -m benches.reliability [NAME ...]``: what faults, replacements and endings cost.

The figures of docs/reliability.md. Each measurement prints what it saw; the exit code is 1 if one
missed its bar. Run them while nothing else runs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

from benches import (
    reliability_endings,
    reliability_faults,
    reliability_recycling,
    reliability_supervision,
)


def _owner_killed() -> int:
    with tempfile.TemporaryDirectory() as folder:
        return reliability_endings.measure_owner_killed(folder)


MEASUREMENTS: dict[str, Callable[[], int]] = {
    "replacement": reliability_faults.measure_replacement,
    "neighbours": reliability_faults.measure_neighbours,
    "capacity": reliability_faults.measure_capacity,
    "recycling": lambda: reliability_recycling.main([]),
    "supervision": reliability_supervision.main,
    "owner-killed": _owner_killed,
    "cycles": lambda: reliability_endings.measure_cycles(reliability_endings.CYCLES),
}


def main() -> int:
    """Run what the command line names, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benches.reliability", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(MEASUREMENTS)}")
    names = parser.parse_args().names or list(MEASUREMENTS)
    unknown = set(names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASUREMENTS)}")
    missed = 0
    for name in names:
        print(f"-- {name}", flush=True)
        missed += MEASUREMENTS[name]()
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
