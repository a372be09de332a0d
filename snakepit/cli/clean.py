"""``snakepit clean``: end what owners that died left behind."""

import sqlite3
import sys

from snakepit.errors import DataDirError
from snakepit.lifecycle.database import remedy_for
from snakepit.lifecycle.orphans import Leftover, clean


def clean_up(*, dry_run: bool, instance: str | None) -> int:
    """Print what is ended, a line each; 0, or 1 if something would not end, 2 if it cannot look."""
    try:
        report = clean(dry_run=dry_run, instance=instance)
    except (DataDirError, sqlite3.Error, OSError) as error:
        print(f"snakepit clean: {error}{remedy_for(error)}", file=sys.stderr)
        return 2
    left = set() if dry_run else set(report.left)
    for one in report.found:
        if one not in left:
            print(f"{'would end' if dry_run else 'ended'} {_describe(one)}")
    for one in report.left:
        if one in left:
            print(f"snakepit clean: cannot end {_describe(one)}", file=sys.stderr)
    if not report.found:
        print("nothing was left behind")
    return 1 if left else 0


def _describe(one: Leftover) -> str:
    return f"process {one.pid} of run {one.run_id}: {one.command}"
