"""``snakepit map``: input -> batches -> workers -> output, each stage held back by the next.

    reader thread   read_batches -> Window.admit (waits for room) -> Executor.submit
    worker          run_items: parse, call, format
    main thread     event -> outcome -> (put in order) -> stdout / stderr -> Window.release

Reading has its own thread so that a result is written while the next line has yet to come.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import BinaryIO

from snakepit import Executor
from snakepit.cli.items import NEWLINE, Outcome, Target, describe, run_items
from snakepit.cli.lines import Batch, read_batches
from snakepit.errors import PoolShutdownError, TaskTimeoutError, WorkerCrashedError

# How long the items of a batch should take together: long against the cost of a call, short
# against what a reader of the output notices.
BATCH_SECONDS = 0.01
BATCH_ITEMS = 4096

# Batches for each worker: handed to the pool and not yet done; and in all, with those whose results
# wait for an earlier one. A slow item lets the others run on that far.
AHEAD = 2
UNWRITTEN = 32
UNWRITTEN_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; chunksize and timeout are None when it does not say.

    end: the byte that is written after each result.
    """

    as_json: bool = False
    end: bytes = NEWLINE
    ordered: bool = True
    stop_on_error: bool = False
    chunksize: int | None = None
    timeout: float | None = None


class Window:
    """How much input may be under way; the reader waits here, and so the input is read no further.

    unfinished: batches that the pool has and has not done. unwritten: these, and those whose
    results are not written. size: the bytes of all those lines or results.
    """

    def __init__(self, workers: int, ahead: int) -> None:
        self._changed = threading.Condition()
        self._most_unfinished = ahead
        self._most_unwritten = UNWRITTEN * workers
        self._unfinished = 0
        self._unwritten = 0
        self._size = 0
        self._closed = False

    def admit(self, batch: Batch, *, wait: bool) -> bool:
        """Count a batch in, first waiting for room if told to; False: the window was closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._has_room())
            if self._closed:
                return False
            self._unfinished += 1
            self._unwritten += 1
            self._size += batch.size
            return True

    def finish(self) -> None:
        """The pool is done with a batch."""
        with self._changed:
            self._unfinished -= 1
            self._changed.notify()

    def exchange(self, lines: int, results: int) -> None:
        """The bytes of a batch's lines are gone; those of its results are here."""
        with self._changed:
            self._size += results - lines
            self._changed.notify()

    def release(self, size: int) -> None:
        """A batch's results, of so many bytes, are written."""
        with self._changed:
            self._unwritten -= 1
            self._size -= size
            self._changed.notify()

    def close(self) -> None:
        """Admit nothing more, and let go a reader that waits."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _has_room(self) -> bool:
        return self._unwritten == 0 or (
            self._unfinished < self._most_unfinished
            and self._unwritten < self._most_unwritten
            and self._size < UNWRITTEN_BYTES
        )


class Pace:
    """How many items go into a batch: one at first, then what lately took about BATCH_SECONDS.

    Only items that have proved quick share a batch; so a slow one, which is the kind that has side
    effects worth a thought, is not run again when a neighbour kills the worker.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = 1

    def observe(self, outcome: Outcome) -> None:
        """Learn from what a batch took; grow at most fourfold on one observation."""
        fitting = int(BATCH_SECONDS * outcome.count / max(outcome.seconds, 1e-9))
        self.limit = max(1, min(fitting, 4 * self.limit, self._most))


