# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.layout cimport Definition, Header, Lane, Ring, Slot, StackPage
from snakepit._core.memory cimport Mapping


cdef class Control:
    """The mapped control block of one pool, with a pointer to each of its parts (see `layout.pxd`)."""
    cdef Mapping mapping
    cdef readonly int fd
    cdef Header *header
    cdef Lane *lanes
    cdef Slot *slots                # calls first, then mail
    cdef Definition *definitions
    cdef char *payloads
    cdef char *names                # of the definitions
    cdef StackPage *stacks          # one a lane
    cdef uint32_t n_slots, n_mail, n_lanes, payload_stride

    cdef uint64_t *cells(self, Ring *ring) noexcept nogil
    cdef uint8_t *payload(self, uint32_t slot, uint64_t length) noexcept nogil
    cdef bint has_work(self, uint32_t lane) noexcept nogil
    cdef bint has_bound(self, uint32_t lane) noexcept nogil
    cdef bint has_shared(self) noexcept nogil
    cdef bint is_away(self, uint32_t lane, bint patient) noexcept nogil
    cdef bint is_engaged(self, uint32_t lane) noexcept nogil
    cdef bint has_stranded(self, uint32_t lane, bint patient) noexcept nogil
    cdef void rouse(self, uint32_t lane) noexcept nogil


cdef int write_name(char *place, str name) except -1
