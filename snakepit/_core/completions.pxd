# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.control cimport Control
from snakepit._core.task cimport Owner, Task


cdef enum:
    THREAD_BELL = 1                     # what the collector thread sleeps on
    HELPER_BELL = 2                     # what a caller who has its role sleeps on


cdef class Completions(Owner):
    """Who takes finished calls off the completion list, and who wakes whom (see `completions.pyx`)."""
    cdef readonly Control control
    cdef uint32_t helper                # 1 while a caller has the collector's role
    cdef uint32_t patrol                # 1 while the collector thread only looks in now and then
    cdef uint32_t helped                # how many times a caller helped
    cdef uint32_t waiting_callers       # callers asleep on their own task
    cdef uint32_t observers             # somebody cannot help: outcomes must come by the thread
    cdef uint32_t dismissed
    cdef uint64_t spin_ns
    cdef uint64_t glance_ns             # how long the next glance lasts
    cdef uint64_t company_ns            # when last another thread called than the time before
    cdef unsigned long last_caller
    cdef uint64_t last_left_ns

    cdef int collect(self, Task wanted=*) except -1
    cdef bint has_completed(self) noexcept nogil
    cdef void arm(self) noexcept nogil
    cdef void nudge(self, uint32_t bell) noexcept nogil
    cdef uint64_t glances_until(self) noexcept
    cdef bint glance(self, Task task, uint64_t until) noexcept
    cdef int collect_beside(self, Task task) except -1
    cdef int await_done(self, Task task, uint64_t deadline, bint first) noexcept nogil
    cdef int leave(self, Task task) except -1
    cdef int sleep_on_task(self, Task task, uint64_t deadline, bint first) except -1
