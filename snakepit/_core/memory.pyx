# cython: language_level=3
"""Anonymous shared memory: files that have no name and die with their last user.

On Linux a memfd. Elsewhere, or with SNAKEPIT_SHARED_MEMORY=file, a temporary file that is unlinked before anybody
can see it. Both are passed on by descriptor, so there is nothing to clean up after a crash and no entry in /dev/shm.
"""
import os

from libc.errno cimport errno
from libc.stdint cimport uint64_t

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED


def memory_kind() -> str:
    """Return "memfd" or "file": what `create_memory` makes in this process."""
    wanted = os.environ.get("SNAKEPIT_SHARED_MEMORY", "")
    if wanted not in ("", "memfd", "file"):
        raise ValueError(f"SNAKEPIT_SHARED_MEMORY={wanted!r}: expected 'memfd' or 'file'")
    if wanted == "file" or not hasattr(os, "memfd_create"):
        return "file"
    return "memfd"


def create_memory(str name, uint64_t size) -> int:
    """Create an anonymous file of `size` bytes (sparse: untouched pages cost nothing) and return its descriptor."""
    if memory_kind() == "memfd":
        fd = os.memfd_create(f"snakepit-{name}", os.MFD_CLOEXEC)
    else:
        import tempfile  # Only here: it brings more along than the rest of the core.

        fd, path = tempfile.mkstemp(prefix=f"snakepit-{name}-")
        os.unlink(path)
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


cdef char *map_range(int fd, uint64_t offset, uint64_t size) except NULL:
    cdef void *address
    with nogil:
        address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, <long>offset)
    if address == MAP_FAILED:
        raise OSError(errno, f"cannot map {size} bytes of shared memory: {os.strerror(errno)}")
    return <char *>address


cdef char *map_private(uint64_t size) except NULL:
    cdef void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if address == MAP_FAILED:
        raise MemoryError(f"cannot map {size} bytes: {os.strerror(errno)}")
    return <char *>address


cdef void unmap_private(char *base, uint64_t size) noexcept nogil:
    munmap(base, size)


cdef class Mapping:
    def __cinit__(self, int fd, uint64_t size):
        self.base = map_range(fd, 0, size)
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
