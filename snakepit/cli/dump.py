"""``snakepit dump``: where every worker of the pools that run here is."""

import json
import sys

from snakepit.diagnostics import dump_process
from snakepit.errors import PoolNotFoundError


def print_dump(which: str | None, *, as_json: bool, stacks: bool, timeout: float) -> int:
    """Print the report of each pool that ``which`` means and return the exit code."""
    try:
        reports = dump_process(which, stacks=stacks, timeout=timeout)
    except PoolNotFoundError as error:
        print(f"snakepit dump: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(map(str, reports)))
    return 0
