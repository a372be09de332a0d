# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.shared_segments cimport SharedSegments


cdef class Arena(SharedSegments):
    """Shared memory for everything that is too large for a slot, as one process sees it (see `arena.pyx`)."""

    cdef Segment allocate(self, uint64_t size, uint64_t deadline)
    cdef Segment adopt(self, uint32_t index, uint64_t size)
    cdef Segment take_over(self, uint32_t index, uint64_t word, uint64_t size)
    cdef Segment copy_of(self, uint32_t index, uint64_t size, uint64_t deadline)
    cdef void hand_over(self, Segment segment, int client) noexcept nogil


cdef class Segment:
    """Memory in the arena that this process holds; exports a writable buffer of `size` bytes.

    The memory goes back to the arena when the object dies, that is, when the last view of it dies.
    """
    cdef readonly Arena arena
    cdef readonly uint32_t index
    cdef readonly uint64_t size
    cdef uint64_t word                  # the state word while we hold it; 0: held no more
    cdef char *base

    cdef void forget(self) noexcept nogil
