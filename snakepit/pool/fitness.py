"""Asking the adapters of a pool's workers whether they are fit, each in its own worker."""

from __future__ import annotations

import os
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING

from snakepit.adapters.host import check_health
from snakepit.pool.terms import Terms

if TYPE_CHECKING:
    from snakepit.pool.pool import ProcessPool


def ask_workers(engine: ProcessPool, timeout: float) -> dict[int, bool | None]:
    """Return each worker's answer by its id, and have those replaced that are not fit.

    None: it gave none within `timeout` seconds, for it is busy with a call.
    """
    workers = engine.lifecycle_stats().workers
    answers: dict[int, bool | None] = {
        worker.id: None for worker in workers if worker.state in ("idle", "busy")
    }
    idle = {worker.pid: worker.id for worker in workers if worker.state == "idle"}
    futures = []
    for number, lane in enumerate(idle.values(), 1):
        # A session of its own is what takes a call to a certain worker, if that is free. Its number
        # is made of what no session's name gives.
        session = (1 << 63) | (os.getpid() << 32) | number
        engine.scheduler.prefer_lane(session, lane)
        terms = Terms(timeout=timeout, session=session, cancel_running=True)
        futures.append(engine.submit(check_health, (), {}, terms))
    done, late = wait(futures, timeout)
    for future in late:
        future.cancel()
    for future in done:
        if future.cancelled() or future.exception() is not None:
            continue
        pid, fit, reason = future.result()
        # Another worker may have taken the call; it has said so of itself.
        answered = idle.get(pid)
        if answered is None:
            continue
        answers[answered] = fit
        if not fit:
            engine.supervisor.tell(partial(engine.supervisor.recycler.unfit, answered, pid, reason))
    return answers
