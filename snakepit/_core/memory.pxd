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


# Give memory to a range of an anonymous file, so that a lack of it is an error here and not a SIGBUS at first touch; take
# it away again. 0, or an errno.
cdef int commit_range(int fd, uint64_t offset, uint64_t size) noexcept nogil
cdef int decommit_range(int fd, uint64_t offset, uint64_t size) noexcept nogil
# Which file a descriptor stands for. 0, or an errno.
cdef int identify(int fd, uint64_t *device, uint64_t *inode) noexcept nogil
# Fill the page table at once: a fault a page makes a first copy ten times slower. A hint: errors do not count.
cdef void populate(void *address, uint64_t size) noexcept nogil
