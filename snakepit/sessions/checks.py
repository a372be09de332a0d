"""Checks of what the store's methods are given, and of how full it is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from snakepit.sessions.kinds import shortened

__all__ = ["NEVER", "checked_backend", "checked_id", "checked_metadata", "checked_name", "marks"]

NEVER = 1 << 62


def checked_name(what: str, name: object) -> str:
    """Return a name that is a string and not empty. Raises ValueError."""
    if isinstance(name, str) and name:
        return name
    raise ValueError(f"{what}'s name must be a string that is not empty, not {shortened(name)}")


def checked_id(id: object, needed: bool = False) -> str:
    """Return a session's id; a random one for None, unless one is needed."""
    if id is None and not needed:
        return os.urandom(16).hex()
    if not isinstance(id, str):
        raise TypeError(f"a session's id must be a string, not {shortened(id)}")
    if not id:
        raise ValueError("a session's id must not be empty; leave it out to get a random one")
    return str(id)


def checked_metadata(metadata: object) -> dict[str, Any]:
    """Return a copy of a session's metadata. Raises TypeError."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"a session's metadata must be a dict, not {shortened(metadata)}")
    return dict(metadata)


def checked_backend(path: object) -> str | os.PathLike[str]:
    """Return the path of a store's file. Raises TypeError and ValueError."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"backend must be the path of a file, or None, not {shortened(path)}")
    if os.fspath(path) in ("", "memory", ":memory:", "sqlite"):
        raise ValueError(
            f"backend must be the path of a file, or None for memory, not {os.fspath(path)!r}"
        )
    return path


def marks(count: int, most: int) -> tuple[int, int, str]:
    """Return at which counts of sessions the store has to look again, and what to warn of now.

    `warn_at`: the count before the next session to warn of is made. `calm_below`: the count under
    which there may be warnings again. With that much between them, a store whose count goes up and
    down by a few does not fill the log.
    """
    near = math.ceil(0.8 * most)
    if count >= most:
        text = f"the session store is full: it holds {count} sessions, as many as it may"
        return NEVER, math.ceil(0.9 * most), text
    if count >= near:
        text = f"the session store is nearly full: it holds {count} sessions of {most}"
        return most - 1, math.ceil(0.7 * most), text
    return near - 1, -1, ""
