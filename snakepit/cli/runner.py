"""One ``snakepit map`` from its arguments to its exit code: streams, pool, progress, early ends."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from enum import StrEnum
from typing import BinaryIO

from snakepit import Executor
from snakepit.cli import BROKEN_PIPE, INTERRUPTED, report_interrupt
from snakepit.cli.items import describe
from snakepit.cli.lines import STDIN, check_readable
from snakepit.cli.mapping import Mapping, Options
from snakepit.cli.target import UsageError, find_target
from snakepit.errors import PoolShutdownError
from snakepit.lifecycle.template import can_use_template


class Profile(StrEnum):
    """The kinds of worker that the command offers."""

    PROCESS = "process"
    LOCAL = "local"


def map_lines(
    function: str,
    paths: list[str],
    options: Options,
    *,
    workers: int | None = None,
    profile: Profile = Profile.PROCESS,
    progress: bool = False,
) -> int:
    """Map the lines of ``paths`` to stdout and return the exit code.

    Raises UsageError, before anything is run, when the arguments cannot be met.
    """
    if profile is Profile.LOCAL and options.timeout is not None:
        raise UsageError("--timeout needs --profile process: a thread cannot be stopped")
    check_readable(paths)
    reporter = _bar if progress else _plain
    if progress:
        _check_progress()
    stdin, output = _claim_streams(STDIN in paths)
    target = find_target(function)
    # The template imports the module once, and every worker is forked with it in memory.
    preload = (target.module,) if profile is Profile.PROCESS and can_use_template() else ()
    try:
        executor = Executor(workers, profile=profile.value, preload=preload)
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        executor.wait_ready()
        with reporter() as (on_items, on_error):
            mapping = Mapping(
                executor, target, options, output, on_items=on_items, on_error=on_error
            )
            mapping.run(paths, stdin)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait for this end
        return _abandon(executor, profile, output, INTERRUPTED, None)
    except BrokenPipeError:
        return _abandon(executor, profile, output, BROKEN_PIPE, None)
    except OSError as error:
        message = f"cannot write the results: {error.strerror}"
        return _abandon(executor, profile, output, 1, message)
    except (BrokenProcessPool, PoolShutdownError) as error:
        return _abandon(executor, profile, output, 1, describe(error))
    if mapping.failures and options.stop_on_error:
        return _abandon(executor, profile, output, 1, None)
    executor.shutdown()
    if (unread := mapping.input_error) is not None:
        print(f"snakepit map: cannot read '{unread.filename}': {unread.strerror}", file=sys.stderr)
        return 2
    return 1 if mapping.failures else 0


def _abandon(
    executor: Executor, profile: Profile, output: BinaryIO, code: int, message: str | None
) -> int:
    """End the pool with calls under way, say why, and return the exit code."""
    if message is not None:
        print(f"snakepit map: {message}", file=sys.stderr)
    try:
        output.flush()
    except OSError:
        # What is still in the buffer has nowhere to go; Python must not try again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    if profile is Profile.LOCAL:
        # A thread that runs cannot be ended, and the interpreter's exit would wait for it.
        if code == INTERRUPTED:
            report_interrupt()
        sys.stderr.flush()
        os._exit(code)
    executor.terminate_workers()
    return code


def _claim_streams(reads_stdin: bool) -> tuple[int, BinaryIO]:
    """Take stdin and stdout for the items and results alone.

    In this process and in its workers, whatever reads descriptor 0 then finds nothing there, and
    whatever writes to descriptor 1, a print as well as C code, goes to stderr. No worker holds the
    pipe of the results open. Returns -1 for a stdin that is not among the sources.
    """
    try:
        output = os.fdopen(os.dup(1), "wb")
    except OSError as error:
        raise UsageError(f"cannot write the results: {error.strerror}") from error
    try:
        stdin = os.dup(0) if reads_stdin else -1
    except OSError as error:
        raise UsageError(f"cannot read '{STDIN}': {error.strerror}") from error
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # started with stderr closed
        os.dup2(null, 1)
    os.close(null)
    return stdin, output


Reporter = tuple[Callable[[int], object], Callable[[str], object]]


@contextmanager
def _plain() -> Iterator[Reporter]:
    yield (lambda count: None), (lambda text: print(text, file=sys.stderr, flush=True))


@contextmanager
def _bar() -> Iterator[Reporter]:
    from tqdm import tqdm

    with tqdm(unit=" items", file=sys.stderr) as bar:
        yield bar.update, (lambda text: tqdm.write(text, file=sys.stderr))


def _check_progress() -> None:
    try:
        import tqdm  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError("--progress needs tqdm: pip install 'snakepit-pool[progress]'") from error
