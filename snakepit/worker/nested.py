"""Tasks that tasks submit: the worker's half (the owner's is `snakepit.pool.nested`).

Waiting cannot deadlock: who waits for a task that has not started anywhere gets it back and runs it
on the spot. A task that runs elsewhere makes progress by the same rule, and nothing waits for a
task that was not submitted before it. What is waited for by `wait` or `as_completed`, which block a
thread in the standard library, is run by a thread beside it, one at a time for each such call, so
that the rest may go to other workers.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import pickle
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from snakepit._core.constants import MAIL_CANCEL, MAIL_WANT
from snakepit.errors import RemoteTraceback, TaskInterrupt
from snakepit.pool.mapping import MapResults, MapRun
from snakepit.worker.context import inner_call, lent_turn, refuse_shutdown
from snakepit.worker.link import CANCELLED, ERROR, LEND, RUN

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane

_SETTLED = ("FINISHED", "CANCELLED_AND_NOTIFIED")

F = TypeVar("F", bound="NestedFuture")


class _Waiters(list[Any]):
    """The standard library's list of who waits for a future; tells when somebody does."""

    def __init__(self, future: NestedFuture) -> None:
        super().__init__()
        self._future = future

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._future._pool.help_waiter(self._future, waiter)


class NestedFuture(concurrent.futures.Future[Any]):
    """The outcome of a task that a task submitted."""

    def __init__(self, pool: NestedPool, number: int) -> None:
        super().__init__()
        self._pool = pool
        self.number = number
        condition = pool.make_condition()
        if condition is not None:
            self._condition = condition
        self.run_ns = 0
        self._waiters = _Waiters(self)
        self._call: Any = None  # taken back: the call to run here
        self._wanted = False

    def result(self, timeout: float | None = None) -> Any:
        self._help(timeout)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._help(timeout)
        return super().exception(timeout)

    def cancel(self) -> bool:
        if self.done():
            return self.cancelled()
        self._pool.ask_cancel(self)
        with self._condition:
            self._condition.wait_for(self.done, 1.0)
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[Any]], object]) -> None:
        super().add_done_callback(fn)
        if not self.done():
            self._pool.help_waiter(self, None)

    def partial_outcome(self) -> list[Any] | None:
        return None

    def take_loan(self, loan: Any) -> None:
        """Run a call that the owner lends: only to calls of host tools (`HostCall`)."""
        raise NotImplementedError

    def _has_news(self) -> bool:
        return self.done() or self._call is not None

    def _help(self, timeout: float | None) -> None:
        """Wait until the outcome is there, or the call comes back to be run here."""
        if self.done():
            return
        self._pool.want(self)
        with lent_turn():
            with self._condition:
                self._condition.wait_for(self._has_news, timeout)
            self._pool.run_returned(self)


