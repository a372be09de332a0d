"""The worker's side of ``snakepit map``: lines in, finished output lines and errors out.

Parsing, calling and formatting all happen in the worker, so that the parent moves bytes only, and
so that a bad line or a result that has no JSON form is the error of its item.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from time import perf_counter
from typing import Any, NoReturn, cast

# A call gives back the items it has not begun once it has run so long or has so much output. So a
# slow item among quick ones does not hold back the results before it, and output stays bounded.
CALL_SECONDS = 0.05
CALL_OUTPUT_BYTES = 4 << 20

# What ends each result. JSON has neither of them in its text.
NEWLINE = b"\n"
NUL = b"\0"


@dataclass(frozen=True, slots=True)
class Target:
    """What to call: an attribute path in a module, with the directory that imports start from."""

    module: str
    attribute: str
    directory: str

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the first ``count`` items of a call.

    output: the results, encoded, each with its end. errors: pairs of the item's
    position in the call and its error text. seconds: the time that the items took.
    """

    count: int
    output: bytes
    errors: list[tuple[int, str]]
    seconds: float


@cache
def resolve(target: Target) -> Callable[[Any], Any]:
    """Import the module and return the function; import errors and AttributeError pass through."""
    if target.directory not in sys.path:
        sys.path.insert(0, target.directory)
    found: Any = import_module(target.module)
    for name in target.attribute.split("."):
        found = getattr(found, name)
    return cast(Callable[[Any], Any], found)


def run_items(
    target: Target, lines: list[bytes], as_json: bool, stop_on_error: bool, end: bytes
) -> Outcome:
    """Call the target with each line, in order, until the lines or the call's limits are used up.

    At least one item is run. With ``stop_on_error`` a failed item is the last. ``end``: the byte
    after each result, which its text may not contain.
    """
    function = resolve(target)
    read, write = (_read_json, _write_json) if as_json else (_read_raw, _write_raw)
    output: list[bytes] = []
    errors: list[tuple[int, str]] = []
    size = 0
    begin = perf_counter()
    stop_at = begin + CALL_SECONDS
    for position, line in enumerate(lines):
        try:
            text = write(function(read(line)), end)
        # Any other BaseException may be the pool stopping this task, and must get through.
        except (Exception, SystemExit) as error:
            errors.append((position, describe(error)))
            if stop_on_error:
                break
        else:
            output.append(text)
            size += len(text)
        if size >= CALL_OUTPUT_BYTES or perf_counter() >= stop_at:
            break
    return Outcome(position + 1, b"".join(output), errors, perf_counter() - begin)


def describe(error: BaseException) -> str:
    """``Type: text`` of an exception; further lines of its text are indented below the first."""
    try:
        text = str(error)
    except Exception:
        text = "<its text cannot be had>"
    name = type(error).__qualname__
    return f"{name}: {text}".replace("\n", "\n    ") if text else name


def _read_raw(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _write_raw(value: object, end: bytes) -> bytes:
    text = b"" if value is None else str(value).encode("utf-8", "surrogateescape")
    if end in text:
        # Written all the same, nobody could tell where the next result begins.
        raise ValueError(
            "the result has a line break, and each is written as one line: use --json or --print0"
            if end == NEWLINE
            else "the result has a NUL, which is what --print0 ends it with: use --json"
        )
    return text + end


def _read_json(line: bytes) -> Any:
    return json.loads(line.decode("utf-8", "surrogateescape"), parse_constant=_refuse_constant)


def _write_json(value: object, end: bytes) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + end
    except UnicodeEncodeError:  # lone surrogates: only escaped do they have a place in UTF-8 text
        return json.dumps(value, allow_nan=False).encode() + end


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
