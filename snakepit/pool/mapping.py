"""`map`: many small calls as few messages.

Items travel in chunks, whose size follows what a call was seen to cost. The iterables are read in
the thread that asks for results, never further ahead than the buffer: a chunk is read, submitted,
and only when all chunks that may be under way are, the results of the oldest (or of any) are
awaited.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from snakepit import errors
from snakepit._core.constants import CALL_EACH, CALL_STAR
from snakepit.errors import ForkedPoolError, PoolShutdownError
from snakepit.options import checked_wait

if TYPE_CHECKING:
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool
    from snakepit.pool.pool import ProcessPool
    from snakepit.pool.terms import Terms

# What a chunk should take: long against the cost of a message, short for who waits.
TARGET_NS = 1_000_000
MOST_ITEMS = 4096
GROWTH = 8
SLOW_READ = 0.001  # a source that takes longer for an item is not waited for to fill a chunk


class MapRun:
    """One call of `map`: reads, submits, and hands out results.

    `submit_chunk(kind, items, on_settled)` returns a future whose result is the list of results,
    and which on an error keeps what came before it. `workers` and `buffersize` bound what is under
    way.
    """

    def __init__(
        self,
        submit_chunk: Callable[[int, list[Any], Callable[[Any], None] | None], Future[Any]],
        iterables: tuple[Iterable[Any], ...],
        *,
        workers: int,
        chunksize: int | None,
        buffersize: int | None,
        ordered: bool,
        timeout: float | None,
        watch: Callable[[], None],
    ) -> None:
        self._submit_chunk = submit_chunk
        self._kind = CALL_EACH if len(iterables) == 1 else CALL_STAR
        self._items: Iterator[Any] = (
            iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)
        )
        self.total = _length(iterables)
        self._fixed = chunksize
        self._most_items = buffersize
        self._most_chunks = 2 * workers + 2
        self._size = 1
        self._largest = MOST_ITEMS
        if self.total is not None:
            self._largest = max(1, min(MOST_ITEMS, self.total // (4 * workers)))
        if buffersize is not None:
            self._largest = max(1, min(self._largest, buffersize // (2 * workers)))
        self._ordered = ordered
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._watch = watch
        self._chunks: deque[tuple[Future[Any], int]] = deque()
        self._settled: deque[Future[Any]] = deque()
        self._arrived = threading.Semaphore(0)
        self._last_run_ns = 0
        self._under_way = 0  # items read and not handed out
        self._exhausted = False
        self._abandoned = False
        self._reading = threading.RLock()
        self.started = False
        self._pid = os.getpid()

    # -- reading -----------------------------------------------------------------------------------

    def feed(self) -> None:
        """Read and submit until the buffer is full, the items end, or the next result is there."""
        with self._reading:
            while not self._exhausted and self._has_room():
                self._submit_next(self._chunk_size())
                if self._ordered and self._chunks and self._chunks[0][0].done():
                    return

    def submit_rest(self) -> None:
        """Read and submit everything that is left, whoever may want the results."""
        if self._is_forked():
            return
        with self._reading:
            while not self._exhausted:
                self._submit_next(self._chunk_size())

    def abandon(self) -> None:
        """Submit nothing more."""
        # Without the lock: who has it may be reading from a source that does not answer.
        self._abandoned = self._exhausted = True

    def cancel(self) -> None:
        """Read nothing more and cancel what has not started; not in a forked child."""
        if self._is_forked():
            return
        self.abandon()
        while self._chunks:
            self._chunks.popleft()[0].cancel()

    def finish_reading(self, *, only_sized: bool = False) -> None:
        """The pool closes: submit what is left, but not of a source that may be endless.

        One that does not tell its length is read all the same where nobody has asked for results
        yet, as the standard library's `map` has it; not with `only_sized`.
        """
        if self._abandoned:
            return
        if self.total is not None:
            self.submit_rest()
        elif self.started:
            return
        elif only_sized:
            self.abandon()
        elif self._reading.acquire(blocking=False):
            # Else a thread is just reading, in `map` itself, and may be kept waiting by its source.
            try:
                self.submit_rest()
            finally:
                self._reading.release()

    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    def _has_room(self) -> bool:
        if self._most_items is not None:
            return self._under_way < self._most_items
        return len(self._chunks) < self._most_chunks

    def _chunk_size(self) -> int:
        size = self._size if self._fixed is None else self._fixed
        if self._most_items is not None:
            size = min(size, self._most_items - self._under_way)
        return max(1, size)

    def _submit_next(self, size: int) -> None:
        if self._is_forked():
            # Before anything is read: the source may be a file, whose place it has in common.
            raise ForkedPoolError(
                "this process forked from the one that called map, and the results come there; "
                "call map on a pool of its own here",
                details={"pid": os.getpid()},
            )
        items: list[Any] = []
        try:
            if size > 16 and self.total is not None:
                items.extend(islice(self._items, size))
                self._exhausted = len(items) < size
            else:
                self._read_slowly(items, size)
        except BaseException:
            self._exhausted = True
            raise
        if items and not self._abandoned:
            self._under_way += len(items)
            hook = None if self._ordered else self._note_settled
            self._chunks.append((self._submit_chunk(self._kind, items, hook), len(items)))

    def _read_slowly(self, items: list[Any], size: int) -> None:
        started = time.monotonic()
        for item in self._items:
            items.append(item)
            if len(items) >= size or time.monotonic() - started > SLOW_READ:
                return
        self._exhausted = True

    def _note_settled(self, future: Any) -> None:
        self._settled.append(future)
        self._arrived.release()

    # -- handing out -------------------------------------------------------------------------------

    def results(self) -> Generator[Any, None, None]:
        """Yield the results; at an error, first what came before it."""
        self.started = True
        try:
            while True:
                self.feed()
                if not self._chunks:
                    return
                future, count = self._next_chunk()
                error = future.exception(self._remaining())
                if error is not None:
                    yield from future.partial_outcome() or ()
                    raise error
                values = future.result()
                # Nothing here may keep a result alive once it was handed out.
                del future
                self._adapt(len(values))
                values.reverse()
                while values:
                    yield values.pop()
                self._under_way -= count
        finally:
            self.cancel()

    def _adapt(self, count: int) -> None:
        """Choose the size of the next chunks by what the newest one took a call."""
        if self._fixed is None and self._last_run_ns:
            fitting = TARGET_NS * count // self._last_run_ns
            self._size = max(1, min(self._largest, self._size * GROWTH, fitting))

    def _next_chunk(self) -> tuple[Future[Any], int]:
        if self._ordered:
            future, count = self._chunks[0]
            future.exception(self._remaining())
            self._last_run_ns = future.run_ns
            self._chunks.popleft()
            return future, count
        self._watch()
        if not self._arrived.acquire(timeout=self._remaining()):
            raise TimeoutError
        future = self._settled.popleft()
        self._last_run_ns = future.run_ns
        for place, (waiting, count) in enumerate(self._chunks):
            if waiting is future:
                del self._chunks[place]
                return future, count
        raise AssertionError("a chunk settled twice")

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    """The number of items, if every iterable tells its own."""
    try:
        return min((len(iterable) for iterable in iterables), default=0)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        # A range may be longer than a length can say; as the end of another it still is one.
        return None


class MapResults:
    """The iterator that `map` returns.

    Dropped before its first item was asked for, it lets the rest of the calls run; dropped or
    closed later, it cancels what has not started, like the standard library's.
    """

    def __init__(self, run: MapRun) -> None:
        self._run = run
        self._results = run.results()
        self._wanted = False

    def __iter__(self) -> Iterator[Any]:
        self._wanted = True
        return self._results

    def __next__(self) -> Any:
        self._wanted = True
        return next(self._results)

    def close(self) -> None:
        """Cancel what has not started."""
        self._wanted = True
        self._run.cancel()
        self._results.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the pool has, and this module's names are gone.
        if not self._wanted and not is_finalizing():
            # Of a pool that has been closed, or has given up, nobody expects the rest. The second
            # error is looked up when there is one: it loads what pools of threads do without.
            try:
                self._run.submit_rest()
            except (PoolShutdownError, errors.PoolNotReadyError):
                pass


def start_map(
    pool: ProcessPool | LocalPool,
    terms: Terms,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    timeout: float | str | None,
    chunksize: int | None,
    buffersize: int | None,
    *,
    ordered: bool,
    progress: bool,
) -> Iterator[Any]:
    """Start a `map` on a pool: its first chunks are read and submitted before this returns."""
    from snakepit.pool.engine import check_count

    timeout = checked_wait("timeout", timeout)
    check_count("chunksize", chunksize)
    check_count("buffersize", buffersize)
    if terms.by_call and chunksize is None:
        chunksize = 1  # The terms are those of a call, not of a chunk.
    if chunksize != 1 and (terms.retry is not None or terms.breaker is not None):
        raise ValueError(
            f"with retry or breaker, map sends its items one by one: chunksize={chunksize} cannot "
            "be; leave it out, or let the function take a list and submit lists"
        )
    number = pool.number_for_map(fn)

    def submit_chunk(
        kind: int, items: list[Any], on_settled: Callable[[Any], None] | None
    ) -> Future[Any]:
        return pool.submit_items(number, fn, kind, items, terms, on_settled)

    run = MapRun(
        submit_chunk,
        iterables,
        workers=pool.capacity,
        chunksize=chunksize,
        buffersize=buffersize,
        ordered=ordered,
        timeout=timeout,
        watch=pool.watch,
    )
    pool.add_map(run)
    run.feed()
    results: Iterator[Any] = MapResults(run)
    if progress:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                "progress=True needs tqdm: pip install 'snakepit-pool[progress]'"
            ) from error
        results = iter(tqdm(results, total=run.total))
    return results
