# cython: language_level=3
"""Strict affinity: which worker each session is bound to, and the calls that wait for theirs.

    first call of a session --> an ordinary call; whoever claims it is the session's worker    UNDECIDED
    later calls             --> wait with the session's entry until that is known
                            --> the lane's bound ring, if the lane holds few calls in slots    BOUND
                                or the lane's own pending list, refilled as its calls end
    the worker is gone      --> refused until the session is forgotten                         LOST

The worker is a lane *and* its incarnation: a successor on the same lane knows nothing of the session.
"""
cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from snakepit._core.atomics cimport fence, load32, load64, store32, wake
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit
from snakepit._core.lane_cache cimport NO_LANE, mixed
from snakepit._core.layout cimport (
    BOUND_CELLS, DONE, LANE_READY, ORDER_EXCHANGE, ORDER_SERVE, PRIORITIES, RUNNING, Lane, Ring, claim_generation,
    claim_lane, claim_state,
)
from snakepit._core.memory cimport map_private, unmap_private
from snakepit._core.queue cimport NO_SLOT, PendingList, ring_make_room, ring_queued
from snakepit._core.task cimport STRICT_FAIL_FAST, Task

cdef enum:
    LEAST_CAPACITY = 256
    MOST_SESSIONS = 1 << 20             # 128 MB of table at worst
    NOT_HUNGRY = 0xFFFFFFFF


