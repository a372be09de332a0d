# cython: language_level=3
from libc.stdint cimport uint64_t


cdef class Mapping:
    """One shared, writable mapping of a range of an anonymous file; unmapped when the object dies."""
    cdef char *base
    cdef readonly uint64_t size


cdef char *map_range(int fd, uint64_t offset, uint64_t size) except NULL
