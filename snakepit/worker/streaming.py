"""Sending what a function yields, chunk by chunk (the reader's half is `snakepit.pool.streams`).

The call of a stream is a plain call: of `send_chunks`, which calls the function. What it returns,
or raises, ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from snakepit._core.writer import ChunkWriter
from snakepit.worker.context import load_definition, running_lane

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane

__all__ = ["StreamedFunction", "chunks_of", "close_chunks", "load_stream", "send_chunks"]


class StreamedFunction:
    """What is pickled for a stream's call of the function with a number: loaded, it is that call.

    The function itself is loaded by its own number, so that a worker has it once.
    """

    def __init__(self, number: int, epoch: int) -> None:
        self._number = number
        self._epoch = epoch

    def __reduce__(self) -> tuple[Any, ...]:
        return load_stream, (self._number, self._epoch)


def load_stream(number: int, epoch: int) -> Callable[..., int]:
    """Return the call that streams the function behind a number."""
    return partial(send_chunks, load_definition(number, epoch))


def send_chunks(
    function: Callable[..., Any], place: int, /, *args: Any, **kwargs: Any
) -> int:  # fmt: skip
    """Write what `function` yields to the ring at `place`; return how many chunks that were."""
    lane = running_lane()
    writer = ChunkWriter(lane, place)
    chunks: Iterator[Any] | None = None
    try:
        chunks = chunks_of(function, args, kwargs)
        writer.send(chunks)
    finally:
        # First: to end the generator may take its time, for which nobody has to wait, nor to think
        # that the task goes on.
        writer.end()
        if chunks is not None:
            _close_unbroken(lane, chunks)
        count = writer.finish()
    return count


def _close_unbroken(lane: WorkerLane, chunks: Iterator[Any]) -> None:
    # An interrupt that was under way comes after the generator's `finally`, not in it.
    lane.hold_interrupts()
    try:
        close_chunks(chunks)
    finally:
        lane.release_interrupts()


def chunks_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Any]:
    """Call `function` and return an iterator of its chunks. Raises TypeError if it gives none."""
    result = function(*args, **kwargs)
    try:
        return iter(result)
    except TypeError:
        if hasattr(type(result), "__iter__"):
            raise
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    kind = type(result).__qualname__
    close_chunks(result)
    if hasattr(result, "__anext__"):
        raise TypeError(
            f"{name!r} is an async generator, which a stream cannot run: no event loop runs in a "
            "worker; make it a plain generator, or run its loop inside one"
        )
    raise TypeError(
        f"a stream takes a generator function, or one that returns an iterable; {name!r} returned "
        f"a value of type {kind!r}; for a single value use submit"
    )


def close_chunks(chunks: Any) -> None:
    """End a generator, so that its `finally` blocks run; nothing happens when it is over."""
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
