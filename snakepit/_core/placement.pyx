# cython: language_level=3
"""Where the calls of a pool stand until they are settled, and how a lane comes to hear of them.

    place    a free slot, its cell on a ring: the private one of the idle lane that last ran the session, or, for a new
             one, whose answer came last; the bound one of the lane that a strict call must have; or the shared one of
             its priority
    else     the pending list, or the strict calls' own (`bindings.pyx`), until `free_slot` refills the slot
    wake     as many sleeping lanes as there are calls that no searching lane will take

A lane that is free takes the oldest call itself (`claimant.pyx`), so the owner never has to guess who will be free
first, nobody holds work in advance, and workers go on while the owner's interpreter is busy elsewhere.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.atomics cimport cas64, fence, load32, load64, store32, store64, wake
from snakepit._core.bindings cimport ANYWHERE, AT_HOME, BOUND, Binding, Bindings
from snakepit._core.completions cimport Completions
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit, count_seekers, idlest_sleeper, lowest_bit, set_bit, test_bit
from snakepit._core.lane_cache cimport CACHE_BYTES, CACHE_SETS, CACHE_WAYS, NO_LANE, note_lane, recall_lane, set_of
from snakepit._core.layout cimport (
    FILLING, FREE, LANE_READY, NOBODY, ORDER_SERVE, PRIORITIES, QUEUED, RUNNING, Header, Lane, Ring, Slot, cell_word,
    claim_generation, claim_lane, claim_state, claim_word,
)
from snakepit._core.memory cimport map_private, unmap_private
from snakepit._core.mutex cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from snakepit._core.points cimport (
    PLACE_CHOSEN, PLACE_FILLED, PLACE_OFFERED, PLACE_PUSHED, PLACE_QUEUED, WAKE_CHOSE, WAKE_COUNTED, point,
)
from snakepit._core.queue cimport NO_SLOT, PendingList, ring_length, ring_make_room, ring_push
from snakepit._core.spinning cimport SHORT_NS
from snakepit._core.task cimport Task, refuse_in_child


cdef class Placement(Completions):
    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __init__(self, Control control):
        cdef uint32_t i
        self.control = control
        self.n_slots = control.n_slots
        self.spin_ns = control.header.spin_limit_ns
        # Behind one another, those of the widest entries first: each begins where its entries may.
        self.tables_size = (
            CACHE_BYTES + <uint64_t>control.n_slots * (sizeof(void *) + sizeof(uint32_t) + 1) + control.n_mail
        )
        self.lanes_used = <uint64_t *>map_private(self.tables_size)
        self.tasks = <void **>(self.lanes_used + CACHE_SETS * CACHE_WAYS)
        self.free_slots = <uint32_t *>(self.tasks + control.n_slots)
        self.taken = <char *>(self.free_slots + control.n_slots)
        for i in range(control.n_slots):
            self.free_slots[i] = control.n_slots - 1 - i
        self.n_free = control.n_slots
        self.pending = PendingList()
        self.open = True

    def __dealloc__(self):
        cdef uint32_t i
        if self.tasks:
            for i in range(self.n_slots):
                if self.tasks[i]:
                    Py_DECREF(<object>self.tasks[i])
            unmap_private(<char *>self.lanes_used, self.tables_size)
        pthread_mutex_destroy(&self.mutex)

    # -- placing -------------------------------------------------------------------------------------------------------

    cdef int admit(self, Task task) noexcept:
        """Queue a strict call, or refuse it (see `Bindings.admit`). Under the mutex."""
        cdef int verdict = self.bindings.admit(task)
        if verdict == ANYWHERE:
            if not self.place(task):
                self.pending.append(task)
        elif verdict == AT_HOME:
            if self.bindings.must_wait(task) or not self.place(task):
                self.bindings.wait(task)
        # Its session may just have got a worker, and with it what waited for that.
        self.refill()
        return verdict

    cdef bint place(self, Task task) noexcept:
        """Put the task into a slot and on a ring; False when there is no room. Under the mutex."""
        cdef Control control = self.control
        cdef Ring *ring = &control.header.queues[task.priority]
        cdef uint32_t index
        cdef uint64_t generation
        cdef Slot *slot
        if self.n_free == 0:
            return False
        if task.home:
            ring = &control.lanes[task.home - 1].bound[task.priority]
            if not self.bindings.has_room(task.home - 1):
                return False
        if not ring_make_room(ring, control.cells(ring), control.slots):
            return False
        self.n_free -= 1
        index = self.free_slots[self.n_free]
        point(PLACE_CHOSEN)
        slot = &control.slots[index]
        generation = claim_generation(slot.claim) + 1
        store64(&slot.claim, claim_word(generation, NOBODY, FILLING))
        slot.kind = task.kind
        slot.encoding = task.encoding
        slot.flags = task.flags
        slot.priority = task.priority
        slot.length = task.length
        slot.definition = task.definition
        slot.definition_epoch = task.epoch
        slot.items = task.items
        slot.cancel = 0
        slot.task = task.number
        slot.deadline_ns = task.deadline_ns
        slot.session = task.session
        slot.parent = task.parent
        slot.tenure = task.tenure
        slot.attempt = task.attempt
        if task.segment is not None:
            slot.segment = task.segment.index + 1
        else:
            slot.segment = 0
            if task.length:
                memcpy(control.payload(index, task.length), PyBytes_AS_STRING(task.inline), task.length)
        self.bytes_in += task.length
        Py_INCREF(task)
        self.tasks[index] = <void *>task
        task.slot = index
        task.generation = generation
        point(PLACE_FILLED)
        store64(&slot.claim, claim_word(generation, NOBODY, QUEUED))
        point(PLACE_QUEUED)
        if task.home:
            ring_push(ring, control.cells(ring), cell_word(generation, index))
            self.bindings.entered(task)
        elif not (task.session and self.push_private(task, cell_word(generation, index))):
            ring_push(ring, control.cells(ring), cell_word(generation, index))
        point(PLACE_PUSHED)
        return True

    cdef bint is_free(self, uint32_t index) noexcept nogil:
        """Whether the lane has no task and will look for one."""
        cdef Header *header = self.control.header
        if test_bit(header.running, index):
            # Between two tasks, too: it comes round to its private ring first. A caller who waits for each call has the
            # answer before the lane says that it is idle.
            return not self.control.is_engaged(index)
        return test_bit(header.searching, index) or test_bit(header.sleeping, index)

    cdef uint32_t lane_of_session(self, uint64_t session) noexcept:
        """The lane that last ran the session, or NO_LANE."""
        cdef uint32_t lane = recall_lane(self.lanes_used, session)
        cdef Binding *entry
        if lane == NO_LANE and self.bindings is not None:
            # Strict calls are not noted twice.
            entry = self.bindings.find(session)
            if entry != NULL and entry.state == BOUND:
                lane = entry.lane
        return lane

    cdef uint32_t lane_to_offer(self, uint64_t session) noexcept:
        """The lane that last ran the session, or a free one of the same worker; NO_LANE: none of them is free.

        For a new session, the lane whose answer came last, if it searches and has nothing to do: sessions that are begun
        one by one gather there, and a caller who goes from one to the next wakes nobody.
        """
        cdef Header *header = self.control.header
        cdef uint32_t index = self.lane_of_session(session)
        cdef uint32_t i, first
        if index >= self.control.n_lanes:
            index = self.answered_last
            # Not between two tasks, as below: where it lacks the CPU, or the GIL, others are sooner.
            if (test_bit(header.searching, index) and not test_bit(header.running, index)
                    and load32(&self.control.lanes[index].retire) == ORDER_SERVE and not self.control.has_work(index)):
                return index
            return NO_LANE
        if self.is_free(index):
            return index
        first = index - index % header.threads
        for i in range(first, first + header.threads):
            if self.is_free(i):
                return i
        return NO_LANE

    cdef bint push_private(self, Task task, uint64_t cell) noexcept:
        """Offer the task to the lane that is for its session; False: everybody has to be told of it."""
        cdef uint32_t index = self.lane_to_offer(task.session)
        cdef Lane *lane
        if index == NO_LANE:
            return False
        lane = &self.control.lanes[index]
        if not ring_push(&lane.private, self.control.cells(&lane.private), cell):
            return False
        point(PLACE_OFFERED)
        fence()
        self.control.rouse(index)
        # The lane may have taken other work meanwhile, or be about to leave; then the shared ring gets the task too, and
        # the first claim wins. What it does from now on, it does with the offer in sight (`note_claim`, `depart`).
        return (load32(&lane.state) == LANE_READY and load32(&lane.retire) == ORDER_SERVE
                and not self.control.is_engaged(index))

    cdef void wake_lanes(self) noexcept nogil:
        """Wake as many sleeping lanes as there are queued tasks that no searching lane will take."""
        cdef Header *header = self.control.header
        cdef uint32_t lanes = self.control.n_lanes
        cdef uint32_t index, searching
        cdef uint64_t queued = 0
        cdef int i
        # Pairs with the fence of a lane that goes to sleep: it sees the task or we see its bit.
        fence()
        index = idlest_sleeper(header.sleeping, header.running, header.searching, lanes, header.threads)
        if index >= lanes:
            return
        # Waking costs more than a short task takes: while lanes run those, a lane that dozes is soon enough.
        # It passes on what it does not take itself (`Claimant.note_claim`).
        if (0 < load32(&header.typical_ns) < SHORT_NS and lowest_bit(header.drowsy, lanes) < lanes
                and lowest_bit(header.running, lanes) < lanes):
            return
        for i in range(PRIORITIES):
            queued += ring_length(&header.queues[i])
        searching = count_seekers(header.searching, header.running, lanes)
        while queued > searching and index < lanes:
            if clear_bit(header.sleeping, index):
                point(WAKE_CHOSE)
                set_bit(header.searching, index)
                point(WAKE_COUNTED)
                store32(&self.control.lanes[index].wake, 1)
                wake(&self.control.lanes[index].wake, 1)
                searching += 1
            index = idlest_sleeper(header.sleeping, header.running, header.searching, lanes, header.threads)

    cdef void refill(self) noexcept:
        """Move pending tasks into free slots. Under the mutex."""
        cdef Task task
        while self.n_free:
            task = None
            # In turn with the calls that wait for one lane each, so that neither keeps the other waiting.
            self.home_turn = not self.home_turn
            if self.bindings is not None and (self.home_turn or self.pending.length == 0):
                task = self.bindings.next_waiting()
                if task is not None:
                    self.place(task)    # There is a slot, and that lane has room.
                    continue
            if self.pending.length == 0:
                return
            task = self.pending.pop()
            if not self.place(task):
                self.pending.put_back(task)
                return

    cdef void free_slot(self, uint32_t index) noexcept:
        """Return a slot and use it for a pending task. Under the mutex."""
        cdef Slot *slot = &self.control.slots[index]
        store64(&slot.claim, claim_word(claim_generation(slot.claim), NOBODY, FREE))
        self.taken[index] = 0
        if index < self.control.n_slots:
            self.free_slots[self.n_free] = index
            self.n_free += 1
            self.refill()

    cdef bint is_full(self) noexcept:
        """Whether as many calls wait for a worker as may. Under the mutex."""
        cdef Control control = self.control
        cdef uint64_t queued = self.pending.length + (0 if self.bindings is None else self.bindings.length)
        cdef uint32_t i
        # Mostly there are fewer under way than may wait, and no word that workers write has to be read to know it.
        if queued + (self.n_slots - self.n_free) < self.most_queued:
            return False
        # Those that a worker without a task is about to take do not count.
        for i in range(self.n_slots):
            if claim_state(load64(&control.slots[i].claim)) == QUEUED:
                queued += 1
        for i in range(control.n_lanes):
            if (load32(&control.lanes[i].state) == LANE_READY and not load32(&control.lanes[i].retire)
                    and not test_bit(control.header.running, i) and queued):
                queued -= 1
        return queued >= self.most_queued

    # -- taking back ---------------------------------------------------------------------------------------------------

    cdef bint stands_in_slot(self, Task task) noexcept:
        return task.slot != NO_SLOT and self.tasks[task.slot] == <void *>task

    cdef bint win_back(self, Task task) noexcept:
        """Win a task that stands in a slot from the lanes, whose slot is to be freed; False when one has claimed it."""
        cdef uint64_t word = claim_word(task.generation, NOBODY, QUEUED)
        if not cas64(&self.control.slots[task.slot].claim, word, claim_word(task.generation, NOBODY, FILLING)):
            return False
        self.tasks[task.slot] = NULL
        return True

    cpdef bint take_back(self, Task task) except -1:
        """Take a task that has not started out of the queues, its message intact; False when it started."""
        cdef bint withdrawn = False
        cdef bint placed = False
        cdef Task successor
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            if task.affinity and not task.founder:
                self.bindings.unlist(task)
                self.refill()
            else:
                self.pending.remove(task)
            withdrawn = True
        elif self.stands_in_slot(task):
            if self.win_back(task):
                if task.affinity:
                    self.bindings.left_slot(task)
                self.free_slot(task.slot)
                withdrawn = True
                placed = True
        if withdrawn and task.founder:
            successor = self.bindings.succeed(task)
            if successor is not None and not self.place(successor):
                self.pending.append(successor)
        pthread_mutex_unlock(&self.mutex)
        if placed:
            Py_DECREF(task)
        if withdrawn:
            # Where it stood, or where its session waited for its end, another may have come in.
            self.wake_lanes()
        return withdrawn

    cdef bint is_running(self, Task task) noexcept:
        return self.lane_of_task(task) >= 0

    cpdef int lane_of_task(self, Task task, bint even_settled=False) noexcept:
        """The lane that runs the task now, or -1; a task that timed out is settled but may run on."""
        cdef uint64_t word
        if task.slot == NO_SLOT or (task.is_settled() and not even_settled):
            return -1
        word = load64(&self.control.slots[task.slot].claim)
        if claim_generation(word) == task.generation and claim_state(word) == RUNNING:
            return <int>claim_lane(word)
        return -1

    def in_slots(self) -> list:
        """Return the tasks that stand in slots: queued there, running, or completed but not collected."""
        cdef uint32_t index
        cdef list found = []
        cdef Task task
        for index in range(self.control.n_slots):
            task = None
            pthread_mutex_lock(&self.mutex)
            if self.tasks[index]:
                task = <Task>self.tasks[index]
            pthread_mutex_unlock(&self.mutex)
            if task is not None:
                found.append(task)
        return found

    # -- sessions ------------------------------------------------------------------------------------------------------

    cdef const void *place_of(self, Task task) noexcept:
        """Where it is noted which lane a call's session is for: for the CPU to fetch, never to be read."""
        return self.bindings.place_of(task.session) if task.affinity else set_of(self.lanes_used, task.session)

    def prefer_lane(self, uint64_t session, uint32_t lane) -> None:
        """Have the next call of a session offered to a lane, as if that had run the last."""
        pthread_mutex_lock(&self.mutex)
        note_lane(self.lanes_used, session, lane)
        pthread_mutex_unlock(&self.mutex)

    cdef int begin_bindings(self) except -1:
        cdef Bindings bindings = Bindings(self.control)
        pthread_mutex_lock(&self.mutex)
        if self.bindings is None:
            self.bindings = bindings
        pthread_mutex_unlock(&self.mutex)
        return 0

    def forget_session(self, uint64_t session) -> bool:
        """Let a strict session begin anew with its next call; False when it is unknown."""
        cdef bint known = False
        if self.bindings is not None:
            pthread_mutex_lock(&self.mutex)
            known = self.bindings.forget(session)
            pthread_mutex_unlock(&self.mutex)
        return known

    def sessions_of_lane(self, uint32_t lane) -> list:
        """Keys of the strict sessions of a lane's worker, which is dead and has no successor yet."""
        if self.bindings is None:
            return []
        pthread_mutex_lock(&self.mutex)
        try:
            return self.bindings.sessions_of(lane, self.control.lanes[lane].incarnation)
        finally:
            pthread_mutex_unlock(&self.mutex)
