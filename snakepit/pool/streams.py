"""Streams of chunks from a call that runs in a pool (worker's half: `snakepit.worker.streaming`).

A stream is a plain call and, beside it, a ring in shared memory (`snakepit._core.stream`) or, in a
local pool, a buffer. The call's future ends the stream: by its error, or its end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from snakepit import errors
from snakepit._core.stream import NOT_YET, ChunkReader, ChunkRing, Rings
from snakepit.errors import ArenaFullError, EncodeError
from snakepit.pool.futures import Future
from snakepit.pool.terms import MAX_BYTES, MAX_CHUNKS, Terms
from snakepit.worker.streaming import send_chunks

if TYPE_CHECKING:
    from snakepit.lifecycle.deadlines import ProcessDeadlines
    from snakepit.pool.functions import FunctionRegistry
    from snakepit.pool.pool import ProcessPool

__all__ = ["HALT", "ProcessStreams", "Stream", "check_streamable", "check_terms"]

T = TypeVar("T")

FAIRNESS = 64  # chunks that come without waiting, after which an event loop has its turn
_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x200  # of `co_flags`


class _Halt:
    def __repr__(self) -> str:
        return "snakepit.HALT"

    def __reduce__(self) -> str:
        return "HALT"


HALT: Final = _Halt()
"""What a callback of `Stream.for_each` returns to end the stream."""


class Stream(Generic[T]):
    """The chunks that a call yields, as they come: an iterator, and an asynchronous one.

    In order, each once. A chunk that is there is given out, whatever became of the call after it;
    then the call's error is raised, or the iteration ends. At most `max_chunks` and `max_bytes`
    (see `Executor.options`) are in flight: a slow reader slows the call. One thread (or task of
    asyncio) reads; StreamReadError, a RuntimeError, tells another that comes meanwhile.

    A loop can go on where another was left. One that begins (`iter`, `aiter`, `for_each`) with a
    stream that was read to its end, or closed, gets StreamReadError.

    `close()`, leaving `with`, and dropping the stream end its generator in the worker, so that its
    `finally` blocks run.
    """

    _turns = 0
    _awaited: object  # there while a loop waits
    _function: Any = None  # that yields the chunks

    def __iter__(self) -> Self:
        self._refuse_if_over()
        return self

    def _refuse_if_over(self) -> None:
        if self._has_ended():
            raise errors.StreamReadError.ended(*self._subject())

    def _has_ended(self) -> bool:
        """Whether the stream was read to its end, or closed."""
        raise NotImplementedError

    def _subject(self) -> tuple[str, dict[str, Any]]:
        from snakepit.pool.subjects import subject_of_function

        pool = self.future.context
        subject = subject_of_function(pool, self._function)
        what = subject.what or "a call"
        return f"{what} of pool {pool.name!r}", subject.details

    if TYPE_CHECKING:

        @property
        def future(self) -> Future[int]:
            """The future of the call. Its result is the number of chunks, once they have room."""

        def __next__(self) -> T: ...
        def poll(self) -> Any: ...
        def call_when_ready(self, waker: Callable[[], object]) -> bool: ...

    def close(self) -> None:
        """End the stream, unless it has ended: the iteration ends, and so does the generator.

        Returns at once. A generator that does not yield again soon is stopped as by `Future.stop`.
        """
        raise NotImplementedError

    def cancel(self) -> bool:
        """Stop the call, as `Future.stop` does; return whether it is cancelled.

        The iteration then raises CancelledError, after the chunks that are there.
        """
        future = self.future
        if future.cancel():
            return True
        pool: Any = future.context
        return bool(pool is not None and not future.done() and pool.cancel_running(future))

    def done(self) -> bool:
        """Return True when the call has ended, or will not run; there may be chunks to read yet."""
        return self.future.done()

    def cancelled(self) -> bool:
        """Return True when the stream was closed before its end, or cancelled."""
        return self.future.cancelled()

    def for_each(self, callback: Callable[[T], object]) -> bool:
        """Call `callback` with each chunk, and close the stream.

        Returns True at the end of the stream, False when the callback returned `snakepit.HALT`.
        Raises what the stream or the callback raises, and TypeError for what cannot be called.
        """
        check_callback(self, callback)
        with self:
            for chunk in self:
                if callback(chunk) is HALT:
                    return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- asyncio -----------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        self._refuse_if_over()
        return self

    async def __anext__(self) -> T:
        me = object()
        # One step, also for loops in two threads.
        if vars(self).setdefault("_awaited", me) is not me:
            raise errors.StreamReadError.busy(*self._subject())
        try:
            while True:
                chunk = self._poll()
                if chunk is NOT_YET:
                    await self._ready()
                    self._turns = 0
                    continue
                self._turns += 1
                if self._turns == FAIRNESS:
                    # Here and not before it is taken: who is cancelled at this point loses it
                    # either way, but the loop has had its turn.
                    self._turns = 0
                    await _let_others_run()
                return chunk  # type: ignore[no-any-return]
        finally:
            del self._awaited

    def _poll(self) -> Any:
        try:
            return self.poll()
        except StopIteration:
            raise StopAsyncIteration from None

    async def _ready(self) -> None:
        """Wait until `poll` may have something to say."""
        import asyncio

        loop = asyncio.get_running_loop()
        ready = loop.create_future()

        def tell() -> None:
            # A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, ready)

        if self.call_when_ready(tell):
            await ready

    async def aclose(self) -> None:
        """Do as `close`, for `contextlib.aclosing`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _let_others_run() -> None:
    import asyncio

    await asyncio.sleep(0)


