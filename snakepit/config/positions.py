"""On which line of a TOML document each key stands.

`tomllib` gives values without their places. This reader follows the same grammar, but only as far
as it takes to know which key begins where, and only over text that tomllib has accepted: so it
needs no errors of its own, and a place that it should get wrong costs a line number in a message.
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

__all__ = ["KeyPath", "key_lines"]

KeyPath: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of every key and list item of a valid document."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[KeyPath, int] = {}
        self._tables: dict[KeyPath, int] = {}  # how many [[tables]] of this path there were

    def read(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while True:
            self._skip(_GAP)
            if self._at >= len(self._text):
                return self._lines
            if self._take("[["):
                table = self._resolved(self._key(), is_list=True)
                self._skip(_BLANK)
                self._take("]]")
            elif self._take("["):
                table = self._resolved(self._key(), is_list=False)
                self._skip(_BLANK)
                self._take("]")
            else:
                self._pair(table)

    def _resolved(self, names: KeyPath, *, is_list: bool) -> KeyPath:
        """The path of a table's header; names of lists mean the last of their tables so far."""
        path: KeyPath = ()
        for place, name in enumerate(names):
            path = (*path, name)
            if is_list and place == len(names) - 1:
                self._note(path)
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        self._note(path)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table
        start = self._at
        for name in self._key():
            path = (*path, name)
            self._note(path, start)
        self._skip(_BLANK)
        self._take("=")
        self._value(path)

    def _key(self) -> KeyPath:
        names: list[str] = []
        while True:
            self._skip(_BLANK)
            if quoted := _QUOTED.match(self._text, self._at):
                self._at = quoted.end()
                names.append(tomllib.loads(f"name = {quoted[0]}")["name"])
            else:
                names.append(self._skip(_BARE_KEY))
            self._skip(_BLANK)
            if not self._take("."):
                return tuple(names)

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        if string := _STRING.match(self._text, self._at):
            self._at = string.end()
        elif self._take("["):
            count = 0
            while self._more("]"):
                self._note((*path, count))
                self._value((*path, count))
                count += 1
        elif self._take("{"):
            while self._more("}"):
                self._pair(path)
        elif not self._skip(_SCALAR):
            # Unreachable for what tomllib accepts; but a reader that stands still never ends.
            self._at += 1

    def _more(self, end: str) -> bool:
        """Go to the next item of a list or inline table; False at its end."""
        self._skip(_GAP)
        self._take(",")
        self._skip(_GAP)
        return self._at < len(self._text) and not self._take(end)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _take(self, token: str) -> bool:
        if not self._text.startswith(token, self._at):
            return False
        self._at += len(token)
        return True

    def _note(self, path: KeyPath, at: int | None = None) -> None:
        end = self._at if at is None else at
        self._lines.setdefault(path, self._text.count("\n", 0, end) + 1)