@cython.no_gc           # its tasks are held by references that nobody else can see
cdef class Bindings:
    def __init__(self, Control control):
        cdef uint32_t lane
        self.control = control
        # Strict calls never take more than half of the slots, so that lanes which are free find work.
        self.most_in_slots = max(1, min(BOUND_CELLS // 2, control.n_slots // (2 * control.n_lanes)))
        self.tables_size = 2 * <uint64_t>control.n_lanes * sizeof(uint32_t)
        self.in_slots = <uint32_t *>map_private(self.tables_size)
        self.next_hungry = self.in_slots + control.n_lanes
        for lane in range(control.n_lanes):
            self.next_hungry[lane] = NOT_HUNGRY
        self.last_hungry = NO_LANE
        self.waiting = [PendingList() for _ in range(control.n_lanes)]

    def __dealloc__(self):
        cdef uint64_t i
        for i in range(self.capacity):
            if self.table[i].key:
                while self.table[i].first_waiter != NULL:
                    self.pop_waiter(&self.table[i])
        while self.first_doomed != NULL:
            self.next_doomed()
        free(self.memory)
        if self.in_slots != NULL:
            unmap_private(<char *>self.in_slots, self.tables_size)

    # -- calls -------------------------------------------------------------------------------------------------------------

    cdef int admit(self, Task task) noexcept:
        """Decide where a strict call goes, and set its `home` if that is known."""
        cdef Binding *entry = self.find(task.session)
        cdef int lane
        cdef bint forgotten
        if entry == NULL:
            if self.known < MOST_SESSIONS:
                entry = self.insert(task.session)
            if entry == NULL:
                return TABLE_FULL
            entry.founder = <void *>task
            task.founder = True
            return ANYWHERE
        if entry.state == UNDECIDED:
            if task.affinity == STRICT_FAIL_FAST:
                return WORKER_BUSY
            lane = self.lane_of_founder(entry)
            if lane < 0:
                self.append_waiter(entry, task)
                return WAITING
            forgotten = entry.forgotten
            self.bind_founder(entry, lane)
            if forgotten:
                # Struck off by that, which moves others into the gap: this call begins the session anew.
                return self.admit(task)
        task.home = entry.lane + 1
        if entry.state == LOST:
            return WORKER_LOST
        if task.affinity == STRICT_FAIL_FAST and (
            load32(&self.control.lanes[entry.lane].owed) or load64(&self.control.lanes[entry.lane].claimed)
        ):
            # Also when that worker is on its way out: who asks again is told.
            return WORKER_BUSY
        return AT_HOME if self.take_on(entry, task) else WORKER_LOST

    cdef bint take_on(self, Binding *entry, Task task) noexcept:
        """Count a call as its lane's; False, and the session is lost, when the lane takes no more."""
        cdef Lane *lane = &self.control.lanes[entry.lane]
        store32(&lane.owed, lane.owed + 1)
        # The lane reads these two in the other order (`Claimant.obey`): it stays for the call, or we see it go.
        fence()
        # The incarnation last: of a worker that is ready, it is known.
        if (load32(&lane.state) == LANE_READY and load32(&lane.retire) == ORDER_SERVE
                and lane.incarnation == entry.incarnation):
            task.home = entry.lane + 1
            return True
        self.pay(entry.lane)
        entry.state = LOST
        return False

    cdef bint must_wait(self, Task task) noexcept:
        """Whether earlier calls wait for the same lane."""
        return (<PendingList>self.waiting[task.home - 1]).length != 0

    cdef bint has_room(self, uint32_t lane) noexcept:
        """Whether the lane may hold one more call in slots, and has a cell for it whatever its priority."""
        cdef int i
        cdef Ring *ring
        if self.in_slots[lane] >= self.most_in_slots:
            return False
        for i in range(PRIORITIES):
            ring = &self.control.lanes[lane].bound[i]
            # Cancelled calls leave their cells behind. If a live one is first, its end will bring us here again.
            if not ring_make_room(ring, self.control.cells(ring), self.control.slots):
                return False
        return True

    cdef void wait(self, Task task) noexcept:
        """List a call that found no room in slots."""
        (<PendingList>self.waiting[task.home - 1]).append(task)
        self.length += 1
        self.add_hungry(task.home - 1)

    cdef Task next_waiting(self):
        """Take the next call of the lane whose turn it is; None when no lane could take one."""
        cdef uint32_t lane
        cdef PendingList waiting
        cdef Task task
        while self.last_hungry != NO_LANE:
            lane = self.next_hungry[self.last_hungry]
            waiting = <PendingList>self.waiting[lane]
            if waiting.length and self.has_room(lane):
                task = waiting.pop()
                self.length -= 1
                self.last_hungry = lane
                return task
            # The lane has no call or no room left: out of the circle.
            if lane == self.last_hungry:
                self.last_hungry = NO_LANE
            else:
                self.next_hungry[self.last_hungry] = self.next_hungry[lane]
            self.next_hungry[lane] = NOT_HUNGRY
        return None

    cdef void add_hungry(self, uint32_t lane) noexcept:
        """Have the lane offered a slot, in turn with others, if it can use one."""
        if self.next_hungry[lane] != NOT_HUNGRY or not self.has_room(lane):
            return
        if self.last_hungry == NO_LANE:
            self.next_hungry[lane] = lane
        else:
            self.next_hungry[lane] = self.next_hungry[self.last_hungry]
            self.next_hungry[self.last_hungry] = lane
        self.last_hungry = lane

    cdef void entered(self, Task task) noexcept:
        """A call is in a slot and on its lane's bound ring: wake that lane, and no other."""
        cdef uint32_t index = task.home - 1
        cdef Lane *lane = &self.control.lanes[index]
        self.in_slots[index] += 1
        if not lane.bound_used:
            store32(&lane.bound_used, 1)
        # Pairs with the fence of a lane that goes to sleep.
        fence()
        self.control.rouse(index)

    cdef void left_slot(self, Task task) noexcept:
        """A call that `entered` is settled, or was taken back; before its slot is given on."""
        cdef uint32_t lane = task.home - 1
        if task.home == 0:
            return
        self.in_slots[lane] -= 1
        task.home = 0
        self.pay(lane)
        if (<PendingList>self.waiting[lane]).length:
            self.add_hungry(lane)

    cdef void pay(self, uint32_t lane) noexcept:
        """The lane owes one call less; it may have stayed for that alone."""
        cdef Lane *place = &self.control.lanes[lane]
        store32(&place.owed, place.owed - 1)
        if place.owed == 0:
            fence()
            if load32(&place.retire) == ORDER_EXCHANGE:
                clear_bit(self.control.header.sleeping, lane)
                store32(&place.wake, 1)
                wake(&place.wake, 1)

    cdef void lose_slot(self, Task task) noexcept:
        """A call was in a slot, unclaimed, when its lane's worker died."""
        self.in_slots[task.home - 1] -= 1
        self.pay(task.home - 1)
        self.doom(task)

    cdef void finished(self, Task task, uint32_t lane) noexcept:
        """A worker has answered a strict call; before its slot is given on."""
        cdef Binding *entry
        if task.home:
            self.left_slot(task)
        elif task.founder:
            task.founder = False
            entry = self.find(task.session)
            if entry != NULL and entry.state == UNDECIDED and entry.founder == <void *>task:
                self.bind_founder(entry, lane)

    cdef void bind_founder(self, Binding *entry, uint32_t lane) noexcept:
        """The session's first call was claimed by that lane. `entry` may be another's after this, as after `bind`."""
        self.bind(entry, lane)

    cdef void unlist(self, Task task) noexcept:
        """Take a call out of the list in which it waits here."""
        cdef Binding *entry
        self.length -= 1
        if task.home:
            (<PendingList>self.waiting[task.home - 1]).remove(task)
            self.pay(task.home - 1)
            task.home = 0
            return
        entry = self.find(task.session)
        if task.previous != NULL:
            (<Task>task.previous).following = task.following
        else:
            entry.first_waiter = task.following
        if task.following != NULL:
            (<Task>task.following).previous = task.previous
        else:
            entry.last_waiter = task.previous
        task.previous = task.following = NULL
        task.listed = False
        # Never the last reference: the caller holds one.
        Py_DECREF(task)

    # -- sessions ----------------------------------------------------------------------------------------------------------

    cdef int lane_of_founder(self, Binding *entry) noexcept:
        """The lane that has claimed the first call of a session, or -1.

        Its incarnation is the present one: had that worker been buried, the entry would not be undecided.
        """
        cdef Task founder = <Task>entry.founder
        cdef uint64_t word
        if founder.listed or founder.slot == NO_SLOT:
            return -1
        word = load64(&self.control.slots[founder.slot].claim)
        if claim_generation(word) == founder.generation and (
            claim_state(word) == RUNNING or claim_state(word) == DONE
        ):
            return <int>claim_lane(word)
        return -1

    cdef void bind(self, Binding *entry, uint32_t lane) noexcept:
        """The session's worker is known: what waited for that goes to its lane."""
        cdef Task task
        entry.state = BOUND
        entry.founder = NULL
        entry.lane = <uint16_t>lane
        entry.incarnation = self.control.lanes[lane].incarnation
        while entry.first_waiter != NULL:
            task = self.pop_waiter(entry)
            if entry.state == BOUND and self.take_on(entry, task):
                self.wait(task)
            else:
                task.home = entry.lane + 1
                self.doom(task)
        if entry.forgotten:
            self.remove(entry)

    cdef Task succeed(self, Task founder):
        """The first call of a session was taken back unclaimed: the next in line, unlisted, or None."""
        cdef Binding *entry = self.find(founder.session)
        cdef Task task
        founder.founder = False
        if entry == NULL or entry.state != UNDECIDED or entry.founder != <void *>founder:
            return None
        if entry.first_waiter == NULL:
            self.remove(entry)
            return None
        task = self.pop_waiter(entry)
        task.founder = True
        entry.founder = <void *>task
        return task

    cdef void lose_founder(self, Task founder, uint32_t lane) noexcept:
        """The worker that claimed the first call of a session is dead: what the call left there is gone."""
        cdef Binding *entry = self.find(founder.session)
        if entry != NULL and entry.state == UNDECIDED and entry.founder == <void *>founder:
            founder.founder = False
            self.bind(entry, lane)

    cdef void lose_lane(self, uint32_t lane) noexcept:
        """A lane's worker is dead: doom the calls that wait for it. Those in slots are the burial's."""
        cdef PendingList waiting = <PendingList>self.waiting[lane]
        cdef Task task
        while waiting.length:
            task = waiting.pop()
            self.length -= 1
            self.pay(lane)
            self.doom(task)

    cdef void lane_lost(self, uint32_t lane) noexcept:
        """The burial of a lane's worker is over."""

    cdef void doom(self, Task task) noexcept:
        """Keep a call, which stands nowhere else, until it is failed; `home` tells for which lane it was."""
        Py_INCREF(task)
        task.following = NULL
        if self.last_doomed != NULL:
            (<Task>self.last_doomed).following = <void *>task
        else:
            self.first_doomed = <void *>task
        self.last_doomed = <void *>task
        self.n_doomed += 1

    cdef Task next_doomed(self):
        """Take a doomed call, None when there is none; the caller counts `n_doomed` down once it is failed."""
        cdef Task task
        if self.first_doomed == NULL:
            return None
        task = <Task>self.first_doomed
        self.first_doomed = task.following
        if self.first_doomed == NULL:
            self.last_doomed = NULL
        task.following = NULL
        Py_DECREF(task)
        return task

    cdef bint forget(self, uint64_t key) noexcept:
        """Strike a session off; its next call begins it anew, wherever. False when it is unknown."""
        cdef Binding *entry = self.find(key)
        if entry == NULL or entry.forgotten:
            return False
        if entry.first_waiter != NULL:
            entry.forgotten = True      # Calls that belong together stay together.
        else:
            self.remove(entry)
        return True

    cdef list sessions_of(self, uint32_t lane, uint32_t incarnation):
        """Mark the sessions of a worker that is gone as lost, and return their keys."""
        cdef uint64_t i
        cdef list found = []
        cdef Binding *entry
        for i in range(self.capacity):
            entry = &self.table[i]
            if entry.key and entry.state != UNDECIDED and entry.lane == lane and entry.incarnation == incarnation:
                entry.state = LOST
                found.append(entry.key)
        return found

    cdef int gather(self, uint64_t session, bint take, list found) except -1:
        """Add to `found` the calls of a session (0: of all) that wait here; `take`: and unlist them."""
        cdef uint64_t i
        cdef uint32_t lane
        cdef void *at
        cdef size_t before = len(found)
        for lane in range(self.control.n_lanes):
            for i in range(PRIORITIES):
                at = (<PendingList>self.waiting[lane]).first[i]
                while at != NULL:
                    if session == 0 or (<Task>at).session == session:
                        found.append(<Task>at)
                    at = (<Task>at).following
        for i in range(self.capacity):
            if self.table[i].key and (session == 0 or self.table[i].key == session):
                at = self.table[i].first_waiter
                while at != NULL:
                    found.append(<Task>at)
                    at = (<Task>at).following
        if take:
            for i in range(before, len(found)):
                self.unlist(<Task>found[i])
        return 0

    cdef uint64_t queued(self) noexcept nogil:
        """Calls on bound rings and in the lists here."""
        cdef uint64_t total = self.length
        cdef uint32_t lane
        cdef int priority
        cdef Ring *ring
        for lane in range(self.control.n_lanes):
            if load32(&self.control.lanes[lane].owed):
                for priority in range(PRIORITIES):
                    ring = &self.control.lanes[lane].bound[priority]
                    total += ring_queued(ring, self.control.cells(ring), self.control.slots)
        return total

    # -- the chain of waiters ----------------------------------------------------------------------------------------------

    cdef void append_waiter(self, Binding *entry, Task task) noexcept:
        Py_INCREF(task)
        task.previous = entry.last_waiter
        task.following = NULL
        if entry.last_waiter != NULL:
            (<Task>entry.last_waiter).following = <void *>task
        else:
            entry.first_waiter = <void *>task
        entry.last_waiter = <void *>task
        task.listed = True
        self.length += 1

    cdef Task pop_waiter(self, Binding *entry):
        cdef Task task = <Task>entry.first_waiter
        entry.first_waiter = task.following
        if task.following != NULL:
            (<Task>task.following).previous = NULL
        else:
            entry.last_waiter = NULL
        task.following = NULL
        task.listed = False
        self.length -= 1
        Py_DECREF(task)
        return task

    # -- the table ---------------------------------------------------------------------------------------------------------

    cdef Binding *find(self, uint64_t key) noexcept:
        cdef uint64_t i
        if self.capacity == 0:
            return NULL
        i = mixed(key) & (self.capacity - 1)
        while self.table[i].key:
            if self.table[i].key == key:
                return &self.table[i]
            i = (i + 1) & (self.capacity - 1)
        return NULL

    cdef Binding *insert(self, uint64_t key) noexcept:
        """A new entry for a session that has none, UNDECIDED; NULL without memory. Moves the other entries."""
        cdef uint64_t i
        if 2 * (self.known + 1) > self.capacity and not self.grow():
            return NULL
        i = mixed(key) & (self.capacity - 1)
        while self.table[i].key:
            i = (i + 1) & (self.capacity - 1)
        self.table[i] = Binding(key, NULL, NULL, NULL, 0, 0, UNDECIDED, False, 0, False, False, 0, 0)
        self.known += 1
        return &self.table[i]

    cdef bint grow(self) noexcept:
        cdef uint64_t i, at
        cdef uint64_t capacity = max(2 * self.capacity, <uint64_t>LEAST_CAPACITY)
        cdef Binding *table
        cdef void *memory = calloc(capacity + 1, sizeof(Binding))
        if memory == NULL:
            return False
        # Each entry is a cache line: what calloc gives is not aligned so far.
        table = <Binding *>(((<uintptr_t>memory + sizeof(Binding) - 1) // sizeof(Binding)) * sizeof(Binding))
        for i in range(self.capacity):
            if self.table[i].key:
                at = mixed(self.table[i].key) & (capacity - 1)
                while table[at].key:
                    at = (at + 1) & (capacity - 1)
                table[at] = self.table[i]
        free(self.memory)
        self.memory = memory
        self.table = table
        self.capacity = capacity
        return True

    cdef void remove(self, Binding *entry) noexcept:
        """Strike an entry off and close the gap, so that no probe ends before what it looks for."""
        cdef uint64_t mask = self.capacity - 1
        cdef uint64_t gap = entry - self.table
        cdef uint64_t i = gap
        cdef uint64_t home
        while True:
            i = (i + 1) & mask
            if self.table[i].key == 0:
                break
            home = mixed(self.table[i].key) & mask
            # Movable only if the gap lies between the place it belongs to and the one it has.
            if ((i - home) & mask) >= ((i - gap) & mask):
                self.table[gap] = self.table[i]
                gap = i
        self.table[gap].key = 0
        self.known -= 1

    cdef const void *place_of(self, uint64_t key) noexcept:
        """Where a session's entry is, or near it. Not under the mutex: only for the CPU to fetch."""
        return &self.table[mixed(key) & (self.capacity - 1)]
