"""The template's start, which its pool's supervisor waits for among everything else.

What a template imports may take long, or for ever. Meanwhile deadlines hold, calls are cancelled,
and the pool can be closed.
"""

from __future__ import annotations

import logging
import select
import time
from typing import TYPE_CHECKING

from snakepit import errors
from snakepit.lifecycle.template import ANSWER_PATIENCE

if TYPE_CHECKING:
    from snakepit.lifecycle.supervisor import Supervisor
    from snakepit.lifecycle.template import Template
    from snakepit.pool.pool import ProcessPool

logger = logging.getLogger("snakepit")

LEAST_PATIENCE = 10.0  # seconds for a template that preloads nothing: an interpreter's mere start
STALL_LOOK = 0.02  # seconds between two looks whether a template runs again
STALL_MEMORY = 0.5  # seconds without a look, after which it may have run meanwhile


class Preparation:
    """Used in the supervisor's thread only; `poller` is the one that it sleeps in."""

    def __init__(self, pool: ProcessPool, supervisor: Supervisor, poller: select.poll) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._poller = poller
        self._fd = -1  # on which a template will report; -1: none is waited for
        self._for_spare = False
        self._stalled_since = 0.0  # 0: it is not
        self._stall_seen = 0.0  # when it was last looked at and did not run
        self._looks_again = False

    @property
    def _template(self) -> Template | None:
        return self._pool.template

    @property
    def _patience(self) -> float:
        timeout = self._pool.start_timeout
        # Set low for workers, which start in milliseconds, it would never let a pool begin.
        preloads = self._template is not None and self._template.preloads
        return timeout if preloads else max(timeout, LEAST_PATIENCE)

    def is_awaited(self, *, spare: bool) -> bool:
        """Whether a worker, or a spare, has to wait for the template; one is started if need be."""
        template = self._template
        if template is None:
            return False
        # While another thread asks it, it would not answer us; the burial comes first anyway.
        if self._supervisor.burial.reaping:
            return True
        try:
            fd = template.begin()
        except Exception as error:
            self._supervisor.start_failed(error, spare=spare)
            return True
        self._for_spare = spare
        if fd < 0:
            return self._is_stalled(template)
        if self._fd < 0:
            self._fd = fd
            self._poller.register(fd, select.POLLIN)
            launch = template.launches
            self._supervisor.at(template.started + self._patience, lambda: self._give_up(launch))
        return True

    def _is_stalled(self, template: Template) -> bool:
        """Whether a template that is ready would not answer now; it is given up after a time."""
        now = time.monotonic()
        if template.runs():
            self._stalled_since = 0.0
            return False
        # Nobody looks while no worker is to be started. And whoever debugs it does not want to see
        # it killed.
        if now - self._stall_seen > STALL_MEMORY or template.is_traced():
            self._stalled_since = 0.0
        self._stall_seen = now
        self._stalled_since = self._stalled_since or now
        if now - self._stalled_since >= ANSWER_PATIENCE:
            self._stalled_since = 0.0
            self._supervisor.start_failed(template.give_up_stalled(), spare=self._for_spare)
        elif not self._looks_again:
            self._looks_again = True
            self._supervisor.at(now + STALL_LOOK, self._look_again)
        return True

    def _look_again(self) -> None:
        self._looks_again = False

    def look(self) -> None:
        """The template has reported, or is gone."""
        template = self._template
        if template is None or self._fd < 0:
            return
        self._leave()
        try:
            warning = template.take_report()
        except errors.PoolNotReadyError as error:
            # What raised there would raise again; what ended it may have been an accident.
            raised = "traceback" in error.details
            self._supervisor.start_failed(error, spare=self._for_spare, hopeless=raised)
        except Exception as error:
            self._supervisor.start_failed(error, spare=self._for_spare)
        else:
            if warning is not None:
                logger.warning("snakepit pool %s: %s", self._pool.name, warning)

    def _give_up(self, launch: int) -> None:
        template = self._template
        if template is None or self._fd < 0 or template.launches != launch:
            return
        self._leave()
        error = template.give_up(self._patience, self._pool.start_timeout)
        self._supervisor.start_failed(error, spare=self._for_spare)

    def _leave(self) -> None:
        # Before the descriptor is closed: poll() may know the next one of that number otherwise.
        self._poller.unregister(self._fd)
        self._fd = -1

    def why_queued(self) -> str:
        """Say why a call has not started."""
        ready, size, name = self._pool.ready_workers(), self._pool.size, self._pool.name
        if ready >= size:
            return f"all workers of pool {name!r} were busy"
        if ready:
            return f"only {ready} of {size} workers of pool {name!r} were ready, and all were busy"
        if self._fd >= 0 and self._template is not None:
            doing = self._template.doing()
            return f"no worker of pool {name!r} was ready, because its template still {doing}"
        return f"no worker of pool {name!r} was ready, they were still starting"
