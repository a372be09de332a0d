# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.segment_table cimport SegmentTable


cdef class SharedSegments(SegmentTable):
    """The segments of an arena that several processes view at once (see `shared_segments.pyx`)."""
    cdef dict shared                    # address -> SharedSegment, of this process's shared arrays
    cdef list shared_starts             # their addresses, sorted

    cdef SharedSegment begin_sharing(self, uint32_t index, uint64_t word, uint64_t size, bint writable)
    cdef int remember(self, SharedSegment segment) except -1
    cdef bint has_shared(self) noexcept
    cdef SharedSegment find_shared(self, char *address, uint64_t size)
    cdef SharedSegment open_shared(self, uint32_t index)


cdef class SharedSegment:
    """Memory that several processes view at once; exports a buffer that is read-only where the sharer said so."""
    cdef readonly SharedSegments arena
    cdef readonly uint32_t index
    cdef readonly uint64_t size
    cdef readonly bint writable
    cdef bint ours                      # this process made it
    cdef char *base
    cdef object __weakref__
