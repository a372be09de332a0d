"""The ``snakepit`` command. Workers import this package too, so it loads typer only in `main`."""

import importlib.util
import sys

__all__ = ["INTERRUPTED", "main", "report_interrupt"]

INTERRUPTED = 130  # as a shell reports a program that SIGINT ended


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code.

    0: all went well; 1: an item failed; 2: usage error; 130: interrupted; 141: nobody reads the
    output any more (what a shell reports of a filter that SIGPIPE ended).
    """
    if importlib.util.find_spec("typer") is None:
        print(
            "snakepit: the command line needs typer: pip install 'snakepit-pool[cli]'",
            file=sys.stderr,
        )
        return 2
    try:
        from snakepit.cli.app import run

        code = run()
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        report_interrupt()
    return code


def report_interrupt() -> None:
    """Say in one line why the command ended."""
    print("snakepit: interrupted", file=sys.stderr)
