"""The end of pools: the interpreter's exit, and what Ctrl-C does to the waiting for it."""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401 - registers its hook
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from snakepit.lifecycle.registry import registry
from snakepit.pool import process_life as processes

if TYPE_CHECKING:
    from snakepit.pool.local import LocalPool
    from snakepit.pool.process_life import ProcessLife

PATIENCE = 1.0  # seconds that the registry's writer has

_interrupted = False  # by Ctrl-C, while the interpreter waited for the pools


def end_interrupted(pools: Iterable[ProcessLife | LocalPool], *, again: bool = False) -> None:
    """After Ctrl-C: stop what runs, and wait until the pools are gone; at one more, kill.

    `again`: this is the second, so kill at once.
    """
    pools = list(pools)
    while True:
        try:
            for pool in pools:
                if again:
                    pool.end_workers(signal.SIGKILL)
                else:
                    pool.give_up()
            for pool in pools:
                pool.join()
            return
        except KeyboardInterrupt:
            again = True


def end_all() -> None:
    """Close all pools, wait until they are gone, and let what became of them be written down.

    Their calls are done first, unless Ctrl-C ended the program, or comes meanwhile.
    """
    global _interrupted
    last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    ended = isinstance(last, KeyboardInterrupt)
    try:
        if ended or _interrupted:
            end_interrupted(_running())
        else:
            # What runs in processes may call into this one, so its threads are the last to end.
            _end(processes.running())
            _end(_running_here())
        registry.flush(PATIENCE)
    except KeyboardInterrupt:
        _interrupted = True
        # The interpreter would only print a traceback of its own innards for it.
        print("KeyboardInterrupt: the calls still under way are given up", file=sys.stderr)
        end_interrupted(_running())
        registry.flush(PATIENCE)
    # What a session of the interpreter showed last is not why it ends.
    if _interrupted or (ended and not hasattr(sys, "ps1")):
        _note_interrupt()


def _running() -> list[ProcessLife | LocalPool]:
    return [*processes.running(), *_running_here()]


def _running_here() -> list[LocalPool]:
    running_here = getattr(sys.modules.get("snakepit.pool.local"), "running", None)
    return [] if running_here is None else running_here()


def _end(pools: Iterable[ProcessLife | LocalPool]) -> None:
    for pool in pools:
        pool.close()
    for pool in pools:
        pool.join()


def _note_interrupt() -> None:
    """Let the interpreter end as Ctrl-C ends it: by SIGINT, which a shell reports as 130.

    CPython notes for that that the program raised KeyboardInterrupt, and forgets it when anybody
    executes a text (`run_eval_code_obj`): each dataclass or namedtuple of a module that is imported
    at the exit does. A text that raises it is noted again.
    """
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        pass


# `snakepit.executor` has it called before threads are joined. This is once more after that, for
# pools that such a thread started, but still before multiprocessing's own hook, which would wait
# for the workers for ever.
atexit.register(end_all)
