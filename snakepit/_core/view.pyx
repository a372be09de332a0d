# cython: language_level=3
"""The first step of a call that is made through a view: is the use of its session fresh, and on into the pool.

A session's time to live begins anew with each call that names it. What that costs in the store is several times what a
call costs, so one use counts for those that follow within a moment. Where thousands of sessions are called in turn, what
is known of one is in none of the CPU's caches when its turn comes, and each object of its own is a miss: so all that a
call reads of its terms lies side by side.
"""
cimport cython
from libc.stdint cimport uint64_t

from snakepit._core.atomics cimport add64, load64, now_ns, prefetch, store64


cdef class SessionEnds:
    def note_end(self) -> None:
        """Count a session that has ended. Thread-safe."""
        add64(&self.count, 1)

    @property
    def ends(self) -> int:
        """How many sessions have ended so far."""
        return load64(&self.count)


cdef class CallView:
    def __init__(self, pool, terms, executor=None):
        self.priority = terms.priority
        self.affinity = terms.affinity
        self.plain = terms.plain and not pool.runs_in_threads
        self._pool = pool
        self._uses = pool.uses
        self._terms = terms
        self.executor = executor
        self.session_key = terms.session
        self.session = terms.session

    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def submit(self, fn, /, *args, **kwargs):
        """Queue the call `fn(*args, **kwargs)` and return its future.

        Raises PoolShutdownError; SessionQuotaError if it is of a strict session that would be one too many.
        """
        if self.session:
            prefetch(<const void *>load64(&self.place))
            prefetch(<void *>self.session_key)
            if (load64(&self.ends) != load64(&self._uses.count)
                    or now_ns() >= load64(&self.fresh_until_ns)):
                self._use_session()
        if self.plain:
            return self._pool.submit(fn, args, kwargs, None, self)
        return self._pool.submit(fn, args, kwargs, self._terms)

    def _use_session(self) -> None:
        """Use the session that the terms name, if they name one."""
        raise NotImplementedError

    def _note_use(self, uint64_t ends, double seconds) -> None:
        """The session was used after so many ends, which holds for that long."""
        store64(&self.fresh_until_ns, now_ns() + <uint64_t>(seconds * 1e9))
        store64(&self.ends, ends)
