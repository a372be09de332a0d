"""Streams from a thread of the caller's own process: the chunks are the objects themselves."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from snakepit._core.interrupts import HELD, stop_requested
from snakepit._core.locks import HoldingLock
from snakepit._core.stream import NOT_YET
from snakepit.errors import PoolShutdownError, StreamReadError, TaskInterrupt
from snakepit.pool.streams import Stream, check_streamable, check_terms, other_threads
from snakepit.worker.context import lent_turn
from snakepit.worker.streaming import chunks_of, close_chunks

if TYPE_CHECKING:
    from snakepit.pool.futures import Future
    from snakepit.pool.local import LocalPool
    from snakepit.pool.terms import Terms

T = TypeVar("T")

# Seconds that a thread waits before it looks whether its task is to stop: nothing wakes one of the
# pool that waits for a lock. Nor does a signal wake the main thread if it comes as the wait begins;
# on free-threaded Python 3.13 that lasts for half a millisecond.
SLICE = 0.1


class ChunkBuffer:
    """Holds the chunks that are there and not read; one thread puts, one takes, any may close."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._chunks: deque[Any] = deque()
        # Re-entrant: a finaliser may close the stream at any moment.
        self._changed = threading.Condition(HoldingLock())  # type: ignore[arg-type]
        self._waker: Callable[[], object] | None = None
        self.reader = threading.get_ident()  # that read last, at first who made the stream
        self.closed = False  # nobody reads any more
        self.ended = False  # no chunk follows
        self.done = False  # the call is settled
        self.abandoned = False  # closed, unread, because its reader waits for the pool's end
        self.unread = False  # its call waits until the reader makes room

    def put(self, chunk: Any) -> bool:
        """Add a chunk, waiting for room; False when nobody reads any more.

        Raises TaskInterrupt when the task is to stop while it waits.
        """
        with self._changed:
            if len(self._chunks) >= self._most:
                # Until half of them are read: else each chunk of a full buffer would cost a change
                # of threads.
                self.unread = True
                while len(self._chunks) > self._most // 2 and not self.closed:
                    if stop_requested():
                        raise TaskInterrupt("the task was asked to stop while its stream waited")
                    self._changed.wait(SLICE)
                self.unread = False
            if self.closed:
                return False
            self._chunks.append(chunk)
            self._tell()
        return True

    def _tell(self) -> None:
        self._changed.notify_all()
        waker, self._waker = self._waker, None
        if waker is not None:
            waker()

    def end(self) -> None:
        """Say that no chunk follows."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def settled(self, _task: object) -> None:
        """The call is settled: its thread shall put nothing more, its reader shall look."""
        with self._changed:
            self.done = self.closed = True
            self._tell()

    def close(self, *, over: bool = False) -> None:
        """Nobody reads any more; `over`: what is there is dropped."""
        with self._changed:
            self.closed = True
            if over:
                self._chunks.clear()
            self._tell()

    def abandon(self, threads: list[int]) -> None:
        """Close the buffer if none of these threads could read on."""
        with self._changed:
            if self.reader not in threads and not self.done and not self.ended:
                self.abandoned = True
                self.close()

    def take(self, over: Callable[[], bool], *, wait: bool) -> Any:
        """Return the next chunk; NOT_YET when there is none (to `wait` for)."""
        while True:
            # An interrupt comes at the end of each `with`.
            with self._changed:
                if self._chunks and not over():
                    chunk = self._chunks.popleft()
                    if len(self._chunks) == self._most // 2:
                        self._changed.notify_all()
                    return chunk
                if not wait or self.ended or self.done or over():
                    return NOT_YET
                self._changed.wait(SLICE)

    def call_when_ready(self, waker: Callable[[], object], over: Callable[[], bool]) -> bool:
        """Have `waker()` called once, when there is something to see; False: now."""
        with self._changed:
            if self._chunks or self.done or over():
                return False
            self._waker = waker
            return True


class StreamedCall:
    """Runs the function of a stream on a thread of the pool."""

    def __init__(self, buffer: ChunkBuffer, function: Callable[..., Any]) -> None:
        self._buffer = buffer
        self.function = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> int:
        count = 0
        chunks = None
        put = self._buffer.put
        try:
            chunks = chunks_of(self.function, args, kwargs)
            for chunk in chunks:
                if not put(chunk):
                    break
                count += 1
        finally:
            # An interrupt that was under way comes after the generator's `finally`.
            with HELD:
                self._buffer.end()
                if chunks is not None:
                    close_chunks(chunks)
        return count


class LocalStream(Stream[T]):
    """A stream from a thread of the same process."""

    _buffer: ChunkBuffer | None = None

    def __init__(self, buffer: ChunkBuffer, future: Future[int], *, on_worker: bool) -> None:
        self._future = future
        self._reading = threading.Lock()
        self._over = False
        self._on_worker = on_worker
        self._buffer = buffer

    @property
    def future(self) -> Future[int]:
        return self._future

    def _is_over(self) -> bool:
        return self._over

    _has_ended = _is_over

    def _begin(self) -> ChunkBuffer:
        if not self._reading.acquire(blocking=False):
            raise StreamReadError.busy(*self._subject())
        assert self._buffer is not None
        self._buffer.reader = threading.get_ident()
        return self._buffer

    def __next__(self) -> T:
        buffer = self._begin()
        try:
            if self._on_worker:
                with lent_turn():
                    chunk = buffer.take(self._is_over, wait=True)
            else:
                chunk = buffer.take(self._is_over, wait=True)
            if chunk is NOT_YET:
                self._conclude(buffer)
            return chunk  # type: ignore[no-any-return]
        finally:
            self._reading.release()

    def poll(self) -> Any:
        buffer = self._begin()
        try:
            settled = buffer.done or self._over
            chunk = buffer.take(self._is_over, wait=False)
            if chunk is NOT_YET and settled:
                self._conclude(buffer)
            return chunk
        finally:
            self._reading.release()

    def call_when_ready(self, waker: Callable[[], object]) -> bool:
        assert self._buffer is not None
        return self._buffer.call_when_ready(waker, self._is_over)

    def _conclude(self, buffer: ChunkBuffer) -> None:
        """Raise what the stream ends with: StopIteration, or the error of its call; that once."""
        if self._over:
            raise StopIteration
        error: BaseException | None = None
        try:
            error = self.future.exception()
        except BaseException as problem:
            error = problem
        if self._over:
            raise StopIteration
        self._over = self.future.done()
        if buffer.abandoned:
            raise PoolShutdownError(
                "the stream was closed before its end: its pool was shut down by the thread that "
                "was reading it, or after that had ended; read the stream to its end before, or in "
                "another thread"
            )
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        buffer = self._buffer
        if buffer is None or self._over:
            return
        self._over = True
        buffer.close(over=True)
        future = self.future
        if future.cancel() or future.done() or not future.running():
            return
        pool: LocalPool = future.context
        if future.mark_cancelled():
            # A generator that is being closed is given all the time that its clean-up takes.
            pool.timekeeper.after(pool.graces.flag, lambda: _insist(pool, future, buffer))

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # When the interpreter ends, the pool has, and this module's names are gone.
        if not is_finalizing():
            self.close()

    def __repr__(self) -> str:
        return f"<snakepit.Stream of {self.future!r}>"


def _insist(pool: LocalPool, future: Future[int], buffer: ChunkBuffer) -> None:
    if not buffer.ended:
        pool.stop_task(future)


def abandon(buffers: Iterable[ChunkBuffer]) -> None:
    """Close the buffers that nobody can read while this thread waits for their pool's end."""
    threads = other_threads()
    for buffer in buffers:
        buffer.abandon(threads)


def open_local_stream(
    pool: LocalPool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    terms: Terms,
    future: Future[int],
    *,
    nested: bool,
) -> LocalStream[Any]:
    """Queue the call of a stream. Raises TypeError, ValueError, PoolShutdownError."""
    check_streamable(function)
    check_terms(terms)
    buffer = ChunkBuffer(terms.max_chunks)
    future.set_hook(buffer.settled)
    pool.submit(StreamedCall(buffer, function), args, kwargs, terms, future)
    pool.buffers.add(buffer)
    if nested:
        # Every thread of the pool may be waiting for streams of its own.
        pool.run_beside(future)
    stream: LocalStream[Any] = LocalStream(buffer, future, on_worker=nested)
    stream._function = function
    return stream
