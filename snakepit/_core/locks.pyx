# cython: language_level=3
"""Locks for threads in which TaskInterrupt may be raised (see `interrupts.pyx`).

A lock that Python code takes may be lost: the interrupt comes between two bytecodes, after the lock was taken and before
the `with` knows of it, or on the way into its `__exit__`. Compiled, both are one step.
"""
from libc.stdint cimport uint64_t

from snakepit._core.atomics cimport now_ns
from snakepit._core.interrupts cimport hold, release

from _thread import RLock

# Seconds after which a thread that waits looks up, for no interrupt wakes it: a part of the grace that a task has to see
# that it is to stop (`Graces.flag`).
GLANCE = 0.02
cdef object glance = GLANCE


cdef class HoldingLock:
    """A re-entrant lock whose holder is not interrupted before it lets go: for what must not be left half done.

    A `threading.Condition` may have it, and is safe then in itself. Who waits for a condition holds interrupts off, too,
    and has to wait in steps, each in a `with` of its own, or look for itself whether it is to stop.
    """

    def __cinit__(self):
        self.lock = RLock()

    def acquire(self, blocking=True, timeout=-1) -> bool:
        """Take the lock, as `threading.RLock` does."""
        hold()
        try:
            if self.lock.acquire(blocking, timeout):
                return True
        except BaseException:
            release()
            raise
        release()
        return False

    def release(self) -> None:
        """Let go of the lock; raises TaskInterrupt if one came meanwhile."""
        self.lock.release()
        release()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_error):
        # Not held: Ctrl-C has struck in a condition's `wait`, between letting go of the lock and its own `try`.
        if self.lock._is_owned():
            self.lock.release()
        release()

    # What a condition asks of its lock.

    def _release_save(self):
        return self.lock._release_save()

    def _acquire_restore(self, state):
        self.lock._acquire_restore(state)

    def _is_owned(self):
        return self.lock._is_owned()


cdef class CountingLock:
    """A re-entrant lock, as a context manager, that counts how often it was taken and waited for.

    Who waits for it, and who holds it, can be interrupted; it is let go of all the same. Its counts change only under it.
    """

    def __cinit__(self):
        self.lock = RLock()

    def __enter__(self):
        cdef uint64_t began
        cdef bint contended = not self.lock.acquire(False)
        if contended:
            began = now_ns()
            while not self.lock.acquire(True, glance):
                hold()
                release()
            self.waited_ns += now_ns() - began
        self.acquired += 1
        self.contended += contended
        return self

    def __exit__(self, *_error):
        self.lock.release()

    def is_mine(self) -> bool:
        """Whether the calling thread holds the lock."""
        return self.lock._is_owned()

    @property
    def waited(self) -> float:
        """Seconds for which threads have waited for it."""
        return self.waited_ns * 1e-9
