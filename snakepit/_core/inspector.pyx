# cython: language_level=3
"""Looking at a pool through its control block, from its own process or from another one of the same user.

Everything is read as the workers and the owner write it, without a lock: each word is whole, and what spans several
words is read again if a word that guards it has changed meanwhile. A process of its own maps the block read-only, and
the pages by which stacks are asked for only when it asks.
"""
import os

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport ETIMEDOUT, WAKE_ALL, add32, fence, load32, load64, now_ns, sleep_on, wake
from snakepit._core.control cimport Control
from snakepit._core.layout cimport (
    FUNCTION_INSIDE, LANE_READY, LANE_RETIRING, LANE_STARTING, LANE_VACANT, LAYOUT_VERSION, MAGIC, MAX_LANES,
    NAME_BYTES, ORDER_HOLD, PRIORITIES, RUNNING, STACK_BYTES, STOP_MASK, Definition, Header, Lane, Slot, StackPage, claim_lane, claim_state,
)
from snakepit._core.queue cimport ring_length

cdef extern from "string.h" nogil:
    size_t strnlen(const char *text, size_t most)

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

STATES = {LANE_VACANT: "vacant", LANE_STARTING: "starting", LANE_READY: "idle", LANE_RETIRING: "retiring"}


class NotAPoolError(ValueError):
    """What was opened is not the control block of a pool of this release."""


