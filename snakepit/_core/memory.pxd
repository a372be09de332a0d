# cython: language_level=3
from libc.stdint cimport uint64_t


cdef class Mapping:
    """One shared, writable mapping of a range of an anonymous file; unmapped when the object dies."""
    cdef char *base
    cdef readonly uint64_t size


cdef char *map_range(int fd, uint64_t offset, uint64_t size) except NULL


# Zeroed memory of this process that goes back to the system as a whole, for tables that live as long as a pool: what
# malloc keeps of them would make a process grow that starts and stops pools.
cdef char *map_private(uint64_t size) except NULL
cdef void unmap_private(char *base, uint64_t size) noexcept nogil
