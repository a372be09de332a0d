"""What the workers of a pool say on their own: who of the owner's side hears it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from snakepit._core.constants import (
    CHUNK,
    MAIL_FAILED,
    MAIL_RAN,
    MAIL_READY,
    MAIL_TOOL,
    MAIL_UNFIT,
    MAIL_WORN,
)

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool


class MailRoom:
    """Takes the mail of a pool's workers, in whatever thread collects, and never blocks it."""

    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool

    def hear(
        self, kind: int, lane: int, number: int, definition: int, epoch: int, encoding: int,
        flags: int, payload: bytes | None, segment: Any, length: int,
    ) -> None:  # fmt: skip
        """Take one message (see `snakepit._core.mailbox`)."""
        pool = self._pool
        supervisor = pool.supervisor
        if kind == MAIL_READY:
            supervisor.tell(lambda: supervisor.worker_ready(lane, number))
        elif kind == MAIL_WORN:
            supervisor.tell(lambda: supervisor.recycler.worn(lane))
        elif kind == CHUNK:
            if pool.streams is not None:
                pool.streams.rings.rouse(number)
        elif kind == MAIL_FAILED:
            self._hear_failure(lane, number, encoding, payload, segment, length)
        elif kind == MAIL_TOOL:
            pool.asks.hear_tool(lane, number, encoding, payload, segment, length)
        elif kind == MAIL_UNFIT:
            reason = pool.scheduler.channel.decode_bytes(encoding, payload, segment, length)
            supervisor.tell(lambda: supervisor.recycler.unfit(lane, number, reason))
        elif kind == MAIL_RAN:
            pool.asks.hear_ran(number, encoding, payload, segment, length)
        else:
            pool.nested.deliver(kind, lane, number, encoding, flags, payload, segment, length)

    def _hear_failure(
        self, lane: int, pid: int, encoding: int, payload: bytes | None, segment: Any, length: int
    ) -> None:
        pool = self._pool
        try:
            error, text = pool.scheduler.channel.decode_bytes(encoding, payload, segment, length)
        except BaseException as problem:
            error, text = problem, ""
        # Known here and not in the supervisor's thread, which may bury the worker first.
        spare = pool.roster.holds(lane)
        pool.supervisor.tell(
            lambda: pool.supervisor.worker_failed(lane, pid, error, text, spare=spare)
        )
