# cython: language_level=3
"""The arena: pooled segments of anonymous shared memory for everything that is too large for a slot.

One sparse file for each owning process, mapped piece by piece where it is used. A size class has four steps to a
doubling, so at most a fifth of a segment is address space that nothing needs; only the bytes that were asked for get
memory. Taking and releasing a segment are one compare-and-swap; carving a new one and giving it memory happen under
`ArenaHeader.lock`, a word that names its holder, so that the owner can break it when that process was killed.
"""
import os
import resource
import threading
import weakref
from bisect import bisect_right, insort

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from snakepit._core.atomics cimport (
    WAKE_ALL, add32, and64, cas32, cas64, fence, load32, load64, now_ns, or64, sleep_on, store32,
    store64, wake,
)
from snakepit._core.memory cimport Mapping, map_range
from snakepit._core.points cimport (
    ARENA_ADOPTED, ARENA_ADOPTING, ARENA_BACKED, ARENA_COMMITTED, ARENA_COUNTED, ARENA_CUT, ARENA_EMPTIED,
    ARENA_EMPTYING, ARENA_ENTERED, ARENA_LISTED, ARENA_LOCKED, ARENA_RELEASED, ARENA_RELEASING, ARENA_SLABBED,
    ARENA_TOOK, ARENA_TOPPED, ARENA_WAITING, BURIAL_RECLAIMING, WORKER_MAPPED, point,
)

from snakepit._core.memory import create_memory
from snakepit.errors import ArenaFullError

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>

    /* Give memory to a range of the file, so that a lack of it is an error here and not a SIGBUS at first touch. */
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
    /* Which file a descriptor stands for. */
    static int sp_identify(int fd, uint64_t *device, uint64_t *inode) {
        struct stat found;
        if (fstat(fd, &found) != 0) return errno;
        *device = (uint64_t)found.st_dev;
        *inode = (uint64_t)found.st_ino;
        return 0;
    }
    /* Fill the page table at once: a fault a page makes a first copy ten times slower. A hint: errors do not count. */
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
    int commit_range "sp_commit"(int fd, uint64_t offset, uint64_t size)
    int decommit_range "sp_decommit"(int fd, uint64_t offset, uint64_t size)
    int identify "sp_identify"(int fd, uint64_t *device, uint64_t *inode)
    int EBADF, EDQUOT, ENOMEM, ENOSPC
    void populate "sp_populate"(void *address, uint64_t size)
    int sched_yield()

cdef enum:
    PAGE = 4096
    ARENA_MAGIC = 0x41524E41
    SMALL = 4 << 20                     # segments up to here share the mapping of their slab
    SLAB = 16 << 20
    MAX_SLABS = 65536
    POPULATE_FROM = 65536               # below, the faults cost less than the call

cdef uint64_t SPARSE = <uint64_t>1 << 43    # most bytes of the file; only what is committed takes memory


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


