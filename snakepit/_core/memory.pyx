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

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>

    static int sp_commit(int fd, uint64_t offset, uint64_t size) {
    #if defined(__linux__)
        int status;
        do { status = fallocate(fd, 0, (off_t)offset, (off_t)size); } while (status != 0 && errno == EINTR);
        if (status == 0 || errno != EOPNOTSUPP) return status == 0 ? 0 : errno;
    #endif
        return posix_fallocate(fd, (off_t)offset, (off_t)size);
    }
    static int sp_decommit(int fd, uint64_t offset, uint64_t size) {
    #if defined(__linux__)
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) == 0 ? 0 : errno;
    #else
        return ENOTSUP;
    #endif
    }
    static int sp_identify(int fd, uint64_t *device, uint64_t *inode) {
        struct stat found;
        if (fstat(fd, &found) != 0) return errno;
        *device = (uint64_t)found.st_dev;
        *inode = (uint64_t)found.st_ino;
        return 0;
    }
    static void sp_populate(void *address, uint64_t size) {
    #if defined(__linux__) && !defined(MADV_POPULATE_WRITE)
    #define MADV_POPULATE_WRITE 23
    #endif
    #if defined(MADV_POPULATE_WRITE)
        int saved = errno;
        madvise(address, size, MADV_POPULATE_WRITE);
        errno = saved;
    #else
        (void)address; (void)size;
    #endif
    }
    """
    int sp_commit(int fd, uint64_t offset, uint64_t size)
    int sp_decommit(int fd, uint64_t offset, uint64_t size)
    int sp_identify(int fd, uint64_t *device, uint64_t *inode)
    void sp_populate(void *address, uint64_t size)


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


cdef int commit_range(int fd, uint64_t offset, uint64_t size) noexcept nogil:
    return sp_commit(fd, offset, size)


cdef int decommit_range(int fd, uint64_t offset, uint64_t size) noexcept nogil:
    return sp_decommit(fd, offset, size)


cdef int identify(int fd, uint64_t *device, uint64_t *inode) noexcept nogil:
    return sp_identify(fd, device, inode)


cdef void populate(void *address, uint64_t size) noexcept nogil:
    sp_populate(address, size)


cdef class Mapping:
    def __cinit__(self, int fd, uint64_t size):
        self.base = map_range(fd, 0, size)
        self.size = size

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)