class Mapping:
    """One run over the whole input.

    failures: items that failed so far. input_error: why reading ended before the end, or None.
    on_items and on_error are called with the number of items done, and with each error's line.
    """

    def __init__(
        self,
        executor: Executor,
        target: Target,
        options: Options,
        output: BinaryIO,
        *,
        on_items: Callable[[int], object],
        on_error: Callable[[str], object],
    ) -> None:
        self.failures = 0
        self.input_error: OSError | None = None
        self._target = target
        self._options = options
        self._output = output
        self._flush_always = output.isatty()
        self._on_items = on_items
        self._on_error = on_error
        workers = executor.stats().workers
        if options.timeout is None:
            self._pool = executor.options()
            self._window = Window(workers, AHEAD * workers)
            self._pace = Pace(options.chunksize or BATCH_ITEMS)
        else:
            # A call's timeout counts its waiting and all its items. One item a call, no more calls
            # than workers, and another try for what did not begin in time make it what the option
            # promises: a limit to each item's run.
            self._pool = executor.options(timeout=options.timeout)
            self._window = Window(workers, workers)
            self._pace = Pace(1)
        self._events: SimpleQueue[tuple[Batch, Future[Outcome]] | int | BaseException] = (
            SimpleQueue()
        )

    def run(self, paths: list[str], stdin: int) -> None:
        """Map the whole input; with stop_on_error, up to the first failure.

        Raises OSError when the output cannot be written, BrokenProcessPool when the pool cannot go
        on. Whatever ends it early leaves calls under way: the caller ends the pool.
        """
        reader = threading.Thread(
            target=self._read, args=(paths, stdin), name="snakepit-map-reader", daemon=True
        )
        reader.start()
        try:
            self._write_all()
            self._output.flush()
        finally:
            self._window.close()

    def _read(self, paths: list[str], stdin: int) -> None:
        total = 0
        try:
            for batch in read_batches(paths, stdin, lambda: self._pace.limit):
                if not self._window.admit(batch, wait=True):
                    return
                self._submit(batch)
                total += len(batch.lines)
        except OSError as error:
            self.input_error = error
        except PoolShutdownError as error:  # the main thread has ended the pool, or the pool itself
            self._events.put(error)
            return
        except BaseException as error:
            self._events.put(error)
            raise
        self._events.put(total)

    def _submit(self, batch: Batch) -> None:
        future = self._pool.submit(
            run_items,
            self._target,
            batch.lines,
            self._options.as_json,
            self._options.stop_on_error,
            self._options.end,
        )
        future.add_done_callback(partial(self._finish, batch))

    def _finish(self, batch: Batch, future: Future[Outcome]) -> None:
        self._window.finish()
        self._events.put((batch, future))

    def _write_all(self) -> None:
        total: int | None = None
        written = 0
        early: dict[int, tuple[Batch, Outcome]] = {}
        while written != total:
            event = self._next_event()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, int):
                total = event
                continue
            batch, future = event
            outcome = self._settle(batch, future)
            if outcome is None:
                continue
            # In order, a batch waits for the one that ends where it begins; otherwise for none.
            key = batch.first if self._options.ordered else written + 1
            early[key] = batch, outcome
            while (ready := early.pop(written + 1, None)) is not None:
                self._write(*ready)
                written += ready[1].count
                if self.failures and self._options.stop_on_error:
                    return

    def _next_event(self) -> tuple[Batch, Future[Outcome]] | int | BaseException:
        try:
            return self._events.get_nowait()
        except Empty:
            self._output.flush()
            return self._events.get()

    def _settle(self, batch: Batch, future: Future[Outcome]) -> Outcome | None:
        """The outcome of a batch's first items; the others, or all when None, are sent again."""
        error = future.exception()
        if error is None:
            outcome = future.result()
            self._pace.observe(outcome)
            self._window.exchange(batch.size, len(outcome.output))
            if not (outcome.errors and self._options.stop_on_error):
                self._resubmit(batch.split(outcome.count, self._pace.limit))
            return outcome
        if isinstance(error, PoolShutdownError) or (
            isinstance(error, BrokenProcessPool) and not isinstance(error, WorkerCrashedError)
        ):
            raise error
        if isinstance(error, TaskTimeoutError) and error.details.get("phase") == "queued":
            # It waited while the worker of a stuck item was being replaced: the limit is to what an
            # item takes, and this one has not begun.
            self._window.release(batch.size)
            self._resubmit([batch])
            return None
        if len(batch.lines) == 1:
            self._window.exchange(batch.size, 0)
            return Outcome(1, b"", [(0, describe(error))], 0.0)
        # Which of them it was is not known. Alone, only the guilty one fails.
        self._window.release(batch.size)
        self._resubmit(batch.split(0, 1))
        return None

    def _resubmit(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._window.admit(batch, wait=False)
            self._submit(batch)

    def _write(self, batch: Batch, outcome: Outcome) -> None:
        self._output.write(outcome.output)
        if self._flush_always:
            self._output.flush()
        self._window.release(len(outcome.output))
        for position, text in outcome.errors:
            self._on_error(f"{batch.place(position)}: {text}")
        self.failures += len(outcome.errors)
        self._on_items(outcome.count)
