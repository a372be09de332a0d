# cython: language_level=3
"""Arrays that are passed by reference: segments that several processes view at once.

`Channel` sends an array that lies in one as the segment's number and an offset; on the other side the views of it hold
one `SharedSegment`, and a bit in the segment's entry says that its process views it. Whoever clears the last bit of one
that its maker has dropped, frees it.
"""
import weakref
from bisect import bisect_right, insort

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from snakepit._core.atomics cimport and64, cas64, fence, load64, or64, store64
from snakepit._core.segment_table cimport (
    ORPHANED, SHARED, SegmentEntry, SegmentTable, current_pid, generation_of, state_of, word_of,
)


cdef class SharedSegments(SegmentTable):
    def __init__(self, int fd, int client):
        SegmentTable.__init__(self, fd, client)
        self.shared = {}
        self.shared_starts = []

    cdef SharedSegment begin_sharing(self, uint32_t index, uint64_t word, uint64_t size, bint writable):
        """Make a segment that we hold under the state `word` one that others may view; `size` bytes of it, zeroed."""
        cdef SharedSegment segment = SharedSegment.__new__(SharedSegment)
        cdef SegmentEntry *entry = &self.entries[index]
        segment.arena = self
        segment.index = index
        segment.size = size
        segment.writable = True
        segment.ours = True
        segment.base = self.address_of(index)
        with nogil:
            memset(segment.base, 0, size)
        memset(entry.viewers, 0, sizeof(entry.viewers))
        entry.writable = writable
        store64(&entry.state, word_of(generation_of(word), self.client, SHARED))
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


@cython.no_gc           # so that `arena` is still there when the object dies; it refers to nothing that refers back
cdef class SharedSegment:
    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.size, 0 if self.writable else 1, flags)

    def __len__(self) -> int:
        return self.size

    def __dealloc__(self):
        if self.arena is None or self.arena.pid != current_pid():
            return
        cdef SharedSegments arena = self.arena
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