def _resolve(ready: Any) -> None:
    if not ready.done():
        ready.set_result(None)


class ProcessStream(ChunkReader, Stream[T]):
    """A stream from a worker process."""

    # Without an `__init__`: what there is to keep, its base keeps.

    def _has_ended(self) -> bool:
        return self.ring is None

    def close(self) -> None:
        ring = self.end_reading()
        if ring is not None:
            self._give_up(ring)

    # A method, since at the interpreter's end a module has no functions any more.
    def _give_up(self, ring: ChunkRing) -> None:
        """Cancel the call whose chunks nobody wants, and stop it if it does not notice that."""
        future = self.future
        if future.cancel() or future.done():
            return
        pool: ProcessPool = future.context
        if pool.scheduler.lane_of_task(future) < 0 or not future.mark_cancelled():
            return
        pool.scheduler.note_cancelled()

        def insist() -> None:
            # A generator that is being closed is given all the time that its clean-up takes.
            if not ring.ended:
                pool.supervisor.ladder.stop_task(future)

        pool.supervisor.after(pool.graces.flag, insist)

    def __repr__(self) -> str:
        return f"<snakepit.Stream of {self.future!r}>"


class ProcessStreams:
    """Opens the streams of one pool, which has started; made with the first."""

    def __init__(
        self, pool: ProcessPool, functions: FunctionRegistry, deadlines: ProcessDeadlines
    ) -> None:
        self._pool = pool
        self._functions = functions
        self._deadlines = deadlines
        self._scheduler = pool.scheduler
        self.rings = Rings(pool.scheduler)

    def abandon(self) -> None:
        """Close the streams that nobody can read while this thread waits for the pool's end."""
        self.rings.abandon(other_threads())

    def open(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        terms: Terms | None,
    ) -> ProcessStream[Any]:
        """Queue the call of a stream. Raises ArenaFullError, TypeError, ValueError,
        PoolShutdownError.
        """
        # Of these functions nothing needs to be looked at again.
        numbers = self._functions.streamed.get(function)
        problem: EncodeError | None = None
        if numbers is None:
            check_streamable(function)
            try:
                numbers = self._functions.lookup_stream(function)
            except EncodeError as error:
                problem = error
        future: Future[int] = Future()
        future.context = self._pool
        scheduler = self._scheduler
        if terms is None:
            ring = self.rings.open(future, numbers, MAX_CHUNKS, MAX_BYTES)
        else:
            check_terms(terms)
            future._cancel_running = terms.cancel_running
            self._pool._set_terms(future, terms.timeout, terms)
            ring = self.rings.open(future, numbers, terms.max_chunks, terms.max_bytes)
        try:
            if problem is not None:
                raise problem
            if numbers is not None:
                scheduler.submit(future, numbers[0], None, (ring.place, *args), kwargs)
            else:
                definition = self._functions.lookup(send_chunks)
                args = (function, ring.place, *args)
                scheduler.submit(future, definition, send_chunks, args, kwargs)
        except (EncodeError, ArenaFullError) as error:
            scheduler.fail(future, error)
        else:
            if terms is not None and terms.timeout is not None:
                self._deadlines.add(future, terms.timeout)
        stream: ProcessStream[Any] = ProcessStream(ring, future)
        stream._function = function
        return stream


def other_threads() -> list[int]:
    """Return the identifiers of the threads that go on while this one waits."""
    me = threading.get_ident()
    return [each.ident for each in threading.enumerate() if each.ident not in (None, me)]


def check_callback(stream: Stream[Any], callback: object) -> None:
    """Refuse, and close the stream, where what is to be called with chunks cannot be."""
    if not callable(callback):
        stream.close()
        raise TypeError(
            f"the callback must be callable with a chunk, such as print, not {callback!r}"
        )


def check_streamable(function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be streamed. Raises TypeError."""
    if not callable(function):
        raise TypeError(f"stream takes a generator function, not {function!r}")
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    if flags & (_COROUTINE | _ASYNC_GENERATOR):
        kind = "an async generator" if flags & _ASYNC_GENERATOR else "a coroutine function"
        raise TypeError(
            f"{function.__qualname__!r} is {kind}, which a stream cannot run: no event loop runs "
            "in a worker; make it a plain generator (`async for` can read its stream)"
        )


def check_terms(terms: Terms) -> None:
    """Refuse terms that cannot be a stream's. Raises ValueError."""
    if terms.guarded:
        options = ("retry", "breaker", "idempotent")
        given = [name for name in options if getattr(terms, name)]
        raise ValueError(
            f"{' and '.join(given)} cannot be for a stream: chunks that were read cannot be taken "
            "back, so a second attempt would repeat them; catch the error and call stream again"
        )
