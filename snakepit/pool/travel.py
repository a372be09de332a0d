"""What cannot travel: pools, which stay where they are, and what an item of `map` may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from snakepit.errors import EncodeError
from snakepit.options import shortened

__all__ = ["refuse_to_travel", "unpicklable_item"]


def refuse_to_travel(what: str, pool: str) -> NoReturn:
    """Raise the error of pickling a pool, or what stands for one: most often a task names it."""
    raise EncodeError(
        f"{what} cannot be pickled (pool {pool!r}): its workers are those of the process that made "
        "it; a task that submits to its own pool asks snakepit.current_pool() for it, and one that "
        "needs another makes that itself",
        details={"pool": pool},
    )


def unpicklable_item(error: EncodeError, items: Sequence[Any], what: str) -> EncodeError:
    """Return the error of a chunk of `map` that names which of its items is at fault.

    `what`: "argument" or "result". `error` itself where each of them can be pickled alone.
    """
    from snakepit.pickling import careful_dumps

    for number, item in enumerate(items, 1):
        try:
            careful_dumps(item)
        except Exception as cause:
            place = "" if len(items) == 1 else f" ({number} of {len(items)} that travel together)"
            blamed = EncodeError(
                f"cannot pickle the {what} {shortened(item)} of map{place}: "
                f"{type(cause).__name__}: {cause}",
                details={"item": number - 1},
            )
            blamed.__cause__ = cause
            return blamed
    return error
