"""The ``snakepit`` command. Workers import this package too, so it loads typer only in `main`."""

import importlib.util
import os
import sys

__all__ = ["BROKEN_PIPE", "INTERRUPTED", "main", "report_interrupt"]

INTERRUPTED = 130  # as a shell reports a program that SIGINT ended
BROKEN_PIPE = 141  # as a shell reports a filter that SIGPIPE ended


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code.

    0: all went well; 1: an item failed; 2: usage error; 130: interrupted; 141: nobody reads the
    output any more (what a shell reports of a filter that SIGPIPE ended). Output that cannot be
    written is one line on stderr, and 1.
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
        problem = _flush()
    except KeyboardInterrupt:
        code, problem = INTERRUPTED, None
    except OSError as error:
        code, problem = 1, error
    if problem is not None:
        code = _give_up_output(problem)
    if code == INTERRUPTED:
        report_interrupt()
    return code


def _flush() -> OSError | None:
    """Write what is buffered; return what went wrong."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return OSError(error.errno, f"cannot write the output: {error.strerror}")
    return None


def _give_up_output(problem: OSError) -> int:
    """Say why, unless nobody reads it any more, and return the exit code."""
    # What is still in the buffer has nowhere to go; Python must not try again at its exit.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    if isinstance(problem, BrokenPipeError):
        return BROKEN_PIPE
    print(f"snakepit: {problem.strerror or problem}", file=sys.stderr)
    return 1


def report_interrupt() -> None:
    """Say in one line why the command ended."""
    print("snakepit: interrupted", file=sys.stderr)
