# cython: language_level=3
from libc.stdint cimport uint8_t, uint64_t


cdef class SessionEnds:
    """How many sessions of a pool have ended so far: who remembers one notices by that."""
    cdef uint64_t count


cdef class CallView:
    """Submits calls into a pool under given terms, and uses the session that they name."""
    # What each call reads, side by side (see `view.pyx`).
    cdef uint64_t session               # its key; 0: none
    # Until when the last use of the session counts for the calls that follow, if no session ends meanwhile.
    cdef uint64_t fresh_until_ns
    cdef uint64_t ends
    cdef uint64_t place                 # address of the scheduler's notes on the session at its last call: only to be fetched
    cdef uint8_t priority
    cdef uint8_t affinity
    cdef bint plain                     # the terms say no more than the above, and the pool takes a view in their place
    cdef readonly object _pool
    cdef readonly SessionEnds _uses     # the SessionUses of the pool
    cdef object session_key             # kept by the calls under way: the view itself keeps an executor
    cdef readonly object _terms
    cdef object executor                # kept: an executor that nobody holds closes its pool
    cdef object __weakref__
