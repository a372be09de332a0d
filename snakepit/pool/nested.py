"""Tasks that tasks submit: the owner's half (the worker's is `snakepit.worker.nested`).

worker: submit --mail SUBMIT, the encoded call--> owner: queued like any other
worker waits   --mail WANT----------------------> owner: still queued? sent back to run right there
               <--link ANSWER / RUN / CANCELLED--
"""

from __future__ import annotations

import logging
import pickle
import socket
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from snakepit import errors
from snakepit._core.constants import MAIL_CANCEL, MAIL_SUBMIT, MAIL_WANT
from snakepit.pool.futures import Future
from snakepit.worker.link import ANSWER, CANCELLED, ERROR, RUN

if TYPE_CHECKING:
    from snakepit._core.channel import Channel
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

LARGEST_INLINE = 32_768  # bytes of a link message that carry a payload themselves
RETRY_SECONDS = 0.005

# An encoded value: encoding, flags, payload or None, segment or None, length.
Message: TypeAlias = tuple[int, int, Any, Any, int]


class Link:
    """The owner's end of the socket that tells a worker of the tasks it submitted; never blocks."""

    def __init__(self, client: int) -> None:
        self._client = client
        self._closed = False
        kind = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, kind)
        self._ours.setblocking(False)
        self._backlog: deque[bytes] = deque()
        # Re-entrant: a signal handler may wait for a task while this thread sends.
        self._lock = threading.RLock()

    def send(
        self, kind: int, number: int, message: Message, channel: Channel, loan: Any = None
    ) -> bool:
        """Send, or keep for `flush` when the worker does not read; False if something is kept.

        A segment becomes the worker's here and now, so that it dies with the worker if not read.
        """
        encoding, flags, payload, segment, length = message
        place = None
        if segment is not None:
            payload = None
        with self._lock:
            # Closed before what the worker held is reclaimed: later nobody would free the segment.
            if self._closed:
                return True
            if segment is not None:
                place = channel.pass_on(segment, self._client)
            answer = (kind, number, encoding, flags, payload, place, length, loan)
            self._backlog.append(pickle.dumps(answer, 5))
        return self.flush()

    def flush(self) -> bool:
        """Send what was kept; False if something still is."""
        with self._lock:
            while self._backlog:
                message = self._backlog.popleft()
                try:
                    self._ours.send(message)
                except (BlockingIOError, InterruptedError):
                    self._backlog.appendleft(message)
                    return False
                except OSError:  # The worker is gone.
                    self._backlog.clear()
                    return True
            return True

    def close_theirs(self) -> None:
        """Close the worker's end here, once the worker has it."""
        self.theirs.close()

    def close(self) -> None:
        """Close both ends."""
        with self._lock:
            self._closed = True
            self._ours.close()
        self.theirs.close()


class NestedTasks:
    """Which worker submitted which task, and the answers to them."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool
        self._futures: dict[tuple[int, int], Future[Any]] = {}
        self._links: dict[int, Link] = {}

    def open_link(self, lane: int, client: int) -> Link:
        """Make the link for a worker, the user `client` of the arena, that is about to start."""
        link = self._links[lane] = Link(client)
        return link

    def forget(self, lane: int) -> None:
        """The lane's worker is dead: nobody waits for what it submitted."""
        link = self._links.pop(lane, None)
        if link is not None:
            link.close()
        for key in [key for key in list(self._futures) if key[0] == lane]:
            future = self._futures.pop(key, None)
            if future is not None:
                future.cancel()

    def knows(self, lane: int, number: int) -> bool:
        """Whether the lane's worker is the one that gave something this number."""
        # The threads of a worker have one link together, known by its first lane.
        lane -= lane % self._pool.threads
        incarnation = self._pool.roster.lane_info(lane)["incarnation"]
        return lane in self._links and number >> 32 == incarnation

    def reply(
        self, lane: int, number: int, value: Any, failed: bool, explain: Callable[..., Any]
    ) -> None:
        """Answer what a worker asked under a number: a value, or `explain`'s of an error."""
        channel = self._pool.scheduler.channel
        try:
            message = channel.encode_message(value)
        except Exception as problem:
            failed = True
            message = channel.encode_message(explain(problem))
        self.send(lane, ERROR if failed else ANSWER, number, message)

    def deliver(
        self,
        kind: int,
        lane: int,
        number: int,
        encoding: int,
        flags: int,
        payload: Any,
        segment: Any,
        length: int,
    ) -> None:
        """Act on a worker's message, unless it is dead: another may have its lane by now."""
        if not self.knows(lane, number):
            return
        if kind == MAIL_SUBMIT:
            future: Future[Any] = Future()
            future.context = self._pool
            self._futures[lane, number] = future
            future.set_hook(lambda task: self._answer(lane, number, task))
            try:
                self._pool.scheduler.submit_encoded(
                    future, None, encoding, flags, payload, segment, length
                )
            except errors.PoolNotReadyError as error:
                # The pool has given up: who waits for it in the worker is told.
                self._pool.scheduler.fail(future, error)
            return
        known = self._futures.get((lane, number))
        if known is None:
            return
        if kind == MAIL_CANCEL:
            known.cancel()
        elif kind == MAIL_WANT and self._pool.scheduler.take_back(known):
            self._futures.pop((lane, number), None)
            self.send(lane, RUN, number, self._pool.scheduler.message_of(known))

    def _answer(self, lane: int, number: int, task: Any) -> None:
        if self._futures.pop((lane, number), None) is None:
            return
        if task.cancelled():
            self.send(lane, CANCELLED, number, (0, 0, None, None, 0))
            return
        error = task.exception()
        try:
            if error is not None:
                text = "".join(traceback.format_exception(error))
                message = self._pool.scheduler.channel.encode_message((error, text))
            else:
                message = self._pool.scheduler.channel.encode_message(task.result())
        except Exception as problem:
            error = problem
            message = self._pool.scheduler.channel.encode_message((problem, traceback.format_exc()))
        self.send(lane, ANSWER if error is None else ERROR, number, message)

    def send(self, lane: int, kind: int, number: int, message: Message, loan: Any = None) -> None:
        """Send a worker a message by its link, if it is alive."""
        link = self._links.get(lane)
        channel = self._pool.scheduler.channel
        if link is not None and not link.send(kind, number, message, channel, loan):
            self._pool.supervisor.after(RETRY_SECONDS, lambda: self._retry(lane))

    def _retry(self, lane: int) -> None:
        link = self._links.get(lane)
        if link is not None and not link.flush():
            self._pool.supervisor.after(RETRY_SECONDS, lambda: self._retry(lane))
