# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.channel cimport Channel
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport Header
from snakepit._core.ring cimport RingHead
from snakepit._core.task cimport Message

cdef enum:
    SLICE_NS = 100_000_000              # the longest that a writer sleeps before it looks whether it was stopped


cdef class ChunkWriter:
    """The writing end, in the worker, for one call."""
    cdef WorkerLane lane
    cdef Channel channel
    cdef Header *control
    cdef RingHead *head
    cdef char *records
    cdef uint32_t born
    cdef uint64_t deadline_ns
    cdef Message message
    cdef uint64_t consumed, freed, bytes_out    # what the reader is known to have done: chunks, position, bytes
    cdef uint64_t spin_ns
    cdef list kept                      # (chunk's number, shared arrays that it names), unread as far as known

    cdef bint put(self, object chunk) except -1
    cdef int encode(self, object chunk) except -1
    cdef bint has_room(self, uint64_t size, uint64_t length) noexcept nogil
    cdef bint is_read(self, uint64_t number) noexcept nogil
    cdef bint await_reader(self, uint64_t size, uint64_t length, uint64_t number) except -1
    cdef int rest(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil
    cdef bint may_go_on(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil
    cdef void write(self, uint64_t size) noexcept
    cdef int rouse_reader(self) except -1
    cdef int drop_read(self) except -1
