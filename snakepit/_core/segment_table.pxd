# cython: language_level=3
"""An arena's shared table: which process holds which segment.

The life of a segment. Every step is one compare-and-swap of `SegmentEntry.state`, which names the process that holds
it:

    (carved) --> EMPTY --take--> HELD by one process --release--> FREE (memory kept) --take--> HELD ...
                   ^                |      |                        |
                   |                |      +--share--> SHARED --last user lets go--> FREE
                   +---- trim ------+------------------ trim -------+
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MAX_SEGMENTS = 16384
    MAX_CLIENTS = 1024                  # processes that use the arena at once; 0 is the owner
    CLIENT_WORDS = MAX_CLIENTS // 64
    SIZE_CLASSES = 140
    NO_SEGMENT = 0xFFFFFFFF
    PAGE = 4096
    SLAB = 16 << 20                     # small segments share the mapping of their slab

# State of a segment, the low byte of its state word.
cdef enum:
    UNUSED = 0
    EMPTY = 1
    FREE_SEGMENT = 2
    HELD = 3
    SHARED = 4                          # the owner of the array still has it
    ORPHANED = 5                        # shared, dropped by its owner, still viewed by workers
    BUSY = 6                            # somebody is committing or trimming it

cdef struct SegmentEntry:
    uint64_t state                      # generation << 24 | client << 8 | state
    uint64_t offset                     # in the file
    uint64_t capacity                   # bytes of address space; fixed once carved
    uint64_t committed                  # bytes that have memory; changed by the holder only
    uint32_t next                       # next of its size class (index + 1)
    uint32_t size_class
    uint32_t writable                   # shared: whether workers may write
    uint32_t _pad
    uint64_t viewers[CLIENT_WORDS]      # shared: a bit for each client that has views

cdef struct ArenaHeader:
    uint64_t magic
    uint64_t size                       # bytes of the file
    uint64_t data                       # offset of the first segment
    uint64_t budget                     # most bytes committed
    uint64_t retain                     # most bytes kept in FREE segments
    uint32_t lock                       # 0, or client + 1: carving and committing
    uint32_t count                      # segments carved
    uint32_t freed                      # futex word: grows when memory comes back while somebody waits
    uint32_t waiting                    # 1: somebody waits; whoever tells of memory clears it first
    uint64_t top                        # end of the carved range
    uint64_t slab, slab_end             # the range that small segments are carved from
    uint32_t classes[SIZE_CLASSES]      # newest segment of each size class (index + 1)
    uint32_t hints[SIZE_CLASSES]        # the one freed last (index + 1)


cdef class SegmentTable:
    """The table, and the memory of the segments, as one process sees them (see `segment_table.pyx`)."""
    cdef readonly int fd
    cdef readonly int client            # this process's number
    cdef int pid
    cdef uint64_t device, inode         # of the file, which another may take the place of (see `file_status`)
    cdef ArenaHeader *header
    cdef SegmentEntry *entries
    cdef char **segments                # where a large segment is mapped here, by index
    cdef char **slabs                   # where a slab is mapped here, by offset // SLAB
    cdef object mapping
    cdef object map_lock

    cdef uint32_t take(self, uint32_t size_class, uint64_t size) noexcept nogil
    cdef void release(self, uint32_t index, uint64_t word) noexcept nogil
    cdef void decommit(self, uint32_t index) noexcept nogil
    cdef void tell_waiters(self) noexcept nogil
    cdef int lock(self) except -1
    cdef void unlock(self) noexcept nogil
    cdef uint64_t committed(self) noexcept nogil
    cdef bint under_pressure(self) noexcept nogil
    cdef bint commit(self, uint32_t index, uint64_t word, uint64_t size) except -1
    cdef void trim(self, uint64_t wanted) noexcept nogil
    cdef uint32_t carve(self, uint32_t size_class, uint64_t capacity) except? 0xFFFFFFFF
    cdef int file_status(self) noexcept nogil
    cdef int require_file(self) except -1
    cdef char *address_of(self, uint32_t index) except NULL
    cdef void let_go(self, uint32_t index) noexcept nogil
    cdef void entrust(self, uint32_t index, int holder) noexcept nogil
    cdef void entrust_word(self, uint32_t index, uint64_t word, int holder) noexcept nogil
    cdef void repair(self, int client) noexcept nogil


cdef uint32_t class_of(uint64_t size, uint64_t *capacity) noexcept nogil


cdef inline uint64_t word_of(uint64_t generation, uint64_t client, uint64_t state) noexcept nogil:
    return (generation << 24) | (client << 8) | state

cdef inline uint64_t state_of(uint64_t word) noexcept nogil:
    return word & 0xFF

cdef inline uint64_t client_of(uint64_t word) noexcept nogil:
    return (word >> 8) & 0xFFFF

cdef inline uint64_t generation_of(uint64_t word) noexcept nogil:
    return word >> 24

cdef inline uint64_t pages(uint64_t size) noexcept nogil:
    return (size + PAGE - 1) & ~(<uint64_t>(PAGE - 1))


cdef extern from "unistd.h" nogil:
    int current_pid "getpid"()
