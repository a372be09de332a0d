# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.control cimport Control
from snakepit._core.layout cimport Lane

# What `Claimant.take` returns instead of a slot.
cdef enum:
    RETIRE = 0xFFFFFFFE                 # the lane shall end
    SIGNALLED = 0xFFFFFFFD              # a signal came
    EXAMINE = 0xFFFFFFFC                # the owner wants to know how the worker is


cdef class Claimant:
    """One thread of a worker, seen from the queues: it finds a task and claims it, or waits (see `claimant.pyx`)."""
    cdef readonly Control control
    cdef readonly uint32_t index
    cdef Lane *me
    cdef uint32_t slot                  # the claimed one
    cdef uint64_t generation
    cdef uint64_t turns
    cdef uint64_t spin_ns               # how long the next spin lasts
    cdef uint64_t idle_since_ns         # when work ran out; 0 while there is some
    cdef uint64_t unseen_ns             # how long, about, the work that ended the last doze had lain there
    cdef uint32_t dozes                 # in a row, without work between
    cdef bint slept                     # since the last claim
    cdef bint patient                   # looked up by itself from a doze, while others claim: leaves them what they soon take
    cdef uint64_t started_ns
    cdef bint searching, running        # what our bits say

    cdef uint32_t take(self) noexcept nogil
    cdef uint32_t find(self) noexcept nogil
    cdef bint leaves_shared(self) noexcept nogil
    cdef uint64_t claims_so_far(self) noexcept nogil
    cdef bint sees_work(self) noexcept nogil
    cdef uint32_t steal(self) noexcept nogil
    cdef void note_claim(self) noexcept nogil
    cdef void wake_another(self) noexcept nogil
    cdef uint32_t obey(self) noexcept nogil
    cdef bint must_obey(self) noexcept nogil
    cdef bint sees_spare(self) noexcept nogil
    cdef bint hand_over(self) noexcept nogil
    cdef void put_down(self) noexcept nogil
    cdef void depart(self) noexcept nogil
    cdef bint has_offer(self) noexcept nogil
    cdef bint spin(self) noexcept nogil
    cdef int sleep(self) noexcept nogil
