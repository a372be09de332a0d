# cython: language_level=3
"""Segments: who holds which, where each is mapped, and the memory behind it.

One sparse file for each owning process, mapped piece by piece where it is used. A size class has four steps to a
doubling, so at most a fifth of a segment is address space that nothing needs; only the bytes that were asked for get
memory. Taking and releasing a segment are one compare-and-swap; carving a new one and giving it memory happen under
`ArenaHeader.lock`, a word that names its holder, so that the owner can break it when that process was killed.
"""
import os
import threading

from libc.errno cimport EBADF, EDQUOT, ENOMEM, ENOSPC
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from snakepit._core.atomics cimport (
    WAKE_ALL, add32, and64, cas32, cas64, fence, load32, load64, now_ns, sleep_on, store32, store64, wake,
)
from snakepit._core.memory cimport Mapping, commit_range, decommit_range, identify, map_range, populate
from snakepit._core.points cimport (
    ARENA_BACKED, ARENA_COMMITTED, ARENA_COUNTED, ARENA_CUT, ARENA_EMPTIED, ARENA_EMPTYING, ARENA_ENTERED,
    ARENA_LISTED, ARENA_LOCKED, ARENA_RELEASED, ARENA_RELEASING, ARENA_SLABBED, ARENA_TOPPED, BURIAL_RECLAIMING,
    WORKER_MAPPED, point,
)

from snakepit.errors import ArenaFullError

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef enum:
    SMALL = 4 << 20                     # segments up to here lie in slabs
    MAX_SLABS = 65536
    POPULATE_FROM = 65536               # below, the faults cost less than the call


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


cdef inline bint seize(SegmentEntry *entry, uint64_t state, uint64_t client) noexcept nogil:
    """Hold a segment that is in this state; False if it is not, or another was quicker."""
    cdef uint64_t word = load64(&entry.state)
    return state_of(word) == state and cas64(&entry.state, word, word_of(generation_of(word) + 1, client, HELD))


cdef class SegmentTable:
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
        cdef uint64_t size = pages(sizeof(ArenaHeader)) + pages(MAX_SEGMENTS * sizeof(SegmentEntry))
        cdef Mapping mapping = Mapping(fd, size)
        self.mapping = mapping
        self.header = <ArenaHeader *>mapping.base
        self.entries = <SegmentEntry *>(mapping.base + pages(sizeof(ArenaHeader)))

    # The arena of a process lives as long as the process: views may outlive every pool, so nothing is unmapped.
    def __dealloc__(self):
        free(self.segments)
        free(self.slabs)

    # -- taking and releasing ------------------------------------------------------------------------------------------

    cdef uint32_t take(self, uint32_t size_class, uint64_t size) noexcept nogil:
        """Take a free segment of the class, the one freed last if possible: its memory is warm."""
        cdef uint32_t number = load32(&self.header.hints[size_class])
        cdef uint32_t empty = 0
        cdef SegmentEntry *entry
        if number and seize(&self.entries[number - 1], FREE_SEGMENT, self.client):
            return number - 1
        number = load32(&self.header.classes[size_class])
        while number:
            entry = &self.entries[number - 1]
            if seize(entry, FREE_SEGMENT, self.client):
                return number - 1
            if state_of(load64(&entry.state)) == EMPTY:
                empty = number
            number = entry.next
        if empty and seize(&self.entries[empty - 1], EMPTY, self.client):
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
        if (
            entry.committed
            and self.file_status() == 0
            and decommit_range(self.fd, entry.offset, pages(entry.committed)) == 0
        ):
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

    cdef void entrust(self, uint32_t index, int holder) noexcept nogil:
        """Make ours what a dead client put into a completed slot that we have not read yet."""
        cdef SegmentEntry *entry = &self.entries[index]
        cdef uint64_t word = load64(&entry.state)
        if state_of(word) == HELD and client_of(word) == <uint64_t>holder:
            cas64(&entry.state, word, word_of(generation_of(word) + 1, self.client, HELD))

    cdef void entrust_word(self, uint32_t index, uint64_t word, int holder) noexcept nogil:
        """Make ours what a dead client left under the state `word`, if it is still there."""
        if client_of(word) == <uint64_t>holder:
            cas64(&self.entries[index].state, word, word_of(generation_of(word) + 1, self.client, HELD))

    # -- memory for segments -------------------------------------------------------------------------------------------

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

    cdef bint under_pressure(self) noexcept nogil:
        """Whether views that live long should rather move to private memory."""
        return load32(&self.header.count) > MAX_SEGMENTS // 4 or self.committed() > self.header.budget // 2

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

    # -- owner only ----------------------------------------------------------------------------------------------------

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
