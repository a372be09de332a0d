# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena
from snakepit._core.channel cimport Channel
from snakepit._core.counters cimport Histogram
from snakepit._core.mailbox cimport Mailbox
from snakepit._core.placement cimport Placement
from snakepit._core.task cimport Task


cdef class Settlement(Placement):
    """Takes what workers have done off the completion list and settles it (see `settlement.pyx`)."""
    cdef readonly Arena arena
    cdef readonly Channel channel
    cdef readonly Mailbox mailbox
    cdef object on_idle                 # what the pool wants to hear
    cdef public object on_enclosed      # takes what an answer encloses, where sessions move
    cdef public object explain          # (task, verdict, lane or -1) -> the error of a strict call that is refused
    cdef uint32_t backlog               # completed slots taken off the shared list, not yet handled: index + 1; under
                                        # the mutex
    cdef object verdicts                # (task, error): failed by the supervisor, to be settled by whoever collects
    cdef uint32_t n_verdicts            # of these, what is not settled yet
    # Statistics; changed by single atomic additions.
    cdef uint64_t n_completed, n_failed, bytes_out
    cdef readonly Histogram latency, running_time

    cdef uint32_t take_completed(self, uint32_t *batch, uint32_t most) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef int finish(self, uint32_t index) except -1
    cdef object take_outcome(self, uint32_t index)
    cdef void note_running_time(self, uint64_t ran) noexcept nogil
    cdef int refuse(self, Task task, int verdict) except -1
    cdef int fail_doomed(self) except -1
    cdef bint pass_verdicts(self) except -1
    cdef uint64_t outstanding(self) noexcept nogil
