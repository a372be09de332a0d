"""Run ids: which owner's run a process belongs to, in 7 characters that its command shows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

__all__ = ["ENVIRONMENT", "FLAG", "current", "extract_from_command", "generate", "valid"]

FLAG = "--run-id"
ENVIRONMENT = "SNAKEPIT_RUN_ID"  # what everything that a worker starts inherits
LENGTH = 7
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID = re.compile(rf"[0-9a-z]{{{LENGTH}}}")
_IN_COMMAND = re.compile(rf"(?:^|[\s\0]){FLAG}[=\s\0]([0-9a-z]{{{LENGTH}}})(?:$|[\s\0])")

_made: dict[str, str] = {}


def generate() -> str:
    """Return a new run id: 7 random digits of base 36."""
    # Not by `secrets`: the OpenSSL that it loads takes as long as half a pool.
    number = int.from_bytes(os.urandom(16), "big")
    digits = []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def valid(text: object) -> bool:
    """Whether `text` is a run id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def extract_from_command(command: str | Sequence[str]) -> str | None:
    """Return the run id that a command line carries, or None.

    `command`: the arguments, or one string of them, separated by spaces or null bytes.
    """
    text = command if isinstance(command, str) else "\0".join(command)
    found = _IN_COMMAND.search(text)
    return found.group(1) if found else None


def current() -> str:
    """Return the run id of this process: made at first use; a forked child makes its own."""
    # Of two threads that come here first, one stores and both return what it stored.
    return _made.get("id") or _made.setdefault("id", generate())


def _forget() -> None:
    _made.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