@cython.no_gc
cdef class Inspector:
    def __init__(self, source):
        """Look at the pool of a Control, or at the one behind a descriptor, which stays the caller's.

        Raises NotAPoolError.
        """
        cdef void *address
        cdef Control control
        if isinstance(source, Control):
            control = source
            self.kept = control
            self.base = control.mapping.base
            self.size = control.mapping.size
        else:
            self.size = os.fstat(source).st_size
            if self.size < sizeof(Header):
                raise NotAPoolError(f"descriptor {source} is not the control block of a pool: it has {self.size} bytes")
            address = mmap(NULL, self.size, PROT_READ, MAP_SHARED, <int>source, 0)
            if address == MAP_FAILED:
                raise OSError(errno, f"cannot map the control block: {os.strerror(errno)}")
            self.base = <char *>address
        self.header = <Header *>self.base
        self.check()
        if self.kept is not None:
            self.asking = self.base + self.header.stacks

    cdef int check(self) except -1:
        cdef Header *header = self.header
        if header.magic != MAGIC:
            raise NotAPoolError("this is not the control block of a pool, or not yet")
        if header.version != LAYOUT_VERSION or header.size_of_slot != sizeof(Slot):
            raise NotAPoolError(
                f"the pool's layout has version {header.version}, this release of snakepit reads {LAYOUT_VERSION}: "
                "look at it with the release that the pool's owner runs"
            )
        self.n_lanes = header.n_lanes
        if not (
            header.n_lanes <= MAX_LANES
            and header.lanes <= self.size and header.n_lanes * sizeof(Lane) <= self.size - header.lanes
            and header.slots <= self.size
            and <uint64_t>header.n_slots * sizeof(Slot) <= self.size - header.slots
            and header.definitions <= self.size
            and <uint64_t>header.n_definitions * sizeof(Definition) <= self.size - header.definitions
            and header.names <= self.size and <uint64_t>header.n_definitions * NAME_BYTES <= self.size - header.names
            and header.stacks <= self.size and header.stacks % 4096 == 0
            and header.n_lanes * sizeof(StackPage) <= self.size - header.stacks
        ):
            raise NotAPoolError("the pool's control block is damaged: its parts do not fit in it")
        self.lanes = <Lane *>(self.base + header.lanes)
        self.slots = <Slot *>(self.base + header.slots)
        self.stacks = <StackPage *>(self.base + header.stacks)
        return 0

    def __dealloc__(self):
        if self.kept is None:
            if self.asking != NULL:
                munmap(self.asking, self.n_lanes * sizeof(StackPage))
            if self.base != NULL:
                munmap(self.base, self.size)

    def pool(self) -> dict:
        """Return what is known of the pool as a whole."""
        cdef Header *header = self.header
        cdef uint64_t queued = 0
        cdef uint32_t lane
        cdef int i
        for i in range(PRIORITIES):
            queued += ring_length(&header.queues[i])
            for lane in range(self.n_lanes):
                queued += ring_length(&self.lanes[lane].bound[i])
        name = PyBytes_FromStringAndSize(header.pool_name, strnlen(header.pool_name, NAME_BYTES))
        return {
            "name": name.decode("utf-8", "replace"),
            "owner_pid": header.owner_pid,
            "age": (now_ns() - header.created_ns) * 1e-9,
            "queued": queued,
            "closing": load32(&header.closing) != 0,
            "threads": max(1, header.threads),
        }

    def lane(self, uint32_t index) -> dict | None:
        """Return what a lane's worker does, or None for a lane without one. Times are seconds."""
        cdef Lane *lane
        cdef uint64_t claimed
        cdef int _again
        if index >= self.n_lanes:
            raise IndexError(f"the pool has {self.n_lanes} lanes")
        lane = &self.lanes[index]
        for _again in range(16):
            state = STATES.get(load32(&lane.state), "vacant")
            if state == "vacant":
                return None
            if state == "idle" and load32(&lane.retire) == ORDER_HOLD:
                state = "spare"
            claimed = load64(&lane.claimed)
            found = {
                "worker": index,
                "pid": lane.pid or self.stacks[index].pid or None,
                "state": state,
                "completed": lane.completed,
                "busy": lane.busy_ns * 1e-9,
                "incarnation": lane.incarnation,
                "heartbeat": max(0.0, (<double>now_ns() - <double>lane.heartbeat_ns) * 1e-9) if lane.pid else None,
                "task": None,
            }
            if 0 < claimed <= self.header.n_slots:
                task = self.task_of(index, <uint32_t>claimed - 1)
                if task is None:
                    continue
                if state == "idle":
                    found["state"] = "running"
                found["task"] = task
            if load64(&lane.claimed) == claimed:
                return found
        # It goes from task to task faster than it can be read: that is all there is to say.
        found["task"] = None
        found["state"] = "running" if state == "idle" else state
        return found

    def task_of(self, uint32_t index, uint32_t place) -> dict | None:
        """Return the task that a lane runs in a slot; None if it ended while it was read."""
        cdef Slot *slot
        cdef uint64_t claim, now, started
        if index >= self.n_lanes or place >= self.header.n_slots:
            return None
        slot = &self.slots[place]
        claim = load64(&slot.claim)
        if claim_state(claim) != RUNNING or claim_lane(claim) != index:
            return None
        started = self.lanes[index].started_ns
        now = now_ns()
        function = None if slot.flags & FUNCTION_INSIDE else self.name_of(slot.definition, slot.definition_epoch)
        task = {
            "number": slot.task,
            "function": function,
            "items": slot.items if slot.kind else None,
            "age": max(0.0, (<double>now - <double>started) * 1e-9),
            "deadline": None if slot.deadline_ns == 0 else (<double>slot.deadline_ns - <double>now) * 1e-9,
            "nested": slot.parent != 0,
            "stopping": slot.cancel & STOP_MASK != 0,
            "attempt": slot.attempt or None,
        }
        fence()
        return task if load64(&slot.claim) == claim else None

    cdef str name_of(self, uint32_t number, uint32_t epoch):
        cdef Definition *entry
        cdef char *name
        if number >= self.header.n_definitions:
            return None
        entry = &(<Definition *>(self.base + self.header.definitions))[number]
        name = self.base + self.header.names + <uint64_t>number * NAME_BYTES
        text = PyBytes_FromStringAndSize(name, strnlen(name, NAME_BYTES))
        fence()
        if load32(&entry.epoch) != epoch:
            return None
        return text.decode("utf-8", "replace") or None

    # -- stacks --------------------------------------------------------------------------------------------------------

    def open_stacks(self, int fd) -> None:
        """Map what requests for stacks are written to; `fd` must be open for writing."""
        cdef void *address
        if self.asking != NULL:
            return
        address = mmap(
            NULL, self.n_lanes * sizeof(StackPage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, <long>self.header.stacks
        )
        if address == MAP_FAILED:
            raise OSError(errno, f"cannot map the pages of the stacks: {os.strerror(errno)}")
        self.asking = <char *>address

    def ask_stack(self, uint32_t index) -> int:
        """Ask a worker for its stack; returns what `await_stack` takes, 0 if the worker cannot answer."""
        cdef StackPage *page
        cdef uint32_t number
        if self.asking == NULL or index >= self.n_lanes:
            return 0
        page = &(<StackPage *>self.asking)[index]
        if page.pid == 0:
            return 0
        number = add32(&page.asked, 1) + 1
        if number == 0:
            number = add32(&page.asked, 1) + 1
        # Whoever answers for the lane sleeps on the page of its worker's first.
        page = &(<StackPage *>self.asking)[min(page.server, self.n_lanes - 1)]
        add32(&page.rung, 1)
        wake(&page.rung, WAKE_ALL)
        return number

    def await_stack(self, uint32_t index, uint32_t number, double timeout) -> tuple[int, bytes] | None:
        """Return the stack (see `read_stack`) that was asked for, or None if it does not come within `timeout` s."""
        cdef StackPage *page
        cdef uint64_t until = now_ns() + <uint64_t>(max(0.0, timeout) * 1e9)
        cdef uint32_t answered
        cdef int reason
        if self.asking == NULL or index >= self.n_lanes:
            return None
        page = &(<StackPage *>self.asking)[index]
        while True:
            answered = load32(&page.answered)
            # A later request of somebody else answers ours as well; the numbers may wrap around.
            if <uint32_t>(answered - number) < 0x80000000:
                return self.text_of(page)
            with nogil:
                reason = sleep_on(&page.answered, answered, until)
            if reason == ETIMEDOUT or now_ns() >= until:
                answered = load32(&page.answered)
                return self.text_of(page) if <uint32_t>(answered - number) < 0x80000000 else None

    cdef object text_of(self, StackPage *page):
        cdef uint32_t sequence, length, flags
        cdef int _again
        for _again in range(1000):
            sequence = load32(&page.sequence)
            length = min(page.length, <uint32_t>(STACK_BYTES - 64))
            flags = page.flags
            text = PyBytes_FromStringAndSize(page.text, length)
            fence()
            if not sequence & 1 and load32(&page.sequence) == sequence:
                return flags, text
            # Somebody else asked meanwhile: the next answer is as good.
            with nogil:
                sleep_on(&page.sequence, sequence, now_ns() + 100_000)
        return None
