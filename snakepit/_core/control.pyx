# cython: language_level=3
"""The control block: made by the pool's owner, mapped by its workers and by whoever inspects it."""
import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.atomics cimport load32, load64, now_ns, store32, wake
from snakepit._core.counters cimport clear_bit, set_bit, test_bit
from snakepit._core.layout cimport (
    BOUND_CELLS, LANE_RETIRING, LAYOUT_VERSION, MAGIC, MAX_LANES, MICRO, NAME_BYTES, PRIORITIES, PRIVATE_CELLS,
    Definition, Header, Lane, Ring, Slot, StackPage,
)
from snakepit._core.memory cimport Mapping

from snakepit._core.memory import create_memory


cdef extern from "unistd.h" nogil:
    int close(int fd)


cdef int write_name(char *place, str name) except -1:
    """Write a name for readers of the state: its end, where it is too long."""
    cdef bytes text = name.encode("utf-8", "replace")
    if len(text) >= NAME_BYTES:
        text = ("\u2026".encode() + text[len(text) - NAME_BYTES + 8:]).decode("utf-8", "ignore").encode()
    memcpy(place, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text) + 1)
    return 0


cdef uint64_t aligned(uint64_t offset):
    return (offset + 4095) & ~(<uint64_t>4095)


@cython.no_gc           # it refers to nothing that refers back, and `__dealloc__` needs it whole
cdef class Control:
    def __init__(self, int fd):
        """Map the control block behind `fd`, which this object takes over and closes when it dies."""
        self.fd = fd
        self.mapping = Mapping(fd, os.fstat(fd).st_size)
        cdef char *base = self.mapping.base
        self.header = <Header *>base
        if self.header.magic != MAGIC or self.header.version != LAYOUT_VERSION:
            raise ValueError(
                f"descriptor {fd} is not a control block of layout version {LAYOUT_VERSION}: "
                "the pool's owner and this process run different releases of snakepit"
            )
        self.lanes = <Lane *>(base + self.header.lanes)
        self.slots = <Slot *>(base + self.header.slots)
        self.definitions = <Definition *>(base + self.header.definitions)
        self.names = base + self.header.names
        self.stacks = <StackPage *>(base + self.header.stacks)
        self.payloads = base + self.header.payloads
        self.n_slots = self.header.n_slots
        self.n_mail = self.header.n_mail
        self.n_lanes = self.header.n_lanes
        self.payload_stride = self.header.payload_stride

    def __dealloc__(self):
        if self.mapping is not None:
            self.close_descriptor()

    def close_descriptor(self) -> None:
        """Close the descriptor, once nobody has to be given it any more; the mapping stays."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    cdef uint64_t *cells(self, Ring *ring) noexcept nogil:
        return <uint64_t *>(self.mapping.base + ring.cells)

    cdef uint8_t *payload(self, uint32_t slot, uint64_t length) noexcept nogil:
        # Small payloads lie beside the header: a call then touches no other page.
        if length <= MICRO:
            return self.slots[slot].micro
        return <uint8_t *>(self.payloads + <uint64_t>slot * self.payload_stride)

    cdef bint has_work(self, uint32_t lane) noexcept nogil:
        """Whether any queue that the lane may claim from looks non-empty."""
        cdef Ring *ring = &self.lanes[lane].private
        if load64(&ring.head) < load64(&ring.tail):
            return True
        return self.has_shared() or self.has_bound(lane)

    cdef bint has_bound(self, uint32_t lane) noexcept nogil:
        """Whether there are strict calls for the lane."""
        cdef int i
        cdef Ring *ring
        # All there is to read in a pool without strict calls: it shares a line with what a lane looks at anyway.
        if load32(&self.lanes[lane].bound_used) == 0:
            return False
        for i in range(PRIORITIES):
            ring = &self.lanes[lane].bound[i]
            if load64(&ring.head) < load64(&ring.tail):
                return True
        return False

    cdef bint has_shared(self) noexcept nogil:
        """Whether there are calls that any lane may claim."""
        cdef int i
        cdef Ring *ring
        for i in range(PRIORITIES):
            ring = &self.header.queues[i]
            if load64(&ring.head) < load64(&ring.tail):
                return True
        return False

    cdef bint is_engaged(self, uint32_t lane) noexcept nogil:
        """Whether a lane has a task, or has its worker's health looked at. Between two tasks it is not, though it runs."""
        return test_bit(self.header.running, lane) and (
            load64(&self.lanes[lane].claimed) != 0 or load32(&self.lanes[lane].examine) != 0)

    cdef bint is_away(self, uint32_t lane, bint patient) noexcept nogil:
        """Whether a lane has something to do, or claims nothing any more.

        `patient`: between two tasks it is not away, for it is about to come round to its private ring. (It may be long
        about it: it may lack the CPU, or the GIL.)
        """
        return (load32(&self.lanes[lane].state) == LANE_RETIRING
                or (self.is_engaged(lane) if patient else test_bit(self.header.running, lane)))

    cdef bint has_stranded(self, uint32_t lane, bint patient) noexcept nogil:
        """Whether another lane is busy or gone (`is_away`) while its private ring holds a task."""
        cdef uint32_t other
        for other in range(self.n_lanes):
            if other != lane and self.is_away(other, patient):
                if load64(&self.lanes[other].private.head) < load64(&self.lanes[other].private.tail):
                    return True
        return False

    cdef void rouse(self, uint32_t lane) noexcept nogil:
        """Wake a lane, if it sleeps, for what was put on a ring of its own; after a fence."""
        # Looked at first: an atomic change would take the lanes' word from their caches with every call.
        if test_bit(self.header.sleeping, lane) and clear_bit(self.header.sleeping, lane):
            set_bit(self.header.searching, lane)
            store32(&self.lanes[lane].wake, 1)
            wake(&self.lanes[lane].wake, 1)


