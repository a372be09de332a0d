# cython: language_level=3
"""Whether this process is a forked child of the one that made something.

A child has a copy of every object and shares what is in shared memory, so what it did to a pool of its parent's would
happen to its parent: queued calls would be withdrawn, results taken by who cannot pass them on. And it has none of the
pool's threads, so a wait would never end; its locks may have been held by one of them, so this is asked before any.
"""
import os
import sys
import traceback

from snakepit.errors import ForkedPoolError


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef int refuse() except -1:
    raise ForkedPoolError(
        "this process forked from the one that made the pool, whose calls and workers are not its own; make a pool of "
        "its own here, or hand results over by other means",
        details={"pid": os.getpid()},
    )


def end_child(error: BaseException | None, str text=None) -> None:
    """End this process, a forked child that came back from a task as its parent will, as Python ends a program.

    Without its clean-up, which is the parent's. `text`: the traceback of the error, where it has none of its own.
    """
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    elif error is not None:
        code = 1
        if sys.stderr is not None:
            print(text or "".join(traceback.format_exception(error)), file=sys.stderr, end="")
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(code)
