# cython: language_level=3
from libc.stdint cimport uint64_t

from snakepit._core.definitions cimport Published
from snakepit._core.settlement cimport Settlement
from snakepit._core.task cimport Task


cdef class Scheduler(Settlement):
    """Where a pool's calls enter, and what of them can be asked and undone (see `scheduler.pyx`)."""
    cdef dict known
    cdef uint64_t armed_ns              # the earliest `due_ns` that the pool knows of, if not later than all there are;
                                        # under the mutex
    cdef object on_due                  # told of an earlier one
    cdef object why_broken              # makes the error of every call, once the pool has given up; under the mutex
    # Statistics; changed by single atomic additions.
    cdef uint64_t n_submitted, n_cancelled, next_number

    cpdef submit(self, Task task, Published definition, function, tuple args, dict kwargs)
    cdef int keep_close(self, Task task, int affinity) except -1
    cpdef set_terms(self, Task task, timeout, int priority, session, int affinity=*)
    cpdef set_limits(self, Task task, uint64_t timeout_ns, uint64_t patience_ns)
    cdef int enter(self, Task task, bint from_worker=*) except -1
