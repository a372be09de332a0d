"""The entry of a worker process, however it was started."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

from snakepit._core.constants import MAIL_FAILED, MAIL_READY, MAIL_WORN
from snakepit.worker import signals

LINGER = 1.0  # seconds that threads left by tasks have to end with a worker that is replaced


class PassedDescriptor:
    """A descriptor that goes with a process object to the process it starts."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (reduction.DupFd(self.fd),)


def _receive(duplicate: Any) -> PassedDescriptor:
    return PassedDescriptor(duplicate.detach())


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker has to know to join its pool."""

    pool: str
    lane: int
    client: int
    control: PassedDescriptor
    arena: PassedDescriptor
    lifeline: PassedDescriptor
    link: PassedDescriptor
    recording: PassedDescriptor
    threshold: int
    patience: float
    initializer: bytes | None  # pickled (function, args)
    env: dict[str, str]
    max_tasks: int | None
    worn_after: int | None  # tasks after which it says that it needs a successor
    workers: int  # calls that the pool runs at once
    run_id: str
    threads: int = 0  # that run tasks, on the lanes from `lane` on; 0: the main thread alone does


def worker_main(spec: WorkerSpec) -> None:
    """Join the pool, run the initializer, then tasks until told to end; then end in time."""
    code = 1
    try:
        _join_and_serve(spec)
        code = 0
    finally:
        _end_in_time(code)


def _join_and_serve(spec: WorkerSpec) -> None:
    from snakepit._core.arena import Arena
    from snakepit._core.channel import Channel
    from snakepit._core.control import Control
    from snakepit._core.definitions import DefinitionReader
    from snakepit._core.lane import WorkerLane
    from snakepit._core.lifeline import end_descendants, hold_lifeline
    from snakepit._core.stacks import serve_stacks
    from snakepit.pool.memory import set_arena
    from snakepit.worker import context, loop, orphan, priority
    from snakepit.worker.recording import start_recording, watch_calls

    leave_owner(spec)
    # Its thread has the class of the one that starts it, and may never have to wait.
    in_no_hurry = priority.become_ordinary()
    hold_lifeline(spec.lifeline.fd, int(orphan.GRACE * 1000), context.INTERRUPT_SIGNAL)
    orphan.note_lifeline(spec.lifeline.fd)
    start_recording(spec.recording.fd)
    if in_no_hurry:
        priority.become_idle()
    arena = Arena(spec.arena.fd, spec.client)
    set_arena(arena)
    control = Control(spec.control.fd)
    channel = Channel(arena, spec.threshold, spec.patience, _careful_dumps)
    definitions = DefinitionReader(control, arena, pickle.loads)
    if spec.threads:
        from snakepit.worker.threads import Crew

        Crew(spec, control, arena, definitions).run()
        return
    lane = WorkerLane(control, channel, definitions, spec.lane)
    watch_calls(lane)
    context.enter(lane, spec.link.fd, spec.workers, orphan.make_handler(lane, control))
    priority.become_ordinary()
    serve_stacks(control, spec.lane, os.getpid())
    if not run_initializer(spec, lane):
        return
    lane.announce(os.getpid())
    lane.post(MAIL_READY, os.getpid())
    worn = False
    with orphan.ends_quietly():
        if spec.worn_after is not None:
            if not loop.run(lane, spec.worn_after):
                _end(lane)
                return
            lane.post(MAIL_WORN, os.getpid())
        worn = loop.run(lane, spec.max_tasks)
    if worn:
        # Not idly: others may wait for its lane.
        lane.leave()
        context.run_at_end()
        end_descendants()
    else:
        _end(lane)


def _end(lane: Any) -> None:
    from snakepit._core.lifeline import end_descendants
    from snakepit.worker.context import run_at_end

    run_at_end()
    if lane.replaced:
        from snakepit.worker.priority import become_idle

        become_idle()
    end_descendants()


def _end_in_time(code: int) -> None:
    """Have this process end soon, whatever threads tasks have left in it.

    The interpreter would wait for each of them, and who comes next waits for our place. At the end
    of the pool nobody does, and its owner sees to the time.
    """
    from snakepit.worker.context import home_lane

    if threading.active_count() == 1 or home_lane().dismissed:
        return
    with contextlib.suppress(RuntimeError):  # No room for another thread: the owner ends us.
        threading.Thread(target=_end_late, args=(code,), daemon=True).start()


def _end_late(code: int) -> None:
    from multiprocessing import util

    from snakepit.worker.priority import become_ordinary

    become_ordinary()
    time.sleep(LINGER)
    util._flush_std_streams()  # type: ignore[attr-defined]
    os._exit(code)


def run_initializer(spec: WorkerSpec, lane: Any) -> bool:
    """Run the pool's initializer, if it has one; False, and the owner told, if it raised."""
    if spec.initializer is not None:
        try:
            initializer, initargs = pickle.loads(spec.initializer)
            initializer(*initargs)
        except BaseException as error:
            report_failure(lane, error)
            return False
    return True


def leave_owner(spec: WorkerSpec) -> None:
    """Cut what ties a fresh process to its owner's terminal, signals and descriptors."""
    # A group of its own: Ctrl-C in the terminal is the owner's business, and the group can be ended
    # as a whole.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    signals.ignore(signal.SIGINT)
    signals.set_default(signal.SIGTERM, signal.SIGCHLD)
    signals.unblock_all()
    signal.set_wakeup_fd(-1)
    # One by one: `update` would touch pages that nothing else in a worker needs.
    for name, value in spec.env.items():
        os.environ[name] = value
    # By these is found what outlives the worker (worker/keeper.py, lifecycle/orphans.py).
    os.environ["SNAKEPIT_RUN_ID"] = spec.run_id
    os.environ["SNAKEPIT_WORKER"] = f"{spec.run_id}:{os.getpid()}"


def report_failure(lane: Any, error: BaseException) -> None:
    """Tell the owner why this worker cannot start."""
    from snakepit.worker.loop import portable

    text = "".join(traceback.format_exception(error))
    lane.post(MAIL_FAILED, os.getpid(), (portable(error, text), text))
    sys.stderr.flush()


def _careful_dumps(value: Any, buffer_callback: Any) -> bytes:
    from snakepit.pickling import careful_dumps

    return careful_dumps(value, buffer_callback)
