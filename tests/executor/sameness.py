"""A comparison that knows more than `==`: types, signs of zero, NaNs, order, and identity."""

from __future__ import annotations

import math
import struct
from types import FunctionType, ModuleType
from typing import Any

import numpy as np


def difference(left: Any, right: Any, where: str = "value") -> str | None:
    """Return where `left` and `right` differ in any way that a program could see, or None.

    The order of dictionaries counts, and so does which parts of one value are the same object.
    """
    return _Comparison().compare(left, right, where)


class _Comparison:
    """One walk through two values, which remembers which parts stand for which."""

    def __init__(self) -> None:
        self.there: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def compare(self, left: Any, right: Any, where: str) -> str | None:
        if type(left) is not type(right):
            return f"{where}: {type(left)!r} became {type(right)!r}"
        # Only mutable values have an identity that a copy must reproduce.
        if isinstance(left, (list, dict, set, bytearray, np.ndarray)):
            mine, theirs = id(left), id(right)
            if mine in self.there or theirs in self.back:
                if self.there.get(mine) == theirs and self.back.get(theirs) == mine:
                    return None
                return f"{where}: shared parts became separate ones, or the reverse"
            self.there[mine], self.back[theirs] = theirs, mine
        return self.contents(left, right, where) or self.state(left, right, where)

    def contents(self, left: Any, right: Any, where: str) -> str | None:
        changed = f"{where}: {left!r} became {right!r}"
        if isinstance(left, np.ndarray):
            return self.arrays(left, right, where)
        if isinstance(left, np.generic):
            same = left.dtype == right.dtype and left.tobytes() == right.tobytes()
            return None if same else changed
        if isinstance(left, float):
            same = struct.pack("d", left) == struct.pack("d", right)
            return None if same or (math.isnan(left) and math.isnan(right)) else changed
        if isinstance(left, complex):
            return self.compare(left.real, right.real, f"{where}.real") or self.compare(
                left.imag, right.imag, f"{where}.imag"
            )
        if isinstance(left, (list, tuple)):
            return self.items(left, right, where)
        if isinstance(left, dict):
            return self.items(tuple(left), tuple(right), f"{where}.keys") or self.items(
                tuple(left.values()), tuple(right.values()), f"{where}.values"
            )
        return None if left == right else changed

    def items(self, left: Any, right: Any, where: str) -> str | None:
        if len(left) != len(right):
            return f"{where}: length {len(left)} became {len(right)}"
        for index, (mine, theirs) in enumerate(zip(left, right, strict=True)):
            if found := self.compare(mine, theirs, f"{where}[{index}]"):
                return found
        return None

    def state(self, left: Any, right: Any, where: str) -> str | None:
        if isinstance(left, (type, FunctionType, ModuleType)):
            return None
        mine, theirs = getattr(left, "__dict__", None), getattr(right, "__dict__", None)
        if not isinstance(mine, dict) or not isinstance(theirs, dict):
            return None
        return self.items(tuple(mine.items()), tuple(theirs.items()), f"{where}.__dict__")

    def arrays(self, left: Any, right: Any, where: str) -> str | None:
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return f"{where}: {left.dtype}{left.shape} became {right.dtype}{right.shape}"
        if isinstance(left, np.ma.MaskedArray):
            return self.compare(left.filled(), right.filled(), where)
        if left.dtype.hasobject:
            return self.items(tuple(left.flat), tuple(right.flat), where)
        same = left.tobytes() == right.tobytes()
        return None if same else f"{where}: the elements of an array changed"
