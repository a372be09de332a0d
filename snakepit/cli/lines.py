"""The parent's side of the input: files and stdin, as batches of lines that are at hand."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from snakepit.cli.target import UsageError

# What a pipe holds: one read takes all that is waiting there, and no more than this is read ahead.
READ_BYTES = 64 << 10

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of one source, without their newlines.

    first: the number of its first item in the whole input, from 1. line: that item's line number.
    """

    first: int
    lines: list[bytes]
    source: str
    line: int

    @property
    def size(self) -> int:
        """The bytes of all its lines."""
        return sum(map(len, self.lines))

    def place(self, position: int) -> str:
        """Where its item at ``position`` comes from, as errors name it."""
        return f"item {self.first + position} ({self.source}:{self.line + position})"

    def split(self, begin: int, limit: int) -> "Iterator[Batch]":
        """The batches of at most ``limit`` items that hold the items from position ``begin``."""
        for at in range(begin, len(self.lines), limit):
            yield Batch(self.first + at, self.lines[at : at + limit], self.source, self.line + at)


def check_readable(paths: list[str]) -> None:
    """Raise UsageError for the first path that is no file to read."""
    for path in paths:
        if path == STDIN:
            continue
        # Not opened: to open and close a named pipe would end the program that writes to it.
        if os.path.isdir(path):
            raise UsageError(f"cannot read '{path}': it is a directory")
        if not os.path.exists(path):
            raise UsageError(f"cannot read '{path}': there is no such file")
        if not os.access(path, os.R_OK):
            raise UsageError(f"cannot read '{path}': permission denied")


def read_batches(paths: list[str], stdin: int, limit: Callable[[], int]) -> Iterator[Batch]:
    """Read the sources in turn; ``limit()`` says how many items the next batch may have.

    A batch has the lines that one read found; it never waits for further input to become full.
    Raises OSError, with the path as its filename, when a source cannot be opened or read.
    """
    first = 1
    for path in paths:
        line = 1
        with _opened(path, stdin) as descriptor:
            for lines in _read_lines(descriptor):
                begin = 0
                while begin < len(lines):
                    some = lines[begin : begin + limit()]
                    yield Batch(first, some, path, line)
                    begin += len(some)
                    first += len(some)
                    line += len(some)


def _read_lines(descriptor: int) -> Iterator[list[bytes]]:
    # os.read and not a file object: it returns with what there is, and a thread that is blocked in
    # it when the interpreter ends holds no lock that anybody waits for.
    pieces: list[bytes] = []
    while block := os.read(descriptor, READ_BYTES):
        lines = block.split(b"\n")
        rest = lines.pop()
        if lines:
            pieces.append(lines[0])
            lines[0] = b"".join(pieces)
            pieces = []
            yield lines
        pieces.append(rest)
    if last := b"".join(pieces):
        yield [last]


@contextmanager
def _opened(path: str, stdin: int) -> Iterator[int]:
    descriptor = stdin
    try:
        if path != STDIN:
            descriptor = os.open(path, os.O_RDONLY)
        yield descriptor
    except OSError as error:
        error.filename = path
        raise
    finally:
        if descriptor != stdin:
            os.close(descriptor)