class NestedPool:
    """The pool that runs the current task, seen from inside the task."""

    make_future = NestedFuture

    def __init__(self, lane: WorkerLane, link: socket.socket, workers: int) -> None:
        self._lane = lane
        self._link = link
        self._workers = workers
        # Unlike those of the lane's earlier workers, whose answers may still be under way.
        self._numbers = itertools.count((lane.incarnation << 32) + 1)
        self._futures: dict[int, NestedFuture] = {}
        self._chains: dict[int, list[NestedFuture]] = {}
        self._lock = threading.Lock()
        self._listener: threading.Thread | None = None

    def make_condition(self) -> threading.Condition | None:
        """Return the condition of a new future; None for one of the standard library's own."""
        return None

    # -- the task's side ---------------------------------------------------------------------------

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Queue a call in the pool that runs this task. Raises EncodeError, TypeError."""
        if not callable(fn):
            raise TypeError(
                f"submit takes a function, not {fn!r}; a tool of an adapter is called on the "
                "adapter itself, or by the pool's owner"
            )
        return self._submit(fn, args, kwargs)

    def _submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> NestedFuture:
        if self._listener is None:
            self._start_listener()
        future = self.make_future(self, next(self._numbers))
        self._futures[future.number] = future
        try:
            self._lane.post_call(future.number, fn, args, kwargs)
        except BaseException:
            # Interrupted after it was posted, it may have been answered already.
            self._futures.pop(future.number, None)
            raise
        return future

    def request(self, kind_of_future: type[F], kind: int, value: object) -> F:
        """Send the owner mail of some kind whose answer is the future's outcome."""
        if self._listener is None:
            self._start_listener()
        future = kind_of_future(self, next(self._numbers))
        self._futures[future.number] = future
        try:
            self._lane.post(kind, future.number, value)
        except BaseException:
            del self._futures[future.number]
            raise
        return future

    def tell(self, kind: int, number: int, value: object) -> None:
        """Send the owner mail that nobody waits for an answer to."""
        self._lane.post(kind, number, value)

    def decode(self, encoding: int, payload: Any, segment: Any, length: int) -> Any:
        """Rebuild a value that came by the link."""
        return self._lane.channel.decode_bytes(encoding, payload, segment, length)

    def _start_listener(self) -> None:
        self._lane.hold_interrupts()
        try:
            with self._lock:
                if self._listener is None:
                    self._listener = threading.Thread(
                        target=self._listen, name="snakepit-nested", daemon=True
                    )
                    self._listener.start()
        finally:
            self._lane.release_interrupts()

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None,
        chunksize: int | None = None, buffersize: int | None = None, ordered: bool = True,
    ) -> Iterator[Any]:  # fmt: skip
        """Call `fn` with the items of the iterables in the pool (see `Executor.map`)."""
        from snakepit.worker.loop import call_chunk

        def submit_chunk(kind: int, items: list[Any], hook: Callable[[Any], None] | None) -> Any:
            future = self._submit(call_chunk, (fn, kind, items), {})
            if hook is not None:
                future.add_done_callback(hook)
            return future

        run = MapRun(
            submit_chunk, iterables, workers=self._workers, chunksize=chunksize or 1,
            buffersize=buffersize, ordered=ordered, timeout=timeout, watch=lambda: None,
        )  # fmt: skip
        return MapResults(run)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Raise RuntimeError: the pool's owner shuts it down."""
        refuse_shutdown()

    def want(self, future: NestedFuture) -> None:
        """Ask for a task back, unless it started somewhere."""
        with self._lock:
            if future._wanted:
                return
            future._wanted = True
        self._lane.post(MAIL_WANT, future.number)

    def ask_cancel(self, future: NestedFuture) -> None:
        """Ask the owner to cancel a task."""
        self._lane.post(MAIL_CANCEL, future.number)

    def run_returned(self, future: NestedFuture) -> None:
        """Run a call that came back, if it did and nobody else does."""
        with future._condition:
            call, future._call = future._call, None
        if call is None or not future.set_running_or_notify_cancel():
            return
        try:
            function, args, kwargs = self._lane.channel.decode_bytes(*call)
            with inner_call(0):
                result = function(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
            if isinstance(error, TaskInterrupt):
                # Meant for the task that waits here.
                raise
        else:
            future.set_result(result)

    # -- for who waits by other means --------------------------------------------------------------

    def help_waiter(self, future: NestedFuture, waiter: Any) -> None:
        """Make sure that what `waiter` waits for gets done, here if nowhere else, one by one."""
        key = id(waiter)
        self._lane.hold_interrupts()
        try:
            with self._lock:
                chain = self._chains.setdefault(key, [])
                chain.append(future)
                if len(chain) > 1:
                    return
            threading.Thread(
                target=self._run_chain, args=(key,), name="snakepit-helper", daemon=True
            ).start()
        finally:
            self._lane.release_interrupts()

    def _run_chain(self, key: int) -> None:
        while True:
            with self._lock:
                chain = self._chains[key]
                # Not `done()`: `wait` holds the futures' conditions while it comes here for the
                # lock.
                while chain and chain[0]._state in _SETTLED:
                    chain.pop(0)
                if not chain:
                    del self._chains[key]
                    return
                future = chain[0]
            future._help(None)

    # -- the owner's answers -----------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            message = self._link.recv(1 << 20)
            if not message:
                return
            # In a function of its own: a local of this loop would keep an answer's memory until the
            # next one comes.
            self._hear(message)

    def _hear(self, message: bytes) -> None:
        kind, number, encoding, flags, payload, segment, length, loan = pickle.loads(message)
        keep = kind in (RUN, LEND)
        future = self._futures.get(number) if keep else self._futures.pop(number, None)
        held = self._lane.channel.receive(segment, length) if segment is not None else None
        if future is None:
            return
        if kind == LEND:
            future.take_loan(((encoding, flags, payload, held, length), loan))
            return
        if kind == RUN:
            self._futures.pop(number, None)
            with future._condition:
                future._call = (encoding, payload, held, length)
                future._condition.notify_all()
            return
        self._settle(future, kind, (encoding, payload, held, length))

    def _settle(self, future: NestedFuture, kind: int, message: tuple[Any, ...]) -> None:
        if kind == CANCELLED:
            concurrent.futures.Future.cancel(future)
            future.set_running_or_notify_cancel()
            return
        try:
            value = self._lane.channel.decode_bytes(*message)
        except BaseException as error:
            future.set_exception(error)
            return
        if kind == ERROR:
            raised, text = value
            raised.__cause__ = RemoteTraceback(text)
            future.set_exception(raised)
        else:
            future.set_result(value)
