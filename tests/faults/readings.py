"""Reads the streams of the fault harness as callers do, and checks what comes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import threading
import time
import traceback
from typing import Any

import numpy as np

from snakepit import errors
from tests.faults import work

PACED = 16  # chunks after each of which a slow reader rests
KINDS = {"numbers": 250, "texts": 70, "arrays": 40}  # of chunks, and how many a stream has at most


class Reading(threading.Thread):
    """Reads a stream of `count` chunks of `work.chunk_of(kind, …)` in a thread of its own.

    In a loop, by asyncio or by `poll`; at its own pace; some leave before the end.
    """

    def __init__(
        self, stream: Any, kind: str, count: int, generator: random.Random, *, late: bool = False
    ) -> None:
        super().__init__(name="reading", daemon=True)
        self.stream = stream
        self.kind = kind
        self.count = count
        self.late = late  # nothing is read before the call is over
        self.way = generator.choice(["loop", "loop", "asyncio", "poll"])
        self.pace = generator.choice([0.0, 0.0, 0.0005, 0.003])
        self.leaves_after = generator.randrange(count) if generator.random() < 0.15 else None
        self.seen = 0
        self.error: BaseException | None = None
        self.problem: str | None = None

    @property
    def left(self) -> bool:
        """Whether it closed the stream."""
        return self.seen == self.leaves_after

    def run(self) -> None:
        try:
            self._read()
        except errors.WorkerCrashedError as error:
            # Its traceback would keep the last chunk.
            self.error = error.with_traceback(None)
        except BaseException:
            self.problem = f"reading a stream failed:\n{traceback.format_exc()}"

    def _read(self) -> None:
        if self.late:
            self.stream.future.exception(work.LONG)
        if self.left:
            self.stream.close()
        elif self.way == "asyncio":
            asyncio.run(self._read_in_loop())
        elif self.way == "poll":
            self._read_by_polling()
        else:
            self.stream.for_each(self._take)

    async def _read_in_loop(self) -> None:
        async for chunk in self.stream:
            if self._take(chunk):
                await self.stream.aclose()
                return

    def _read_by_polling(self) -> None:
        import snakepit._core.stream as core

        ready = threading.Event()
        while True:
            try:
                chunk = self.stream.poll()
            except StopIteration:
                return
            if chunk is core.NOT_YET:
                ready.clear()
                if self.stream.call_when_ready(ready.set) and not ready.wait(work.LONG):
                    self.problem = "nobody was told that a stream goes on"
                    return
            elif self._take(chunk):
                self.stream.close()
                return

    def _take(self, chunk: Any) -> Any:
        """Check a chunk; what it returns ends `for_each`."""
        import snakepit

        if not np.array_equal(chunk, work.chunk_of(self.kind, self.seen)):
            self.problem = f"chunk {self.seen} of a stream is wrong"
        self.seen += 1
        if self.pace and self.seen % PACED == 0:
            time.sleep(self.pace)
        return snakepit.HALT if self.left else None

    def verdict(self, patience: float, error: BaseException | None) -> str | None:
        """Wait for its end; returns what was wrong, if anything. `error`: its call's, if any."""
        self.join(patience)
        came = f"{self.seen} of {self.count} chunks"
        if self.is_alive():
            return f"lost: a stream never ends, after {came} ({self.way})"
        if self.problem is not None:
            return f"wrong: {self.problem}"
        if self.seen > self.count:
            return f"wrong: a stream gave {came}"
        if self.left:
            crashed = isinstance(error, errors.WorkerCrashedError)
            cancelled = isinstance(error, concurrent.futures.CancelledError)
            return (
                None if error is None or crashed or cancelled else f"wrong: left, it has {error!r}"
            )
        if self.error is not error:
            return f"wrong: a stream ended with {self.error!r}, its call with {error!r}"
        if self.error is None and self.seen < self.count:
            return f"lost: a stream ended after {came}, without an error"
        return None


def random_stream(generator: random.Random) -> tuple[str, int, int, float]:
    """Return what a random stream shall yield: kind, number, and each how many chunks it rests."""
    kind = generator.choice(list(KINDS))
    count = generator.randrange(1, KINDS[kind] + 1)
    return kind, count, generator.choice([0, 7, 40]), generator.choice([0.0, 0.0003, 0.002])
