# cython: language_level=3
"""The queues. Every operation is O(1).

A *ring* lies in shared memory: the owner pushes (one pusher at a time, under its lock), any worker claims. Nothing in a
ring decides who runs a task: the claim word of the slot does, by one compare-and-swap. A worker that dies between that
swap and the step of the ring's head leaves a cell whose slot is claimed; whoever comes next steps over it. A task may
therefore stand in two rings at once (a lane's private one and the shared one), and a cancelled one may stay in its
ring.

A *pending list* lies in the owner: the tasks that found no free slot.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport cas64, load64, store64
from snakepit._core.layout cimport (
    NOBODY, PRIORITIES, QUEUED, RUNNING, Ring, Slot, cell_generation, cell_slot, claim_word,
)
from snakepit._core.points cimport RING_CLAIMED, point
from snakepit._core.task cimport Task

cdef enum:
    NO_SLOT = 0xFFFFFFFF
    LOW_TURN = 16                       # every 16th choice starts at the lowest priority, so that nothing starves


cdef inline bint ring_has_room(Ring *ring) noexcept nogil:
    """Whether there is a cell to fill. Under the owner's lock."""
    if ring.tail - ring.seen <= ring.mask:
        return True
    ring.seen = load64(&ring.head)
    return ring.tail - ring.seen <= ring.mask


cdef inline bint ring_push(Ring *ring, uint64_t *cells, uint64_t cell) noexcept nogil:
    """Append a cell; False when the ring is full."""
    cdef uint64_t tail = ring.tail
    if not ring_has_room(ring):
        return False
    store64(&cells[tail & ring.mask], cell)
    store64(&ring.tail, tail + 1)
    return True


cdef inline uint32_t ring_claim(Ring *ring, uint64_t *cells, Slot *slots, uint64_t lane) noexcept nogil:
    """Claim the oldest queued task for `lane` and return its slot, or NO_SLOT."""
    cdef uint64_t head, cell, generation
    cdef Slot *slot
    while True:
        head = load64(&ring.head)
        if head >= load64(&ring.tail):
            return NO_SLOT
        # A slow reader may find a younger cell here; claiming that one is as good.
        cell = load64(&cells[head & ring.mask])
        slot = &slots[cell_slot(cell)]
        generation = cell_generation(cell)
        if cas64(&slot.claim, claim_word(generation, NOBODY, QUEUED), claim_word(generation, lane, RUNNING)):
            point(RING_CLAIMED)
            cas64(&ring.head, head, head + 1)
            return cell_slot(cell)
        cas64(&ring.head, head, head + 1)


cdef inline void ring_skip_dead(Ring *ring, uint64_t *cells, Slot *slots) noexcept nogil:
    """Step over cells whose task was claimed or cancelled already, to make room."""
    cdef uint64_t head, cell
    while True:
        head = load64(&ring.head)
        if head >= load64(&ring.tail):
            return
        cell = load64(&cells[head & ring.mask])
        if load64(&slots[cell_slot(cell)].claim) == claim_word(cell_generation(cell), NOBODY, QUEUED):
            return
        cas64(&ring.head, head, head + 1)


cdef inline uint64_t ring_length(Ring *ring) noexcept nogil:
    cdef uint64_t head = load64(&ring.head)
    cdef uint64_t tail = load64(&ring.tail)
    return tail - head if tail > head else 0


cdef inline uint64_t ring_queued(Ring *ring, uint64_t *cells, Slot *slots) noexcept nogil:
    """How many of a ring's cells stand for tasks that wait: a cancelled one leaves its cell behind."""
    cdef uint64_t at = load64(&ring.head)
    cdef uint64_t tail = load64(&ring.tail)
    cdef uint64_t cell, count = 0
    while at < tail:
        cell = load64(&cells[at & ring.mask])
        count += load64(&slots[cell_slot(cell)].claim) == claim_word(cell_generation(cell), NOBODY, QUEUED)
        at += 1
    return count


cdef inline bint ring_make_room(Ring *ring, uint64_t *cells, Slot *slots) noexcept nogil:
    """Whether there is a cell to fill, once dead ones are stepped over. Under the owner's lock."""
    if ring_has_room(ring):
        return True
    ring_skip_dead(ring, cells, slots)
    return ring_has_room(ring)


cdef class PendingList:
    """First-in-first-out lists of tasks, one a priority, linked through the tasks; each listed task is kept alive.

    Not locked: whoever owns the list calls it under its own lock. No method runs Python code.
    """
    cdef void *first[PRIORITIES]
    cdef void *last[PRIORITIES]
    cdef readonly uint64_t length
    cdef uint64_t turns

    cdef void append(self, Task task) noexcept
    cdef void put_back(self, Task task) noexcept
    cdef void remove(self, Task task) noexcept
    cdef Task pop(self)
    cdef int add_session(self, uint64_t session, list found) except -1
