"""What workers ask their owner: the owner's half (the worker's is `snakepit._core.asking`).

worker: a question in a mail slot --> who delivers mail: the topic's handler --> the answer there
worker: a call of a host tool --> a thread of the crew runs it --> the answer by the worker's link

A quick handler runs where mail is delivered, often in a caller's `result()`: it does not block and
runs no code of users. Any other answers from a thread of the crew, which has no upper limit: a host
tool may call the pool, whose tasks may call host tools, at any depth.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from snakepit._core.answering import LATER, Answerer
from snakepit.errors import SnakepitError
from snakepit.options import did_you_mean
from snakepit.pool.crew import Crew
from snakepit.pool.sessions import QUICKEST, SessionDesk, quickest
from snakepit.pool.terms import session_name

if TYPE_CHECKING:
    from snakepit.pool.lending import Lender
    from snakepit.pool.pool import ProcessPool
    from snakepit.sessions.session import Session

logger = logging.getLogger("snakepit")

LONGEST_TEXT = 8000  # characters of a traceback that travel


class Asks:
    """Answers the workers of a pool.

    `handlers`: by topic, `handler(session_id, *args)`, the id None outside a session; those are
    quick. `slow_handlers` may block.
    """

    def __init__(self, pool: ProcessPool, store: Any = None) -> None:
        self._pool = pool
        self._quick: dict[str, Callable[..., Any]] = {}  # filled with the first question
        known: dict[int, Session] = {}
        self._answerer = Answerer(pool.scheduler, self._respond, explain, self._quick, known)
        pool.scheduler.mailbox.on_ask = self._answerer.answer
        self.desk = SessionDesk(
            store, self._answerer.note_change, pool.forget_session, known, pool=pool.name
        )
        self.handlers: dict[str, Callable[..., Any]] = dict(self.desk.handlers)
        self.slow_handlers: dict[str, Callable[..., Any]] = {}
        self._crew = Crew(f"snakepit-{pool.name}-tools")
        self._lender: Lender | None = None
        self._lock = threading.RLock()

    def _respond(self, slot: int, _lane: int, key: int, question: list[Any]) -> Any:
        topic = question[0]
        if topic in QUICKEST and not self.desk.on_file:
            # From the next such question on, the answerer answers by itself.
            self.desk.know(key)
            if not self._quick:
                self._quick |= quickest()
        handler = self.handlers.get(topic)
        if handler is not None and not self.desk.on_file:
            return handler(session_name(key), *question[1:])
        # What a file is written or read for must not hold up other mail.
        slow = handler or self.slow_handlers.get(topic)
        if slow is None:
            raise _unknown_topic(topic, [*self.handlers, *self.slow_handlers])
        session_id = session_name(key)
        self._crew.run(lambda: self._answer_later(slot, slow, session_id, question))
        return LATER

    def _answer_later(
        self, slot: int, handler: Callable[..., Any], session: str | None, question: list[Any]
    ) -> None:
        try:
            value = handler(session, *question[1:])
        except BaseException as error:
            self._answerer.reply(slot, explain(error), True)
        else:
            self._answerer.reply(slot, value)

    # -- host tools --------------------------------------------------------------------------------

    def hear_tool(
        self, lane: int, number: int, encoding: int, payload: Any, segment: Any, length: int
    ) -> None:
        """A worker calls a host tool; the answer goes by its link."""
        if not self._pool.nested.knows(lane, number):
            return
        message = [(encoding, payload, segment, length)]
        self._crew.run(lambda: self._run_tool(lane, number, message))

    def _run_tool(self, lane: int, number: int, message: list[Any]) -> None:
        lender = self._lender_of_pool()
        lender.waits(lane, number)
        if not self._pool.nested.knows(lane, number):
            # It died meanwhile, and its burial may have forgotten its waits already.
            lender.waits_no_more(lane, number)
            return
        answer: Any = None
        failed = False
        try:
            # Rebuilt here, not where mail is delivered: what that does is the caller's matter.
            key, name, args, kwargs = self._pool.scheduler.channel.decode_bytes(*message.pop())
            tool = self.desk.exposed_tool(session_name(key), name)
            answer = tool.function(*args, **kwargs)
            # Nothing here may keep the arguments' memory while the answer is under way.
            del tool, args, kwargs
        except BaseException as error:
            answer, failed = explain(error), True
        lender.waits_no_more(lane, number)
        self._pool.nested.reply(lane, number, answer, failed, explain)

    def _lender_of_pool(self) -> Lender:
        with self._lock:
            if self._lender is None:
                from snakepit.pool.lending import Lender

                self._lender = Lender(self._pool)
            return self._lender

    def hear_ran(self, number: int, encoding: int, payload: Any, segment: Any, length: int) -> None:
        """A worker that waits has run a task that was lent to it."""
        lender = self._lender_of_pool()
        message = [(encoding, payload, segment, length)]
        # Not where mail is delivered: callbacks of the task's future may run.
        self._crew.run(lambda: lender.ran(number, message.pop()))

    def forget(self, lane: int) -> list[Any]:
        """The lane's worker is dead; returns the tasks that were lent to it, unsettled."""
        return [] if self._lender is None else self._lender.forget(lane)

    def has_lent(self, task: Any) -> bool:
        """Whether a worker that waits runs the task."""
        return self._lender is not None and self._lender.has(task)

    def has_lent_of(self, key: int) -> bool:
        """Whether a worker that waits runs a strict call of a session."""
        return self._lender is not None and self._lender.has_call_of(key)

    def stop_lent(self, task: Any) -> bool:
        """Give up a task that is lent; False if it is not."""
        return self._lender is not None and self._lender.stop(task)

    def close(self) -> None:
        """The pool is gone: let go of threads and of a store of its own."""
        self._crew.close()
        self.desk.close()


def explain(error: BaseException) -> tuple[BaseException, str]:
    """Return what travels for an exception: one that can be pickled, and its traceback's text."""
    from snakepit.worker.loop import portable

    text = "".join(traceback.format_exception(error))[-LONGEST_TEXT:]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        error = SnakepitError(
            f"the pool's owner was interrupted by {type(error).__name__} while it answered; what "
            "was asked for may be done or not"
        )
    return portable(error, text), text


def _unknown_topic(topic: object, known: list[str]) -> SnakepitError:
    hint = did_you_mean(topic, known)
    return SnakepitError(
        f"the pool's owner answers no questions of topic {topic!r}{hint}",
        details={"topic": str(topic), "topics": sorted(known)},
    )
