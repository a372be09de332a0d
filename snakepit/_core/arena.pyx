# cython: language_level=3
"""The arena: pooled segments of anonymous shared memory for everything that is too large for a slot.

A process holds a segment through a `Segment`, whose views are what tasks and callers see. It allocates one, or takes
over one that another process passed on by its number.
"""
import resource

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.atomics cimport cas64, load32, load64, now_ns, sleep_on, store32
from snakepit._core.points cimport ARENA_ADOPTED, ARENA_ADOPTING, ARENA_TOOK, ARENA_WAITING, point
from snakepit._core.segment_table cimport (
    HELD, MAX_SEGMENTS, NO_SEGMENT, SLAB, ArenaHeader, SegmentEntry, class_of, current_pid, generation_of, pages,
    state_of, word_of,
)
from snakepit._core.shared_segments cimport SharedSegment

from snakepit._core.memory import create_memory
from snakepit.errors import ArenaFullError

cdef enum:
    ARENA_MAGIC = 0x41524E41

cdef uint64_t SPARSE = <uint64_t>1 << 43    # most bytes of the file; only what is committed takes memory


cdef class Arena:
    """This process's view of an arena.

    `client` is this process's number in it: 0 for the owner, who made the arena with `create_arena` and alone may
    reclaim what dead clients held.
    """

    # -- allocating ----------------------------------------------------------------------------------------------------

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

    # -- passing on ----------------------------------------------------------------------------------------------------

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

    def share(self, uint64_t size, bint writable, uint64_t deadline=0) -> SharedSegment:
        """Allocate `size` bytes, zeroed, that are passed to workers by reference (see `allocate`)."""
        cdef Segment held = self.allocate(max(size, 1), deadline)
        cdef SharedSegment segment = self.begin_sharing(held.index, held.word, size, writable)
        held.word = 0
        return segment


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
