# cython: language_level=3
from libc.stdint cimport uint32_t

from snakepit._core.control cimport Control
from snakepit._core.layout cimport Lane


cdef class Roster:
    """Which lanes serve, which are held as spares, and what each is told (see `roster.pyx`)."""
    cdef readonly Control control
    cdef readonly uint32_t threads      # lanes of one worker

    cdef Lane *first_of(self, uint32_t lane) noexcept nogil
    cpdef uint32_t taking(self, uint32_t lane)
    cdef bint counts(self, Lane *lane) noexcept nogil
    cdef bint swap_orders(self, uint32_t lane, uint32_t old, uint32_t new) noexcept