def create_control(
    int lanes, int slots, int mail, int definitions, int inline_bytes, int cpus, int spin_limit_ns,
    str name="", int threads=1,
) -> Control:
    """Create the control block of a new pool.

    `lanes`: most threads that may claim tasks at once; `slots`: calls in shared memory at once (a power of two);
    `mail`: slots for messages of workers; `inline_bytes`: the most payload bytes that a slot carries itself;
    `name`: the pool's, for those who look at it from outside; `threads`: lanes of one worker, of which `lanes` is a
    multiple.
    """
    if not 1 <= threads <= lanes or lanes % threads:
        raise ValueError(f"{lanes} lanes cannot be shared out to workers of {threads} each")
    if not 1 <= lanes <= MAX_LANES:
        raise ValueError(f"a pool can have 1 to {MAX_LANES} workers, not {lanes}")
    cdef uint64_t stride = (inline_bytes + 63) & ~63
    cdef uint64_t ring = 2 * <uint64_t>slots
    cdef uint64_t lanes_at = aligned(sizeof(Header))
    cdef uint64_t cells_at = aligned(lanes_at + lanes * sizeof(Lane))
    cdef uint64_t private_at = cells_at + PRIORITIES * ring * 8
    cdef uint64_t bound_at = private_at + lanes * PRIVATE_CELLS * 8
    cdef uint64_t slots_at = aligned(bound_at + lanes * PRIORITIES * BOUND_CELLS * 8)
    cdef uint64_t payloads_at = aligned(slots_at + (slots + mail) * sizeof(Slot))
    cdef uint64_t definitions_at = aligned(payloads_at + (slots + mail) * stride)
    cdef uint64_t names_at = aligned(definitions_at + definitions * sizeof(Definition))
    cdef uint64_t stacks_at = aligned(names_at + definitions * NAME_BYTES)
    cdef uint64_t size = aligned(stacks_at + lanes * sizeof(StackPage))
    fd = create_memory("control", size)
    cdef Mapping mapping = Mapping(fd, size)
    cdef Header *header = <Header *>mapping.base
    cdef Lane *table = <Lane *>(mapping.base + lanes_at)
    cdef int i, priority
    header.version = LAYOUT_VERSION
    header.size_of_slot = sizeof(Slot)
    header.size = size
    header.n_lanes = lanes
    header.n_slots = slots
    header.n_mail = mail
    header.n_definitions = definitions
    header.payload_stride = <uint32_t>stride
    header.owner_pid = os.getpid()
    header.lanes = lanes_at
    header.private_cells = private_at
    header.slots = slots_at
    header.payloads = payloads_at
    header.definitions = definitions_at
    header.names = names_at
    header.stacks = stacks_at
    header.created_ns = now_ns()
    write_name(header.pool_name, name)
    header.cpus = cpus
    header.threads = threads
    header.spin_limit_ns = spin_limit_ns
    for i in range(PRIORITIES):
        header.queues[i].cells = cells_at + i * ring * 8
        header.queues[i].mask = ring - 1
    for i in range(lanes):
        table[i].private.cells = private_at + i * PRIVATE_CELLS * 8
        table[i].private.mask = PRIVATE_CELLS - 1
        for priority in range(PRIORITIES):
            table[i].bound[priority].cells = bound_at + (i * PRIORITIES + priority) * BOUND_CELLS * 8
            table[i].bound[priority].mask = BOUND_CELLS - 1
    header.magic = MAGIC
    return Control(fd)