cdef uint32_t class_of(uint64_t size, uint64_t *capacity) noexcept nogil:
    """The size class of `size` bytes, four to a doubling from one page on, and its capacity."""
    cdef uint64_t power = PAGE
    cdef uint32_t number = 0
    while power * 2 < size:
        power *= 2
        number += 4
    cdef int quarter
    for quarter in range(5):
        capacity[0] = pages(power + power // 4 * quarter)
        if capacity[0] >= size:
            break
    return number + quarter


cdef class Arena:
    """This process's view of an arena.

    `client` is this process's number in it: 0 for the owner, who made the arena with `create_arena` and alone may
    reclaim what dead clients held.
    """

    def __cinit__(self):
        self.segments = <char **>calloc(MAX_SEGMENTS, sizeof(char *))
        self.slabs = <char **>calloc(MAX_SLABS, sizeof(char *))
        if self.segments == NULL or self.slabs == NULL:
            raise MemoryError()

    def __init__(self, int fd, int client):
        self.fd = fd
        self.client = client
        self.pid = os.getpid()
        if identify(fd, &self.device, &self.inode):
            raise OSError(EBADF, f"descriptor {fd} is no shared memory: it is not open")
        # Re-entrant: the collector may run a view's finaliser while this thread holds it.
        self.map_lock = threading.RLock()
        point(WORKER_MAPPED)
        self.shared = {}
        self.shared_starts = []
        cdef uint64_t size = pages(sizeof(ArenaHeader)) + pages(MAX_SEGMENTS * sizeof(SegmentEntry))
        cdef Mapping mapping = Mapping(fd, size)
        self.mapping = mapping
        self.header = <ArenaHeader *>mapping.base
        self.entries = <SegmentEntry *>(mapping.base + pages(sizeof(ArenaHeader)))

    # The arena of a process lives as long as the process: views may outlive every pool, so nothing is unmapped.
    def __dealloc__(self):
        free(self.segments)
        free(self.slabs)

    # -- taking and releasing -------------------------------------------------------------------------------------

    cdef Segment allocate(self, uint64_t size, uint64_t deadline):
        """Take a segment of at least `size` bytes; wait for memory until `deadline` (monotonic ns, 0: do not wait).

        Raises ArenaFullError; OSError when this process has lost the arena's file (see `require_file`).
        """
        cdef uint64_t capacity, word
        cdef uint32_t size_class = class_of(size, &capacity)
        cdef uint32_t index, seen
        cdef SegmentEntry *entry
        cdef Segment segment
        cdef char *base
        cdef bint backed
        if pages(size) > self.header.budget:
            raise ArenaFullError(
                f"{size:,} bytes do not fit into the arena, whose budget is {self.header.budget:,} bytes; "
                "raise SNAKEPIT_ARENA_BYTES or send the data in parts",
                details={"wanted": size, "budget": self.header.budget},
            )
        while True:
            seen = load32(&self.header.freed)
            index = self.take(size_class, size)
            if index == NO_SEGMENT:
                index = self.carve(size_class, capacity)
            entry = &self.entries[index]
            word = load64(&entry.state)
            point(ARENA_TOOK)
            try:
                backed = entry.committed >= size or self.commit(index, word, size)
                base = self.address_of(index) if backed else NULL
            except BaseException:
                self.release(index, word)
                raise
            if backed:
                segment = Segment.__new__(Segment)
                segment.arena = self
                segment.index = index
                segment.size = size
                segment.word = word
                segment.base = base
                return segment
            self.release(index, word)
            self.wait_for_memory(seen, size, deadline)

    def wait_for_memory(self, uint32_t seen, uint64_t size, uint64_t deadline):
        if deadline == 0 or now_ns() >= deadline:
            raise ArenaFullError(
                f"no room for {size:,} bytes: {self.committed():,} of the arena's {self.header.budget:,} bytes are in "
                "use; drop arrays that came from tasks, send fewer at once, or raise SNAKEPIT_ARENA_BYTES",
                details={"wanted": size, "in_use": self.committed(), "budget": self.header.budget},
            )
        # A flag and no count, which whoever dies here would leave too high for ever.
        store32(&self.header.waiting, 1)
        # The first look after saying that we wait happens in the caller's next round; until then a release may have
        # gone unsaid, so the first sleep is short.
        point(ARENA_WAITING)
        with nogil:
            sleep_on(&self.header.freed, seen, min(deadline, now_ns() + 5_000_000))
        PyErr_CheckSignals()

    cdef uint32_t take(self, uint32_t size_class, uint64_t size) noexcept nogil:
        """Take a free segment of the class, the one freed last if possible: its memory is warm."""
        cdef uint32_t number = load32(&self.header.hints[size_class])
        cdef uint32_t empty = 0
        cdef uint64_t word
        cdef SegmentEntry *entry
        if number:
            entry = &self.entries[number - 1]
            word = load64(&entry.state)
            if state_of(word) == FREE_SEGMENT and cas64(
                &entry.state, word, word_of(generation_of(word) + 1, self.client, HELD)
            ):
                return number - 1
        number = load32(&self.header.classes[size_class])
        while number:
            entry = &self.entries[number - 1]
            word = load64(&entry.state)
            if state_of(word) == FREE_SEGMENT and cas64(
                &entry.state, word, word_of(generation_of(word) + 1, self.client, HELD)
            ):
                return number - 1
            if state_of(word) == EMPTY:
                empty = number
            number = entry.next
        if empty:
            entry = &self.entries[empty - 1]
            word = load64(&entry.state)
            if state_of(word) == EMPTY and cas64(
                &entry.state, word, word_of(generation_of(word) + 1, self.client, HELD)
            ):
                return empty - 1
        return NO_SEGMENT

    cdef void release(self, uint32_t index, uint64_t word) noexcept nogil:
        """Give back a segment whose state is still `word`; nothing happens when somebody else holds it by now."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t generation = generation_of(word) + 1
        cdef uint64_t kept = 0
        cdef uint32_t i
        point(ARENA_RELEASING)
        if entry.committed > SMALL:
            for i in range(load32(&self.header.count)):
                if state_of(load64(&self.entries[i].state)) == FREE_SEGMENT:
                    kept += self.entries[i].committed
            if kept + entry.committed > self.header.retain:
                if not cas64(&entry.state, word, word_of(generation, self.client, BUSY)):
                    return
                self.decommit(index)
                self.tell_waiters()
                return
        if entry.committed == 0:
            cas64(&entry.state, word, word_of(generation, 0, EMPTY))
        elif cas64(&entry.state, word, word_of(generation, 0, FREE_SEGMENT)):
            point(ARENA_RELEASED)
            store32(&self.header.hints[entry.size_class], index + 1)
        self.tell_waiters()

    cdef void decommit(self, uint32_t index) noexcept nogil:
        """Return the memory of a BUSY segment to the system; it becomes EMPTY."""
        cdef SegmentEntry *entry = &self.entries[index]
        point(ARENA_EMPTYING)
        if entry.committed and self.file_status() == 0 and decommit_range(self.fd, entry.offset, pages(entry.committed)) == 0:
            point(ARENA_EMPTIED)
            entry.committed = 0
        cdef uint64_t generation = generation_of(load64(&entry.state)) + 1
        store64(&entry.state, word_of(generation, 0, EMPTY if entry.committed == 0 else FREE_SEGMENT))

    cdef void tell_waiters(self) noexcept nogil:
        fence()
        if load32(&self.header.waiting):
            store32(&self.header.waiting, 0)
            add32(&self.header.freed, 1)
            wake(&self.header.freed, WAKE_ALL)

    # -- memory for segments ----------------------------------------------------------------------------------------

    cdef int lock(self) except -1:
        cdef int tries = 0
        while not cas32(&self.header.lock, 0, <uint32_t>self.client + 1):
            # Held for the time of one fallocate; sleeping on it would need the holder to know.
            tries += 1
            if tries > 100:
                with nogil:
                    sleep_on(&self.header.lock, load32(&self.header.lock), now_ns() + 100_000)
            else:
                sched_yield()
        return 0

    cdef void unlock(self) noexcept nogil:
        cas32(&self.header.lock, <uint32_t>self.client + 1, 0)

    cdef uint64_t committed(self) noexcept nogil:
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(load32(&self.header.count)):
            total += self.entries[i].committed
        return total

    cdef bint commit(self, uint32_t index, uint64_t word, uint64_t size) except -1:
        """Give the held segment `size` bytes of memory; False when the budget or the machine has no more.

        Raises OSError for whatever no waiting would mend.
        """
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t wanted = pages(size)
        cdef uint64_t missing = wanted - entry.committed
        cdef uint64_t in_use
        cdef int status = 0
        self.require_file()
        self.lock()
        with nogil:
            point(ARENA_LOCKED)
            in_use = self.committed()
            if in_use + missing > self.header.budget:
                self.trim(in_use + missing - self.header.budget)
                in_use = self.committed()
            if in_use + missing > self.header.budget:
                status = -1
            else:
                status = commit_range(self.fd, entry.offset + entry.committed, missing)
                if status == 0:
                    point(ARENA_BACKED)
                    entry.committed = wanted
                    point(ARENA_COMMITTED)
            self.unlock()
        if status == -1 or status == ENOSPC or status == ENOMEM or status == EDQUOT:
            return False
        if status != 0:
            raise OSError(status, f"cannot get {missing:,} bytes of shared memory: {os.strerror(status)}")
        if size >= POPULATE_FROM:
            base = self.address_of(index)
            with nogil:
                populate(<void *>base, wanted)
        return True

    cdef void trim(self, uint64_t wanted) noexcept nogil:
        """Return at least `wanted` bytes of free segments to the system, as far as there are any."""
        cdef uint64_t done = 0, word
        cdef uint32_t i
        cdef SegmentEntry *entry
        for i in range(load32(&self.header.count)):
            entry = &self.entries[i]
            word = load64(&entry.state)
            if state_of(word) != FREE_SEGMENT:
                continue
            if not cas64(&entry.state, word, word_of(generation_of(word) + 1, self.client, BUSY)):
                continue
            done += entry.committed
            self.decommit(i)
            if done >= wanted:
                return

    cdef uint32_t carve(self, uint32_t size_class, uint64_t capacity) except? 0xFFFFFFFF:
        """Add a segment to the table, held by us, without memory yet."""
        cdef uint32_t index
        cdef uint64_t start
        cdef SegmentEntry *entry
        cdef ArenaHeader *header = self.header
        self.lock()
        try:
            index = header.count
            if index >= MAX_SEGMENTS or header.top + capacity + SLAB > header.size:
                raise ArenaFullError(
                    f"the arena has no room for another segment ({index:,} of {MAX_SEGMENTS:,} in its table, "
                    f"{header.top:,} of {header.size:,} bytes of range used); drop arrays that came from tasks",
                    details={"segments": index, "range_used": header.top, "range": header.size},
                )
            entry = &self.entries[index]
            if capacity <= SMALL:
                if header.slab + capacity > header.slab_end:
                    # Slabs start at multiples of their size, so that an offset tells its slab.
                    # In this order, a death between two stores costs a slab's range. In any other, somebody could
                    # carve a second time from what is carved already.
                    start = (header.top + SLAB - 1) // SLAB * SLAB
                    store64(&header.top, start + SLAB)
                    point(ARENA_TOPPED)
                    store64(&header.slab, start)
                    point(ARENA_SLABBED)
                    store64(&header.slab_end, start + SLAB)
                entry.offset = header.slab
                header.slab += capacity
            else:
                entry.offset = header.top
                header.top += capacity
            point(ARENA_CUT)
            entry.capacity = capacity
            entry.committed = 0
            entry.size_class = size_class
            entry.next = header.classes[size_class]
            store64(&entry.state, word_of(1, self.client, HELD))
            point(ARENA_ENTERED)
            # The count goes first: a segment in the class list that the scans do not see would never be reclaimed.
            store32(&header.count, index + 1)
            point(ARENA_COUNTED)
            store32(&header.classes[size_class], index + 1)
            point(ARENA_LISTED)
        finally:
            self.unlock()
        return index

    cdef int file_status(self) noexcept nogil:
        """0 if `fd` still is the arena's file; else an error number.

        A program may close descriptors that are not its own, and the next file that is opened gets their numbers. To
        give that file memory, or to take memory from it, would destroy its data.
        """
        cdef uint64_t device = 0, inode = 0
        cdef int status = identify(self.fd, &device, &inode)
        return status if status or (device == self.device and inode == self.inode) else EBADF

    cdef int require_file(self) except -1:
        cdef int status = self.file_status()
        if status:
            raise OSError(
                status,
                f"this process (pid {os.getpid()}) has lost its shared memory: descriptor {self.fd} was closed, by code "
                "that closes descriptors which it did not open (os.closerange, a daemon library); spare those",
            )
        return 0

    @property
    def usable(self) -> bool:
        """Whether this process still has the arena's file open."""
        return self.file_status() == 0

    cdef char *address_of(self, uint32_t index) except NULL:
        """Where the segment is mapped in this process; mapped on first use, and kept."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t slab
        if entry.capacity <= SMALL:
            slab = entry.offset // SLAB
            if slab >= MAX_SLABS:
                raise ArenaFullError("the arena's range for small segments is used up", details={"slab": slab})
            if self.slabs[slab] == NULL:
                with self.map_lock:
                    if self.slabs[slab] == NULL:
                        self.require_file()
                        self.slabs[slab] = map_range(self.fd, slab * SLAB, SLAB)
            return self.slabs[slab] + (entry.offset - slab * SLAB)
        if self.segments[index] == NULL:
            with self.map_lock:
                if self.segments[index] == NULL:
                    self.require_file()
                    self.segments[index] = map_range(self.fd, entry.offset, entry.capacity)
        return self.segments[index]

    # -- passing on ---------------------------------------------------------------------------------------------------

    cdef Segment adopt(self, uint32_t index, uint64_t size):
        """Take over a segment that its holder put into a slot for us."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t word, ours
        cdef Segment segment = Segment.__new__(Segment)
        segment.arena = self
        segment.index = index
        segment.size = size
        segment.base = self.address_of(index)
        point(ARENA_ADOPTING)
        while True:
            word = load64(&entry.state)
            if state_of(word) != HELD:
                raise RuntimeError(f"segment {index} changed hands while it was passed on")
            ours = word_of(generation_of(word) + 1, self.client, HELD)
            # It fails when whoever buries the holder entrusts the segment to us just now.
            if cas64(&entry.state, word, ours):
                break
        segment.word = ours
        point(ARENA_ADOPTED)
        return segment

    cdef Segment take_over(self, uint32_t index, uint64_t word, uint64_t size):
        """Take over a segment that its holder left under the state `word`; None when it is not there any more.

        It may have become ours meanwhile, by `entrust_word`. What was freed has another generation, whoever holds it.
        """
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t entrusted = word_of(generation_of(word) + 1, self.client, HELD)
        cdef uint64_t ours = word_of(generation_of(word) + 2, self.client, HELD)
        cdef char *base = self.address_of(index)
        cdef Segment segment
        if not cas64(&entry.state, word, ours) and not cas64(&entry.state, entrusted, ours):
            return None
        segment = Segment.__new__(Segment)
        segment.arena = self
        segment.index = index
        segment.size = size
        segment.word = ours
        segment.base = base
        return segment

    cdef void entrust_word(self, uint32_t index, uint64_t word, int holder) noexcept nogil:
        """Make ours what a dead client left under the state `word`, if it is still there."""
        if client_of(word) == <uint64_t>holder:
            cas64(&self.entries[index].state, word, word_of(generation_of(word) + 1, self.client, HELD))

    cdef Segment copy_of(self, uint32_t index, uint64_t size, uint64_t deadline):
        """Copy a segment that its holder keeps. Raises ArenaFullError (see `allocate`)."""
        cdef char *source = self.address_of(index)
        cdef Segment segment = self.allocate(size, deadline)
        with nogil:
            memcpy(segment.base, source, size)
        return segment

    cdef void hand_over(self, Segment segment, int client) noexcept nogil:
        """Make our segment `client`'s: adopted or not, it is freed when that client is dead."""
        cdef SegmentEntry *entry = &self.entries[segment.index]
        cas64(&entry.state, segment.word, word_of(generation_of(segment.word) + 1, client, HELD))
        segment.forget()

    cdef void entrust(self, uint32_t index, int holder) noexcept nogil:
        """Make ours what a dead client put into a completed slot that we have not read yet."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t word = load64(&entry.state)
        if state_of(word) == HELD and client_of(word) == <uint64_t>holder:
            cas64(&entry.state, word, word_of(generation_of(word) + 1, self.client, HELD))

    cdef bint under_pressure(self) noexcept nogil:
        """Whether views that live long should rather move to private memory."""
        return load32(&self.header.count) > MAX_SEGMENTS // 4 or self.committed() > self.header.budget // 2

    # -- shared arrays ------------------------------------------------------------------------------------------------

    def share(self, uint64_t size, bint writable, uint64_t deadline=0) -> SharedSegment:
        """Allocate `size` bytes, zeroed, that are passed to workers by reference (see `allocate`)."""
        cdef Segment held = self.allocate(max(size, 1), deadline)
        cdef SharedSegment segment = SharedSegment.__new__(SharedSegment)
        cdef SegmentEntry *entry = &self.entries[held.index]
        segment.arena = self
        segment.index = held.index
        segment.size = size
        segment.writable = True
        segment.ours = True
        segment.base = held.base
        with nogil:
            memset(held.base, 0, size)
        memset(entry.viewers, 0, sizeof(entry.viewers))
        entry.writable = writable
        store64(&entry.state, word_of(generation_of(held.word), self.client, SHARED))
        held.word = 0
        self.remember(segment)
        return segment

    cdef int remember(self, SharedSegment segment) except -1:
        start = <uint64_t>segment.base
        with self.map_lock:
            if start not in self.shared:
                insort(self.shared_starts, start)
            self.shared[start] = weakref.ref(segment)
        return 0

    cdef bint has_shared(self) noexcept:
        """Whether this process holds arrays that are passed by reference."""
        return len(self.shared_starts) > 0

    cdef SharedSegment find_shared(self, char *address, uint64_t size):
        """The shared segment of this process that holds these bytes, or None."""
        if not self.shared_starts:
            return None
        cdef SharedSegment segment
        cdef Py_ssize_t at
        with self.map_lock:
            at = bisect_right(self.shared_starts, <uint64_t>address) - 1
            if at < 0:
                return None
            segment = self.shared[self.shared_starts[at]]()
        if segment is None or address + size > segment.base + segment.size:
            return None
        return segment

    def shared_window(self, uint64_t address, uint64_t size) -> memoryview | None:
        """A view of these bytes of this process if they lie in a shared segment."""
        cdef SharedSegment segment = self.find_shared(<char *>address, size)
        if segment is None:
            return None
        start = address - <uint64_t>segment.base
        return memoryview(segment)[start:start + size]

    cdef SharedSegment open_shared(self, uint32_t index):
        """A view of a segment that another process shares; the same object as long as one view lives."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef char *base = self.address_of(index)
        cdef SharedSegment segment
        with self.map_lock:
            known = self.shared.get(<uint64_t>base)
        if known is not None:
            segment = known()
            if segment is not None:
                return segment
        segment = SharedSegment.__new__(SharedSegment)
        segment.arena = self
        segment.index = index
        segment.size = entry.committed
        segment.writable = entry.writable or self.client == 0
        segment.base = base
        or64(&entry.viewers[self.client // 64], <uint64_t>1 << (self.client % 64))
        self.remember(segment)
        return segment

    cdef void let_go(self, uint32_t index) noexcept nogil:
        """Free an orphaned shared segment when nobody views it any more."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t word = load64(&entry.state)
        cdef int i
        if state_of(word) != ORPHANED:
            return
        for i in range(CLIENT_WORDS):
            if load64(&entry.viewers[i]):
                return
        self.release(index, word)

    # -- owner only ---------------------------------------------------------------------------------------------------

    cdef void repair(self, int client) noexcept nogil:
        """Finish what a client began that died under the lock, which is ours now."""
        cdef ArenaHeader *header = self.header
        cdef uint32_t i, listed
        cdef SegmentEntry *entry
        cdef bint sound = self.file_status() == 0
        for i in range(load32(&header.count)):
            entry = &self.entries[i]
            if sound and client_of(load64(&entry.state)) == <uint64_t>client:
                # Memory that it was given and that the table does not know of: no budget would count it.
                decommit_range(self.fd, entry.offset + pages(entry.committed), entry.capacity - pages(entry.committed))
        if header.count:
            # The newest segment counts before it stands in its list (see `carve`).
            entry = &self.entries[header.count - 1]
            listed = header.classes[entry.size_class]
            if listed != header.count:
                entry.next = listed
                store32(&header.classes[entry.size_class], header.count)

    def reclaim(self, int client) -> int:
        """Free everything that a dead client held; returns how many segments that were.

        Raises RuntimeError in any process but the owner: who numbers the clients knows which of them is dead.
        """
        cdef uint32_t i
        cdef uint64_t word
        cdef int freed = 0
        cdef SegmentEntry *entry
        if self.client != 0 or self.pid != current_pid():
            raise RuntimeError(
                f"only the process that made this arena may reclaim what its client {client} held; process {os.getpid()} "
                f"{'is its client ' + str(self.client) if self.client else 'forked from that one'}"
            )
        point(BURIAL_RECLAIMING)
        if cas32(&self.header.lock, <uint32_t>client + 1, <uint32_t>self.client + 1):
            self.repair(client)
            self.unlock()
        for i in range(load32(&self.header.count)):
            entry = &self.entries[i]
            word = load64(&entry.state)
            and64(&entry.viewers[client // 64], ~(<uint64_t>1 << (client % 64)))
            if state_of(word) == ORPHANED:
                self.let_go(i)
            elif client_of(word) != client:
                continue
            elif state_of(word) == HELD:
                self.release(i, word)
                freed += 1
            elif state_of(word) == BUSY:
                self.decommit(i)
                freed += 1
            elif state_of(word) == SHARED:
                if cas64(&entry.state, word, word_of(generation_of(word) + 1, 0, ORPHANED)):
                    self.let_go(i)
                    freed += 1
        return freed

    def usage(self) -> dict[str, int]:
        """Count segments by state, and bytes: budget, committed, held (in use), free."""
        cdef uint32_t i
        cdef uint64_t state
        counts = {"segments": 0, "held": 0, "shared": 0, "free": 0, "bytes_committed": 0, "bytes_in_use": 0,
                  "bytes_budget": self.header.budget}
        for i in range(load32(&self.header.count)):
            state = state_of(load64(&self.entries[i].state))
            counts["segments"] += 1
            counts["bytes_committed"] += self.entries[i].committed
            if state == HELD or state == BUSY:
                counts["held"] += 1
                counts["bytes_in_use"] += self.entries[i].committed
            elif state == SHARED or state == ORPHANED:
                counts["shared"] += 1
                counts["bytes_in_use"] += self.entries[i].committed
            else:
                counts["free"] += 1
        return counts


@cython.no_gc           # so that `arena` is still there when the object dies; it refers to nothing that refers back
cdef class Segment:
    cdef void forget(self) noexcept nogil:
        """Leave the segment as it is, for another process to adopt."""
        self.word = 0

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.size, 0, flags)

    def __len__(self) -> int:
        return self.size

    def __dealloc__(self):
        # A forked child has the object but not the memory: the pid tells.
        if self.word and self.arena.pid == current_pid():
            self.arena.release(self.index, self.word)


@cython.no_gc
cdef class SharedSegment:
    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.size, 0 if self.writable else 1, flags)

    def __len__(self) -> int:
        return self.size

    def __dealloc__(self):
        if self.arena is None or self.arena.pid != current_pid():
            return
        cdef Arena arena = self.arena
        cdef SegmentEntry *entry = &arena.entries[self.index]
        cdef uint64_t word
        with arena.map_lock:
            known = arena.shared.get(<uint64_t>self.base)
            if known is not None and known() is None:
                del arena.shared[<uint64_t>self.base]
                arena.shared_starts.remove(<uint64_t>self.base)
        if self.ours:
            word = load64(&entry.state)
            if state_of(word) == SHARED:
                cas64(&entry.state, word, word_of(generation_of(word) + 1, 0, ORPHANED))
        else:
            and64(&entry.viewers[arena.client // 64], ~(<uint64_t>1 << (arena.client % 64)))
            fence()
        arena.let_go(self.index)


cdef extern from "unistd.h" nogil:
    int getpid()

cdef inline int current_pid() noexcept nogil:
    return getpid()


def create_arena(uint64_t budget, uint64_t retain) -> Arena:
    """Create the arena of this process. `budget`: most bytes in use; `retain`: most bytes kept in free segments."""
    cdef uint64_t table = pages(sizeof(ArenaHeader)) + pages(MAX_SEGMENTS * sizeof(SegmentEntry))
    cdef uint64_t size = SPARSE
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if most != resource.RLIM_INFINITY:
        size = min(size, <uint64_t>most)
    fd = create_memory("arena", size)
    cdef Arena arena = Arena(fd, 0)
    arena.header.size = size
    arena.header.budget = budget
    arena.header.retain = retain
    arena.header.data = table
    arena.header.top = (table + SLAB - 1) // SLAB * SLAB
    arena.header.magic = ARENA_MAGIC
    return arena


cdef class WritableWindow:
    """The bytes of a read-only array as a buffer that claims to be writable; only ever copied from.

    Pickle marks what it takes from a read-only buffer, and the copy would arrive read-only.
    """
    cdef object array
    cdef char *base
    cdef Py_ssize_t size

    def __init__(self, array):
        self.array = array
        self.base = <char *><size_t>array.__array_interface__["data"][0]
        self.size = array.nbytes

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.size, 0, flags)
