# cython: language_level=3
from libc.stdint cimport uint64_t


cdef class HoldingLock:
    """Holds interrupts off as long as it is held (see `locks.pyx`)."""
    cdef object lock


cdef class CountingLock:
    """Counts how often it was taken and waited for (see `locks.pyx`)."""
    cdef object lock
    cdef readonly uint64_t acquired
    cdef readonly uint64_t contended    # how often it was not to be had at once
    cdef uint64_t waited_ns
