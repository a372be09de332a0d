# cython: language_level=3
"""The owner's side of the scheduler.

    submit -> encode (channel) -> place: a free slot, its cell on a ring, one sleeping lane woken if none searches
                                  or append to the pending list, when no slot is free
    collect: completion list -> decode -> free the slot, refill it from the pending list -> settle the task

A lane that is free takes the oldest task itself (`lane.pyx`), so the owner never has to guess who will be free first,
nobody holds work in advance, and workers go on while the owner's interpreter is busy elsewhere.
"""
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_SetInterrupt
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport add32, add64, cas32, cas64, fence, load32, load64, now_ns, store32, store64, swap32, wake
from snakepit._core.bindings cimport ANYWHERE, AT_HOME, WORKER_LOST, Bindings
from snakepit._core.channel cimport Channel
from snakepit._core.completions cimport THREAD_BELL, Completions
from snakepit._core.control cimport Control
from snakepit._core.counters cimport Histogram, clear_bit, count_bits, idlest_sleeper, lowest_bit, set_bit, test_bit
from snakepit._core.definitions cimport Published
from snakepit._core.layout cimport (
    CALL, FILLING, FREE, IN_SEGMENT, IS_ERROR, KEPT, LANE_READY, LANE_STARTING, MAIL_ASK, NOBODY, PRIORITIES, QUEUED, RUNNING,
    Header, Lane, Ring, Slot, cell_word, claim_generation, claim_lane, claim_state, claim_word,
)
from snakepit._core.memory cimport map_private, unmap_private
from snakepit._core.points cimport (
    COLLECT_SWAPPED, COLLECT_TAKEN, FINISH_BEGUN, FINISH_DECODED, FINISH_FREED, MAIL_DELIVERED, MAIL_DELIVERING,
    PLACE_CHOSEN, PLACE_FILLED, PLACE_OFFERED, PLACE_PUSHED, PLACE_QUEUED, WAKE_CHOSE, WAKE_COUNTED, point,
)
from snakepit._core.queue cimport NO_SLOT, PendingList, ring_length, ring_push, ring_skip_dead
from snakepit._core.task cimport Task, deadline_after, refuse_in_child

from snakepit.errors import DecodeError, PoolSaturatedError, PoolShutdownError, RemoteTraceback

cdef enum:
    BATCH = 128                         # completions handled between two looks at the shared list
    AFFINITY = 16384                    # entries of the session table; collisions only cost warmth
    ENOUGH = 8 * BATCH                  # completions that a caller settles for others once it has its own
    SHORT_NS = 20_000                   # tasks shorter than this are not worth waking another lane for

cdef uint64_t NEVER = <uint64_t>-1      # `armed_ns` when no task is watched


cdef class Scheduler(Completions):
    """Schedules calls for one pool.

    `known`: functions whose number holds for good. `on_mail(kind, lane, number, definition, epoch, encoding, flags,
    payload, segment, length)` hears what workers say on their own; `on_idle()` is called when the pool takes no more
    tasks and the last one is settled.
    """

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __init__(self, Control control, Arena arena, Channel channel, dict known, on_mail, on_idle):
        cdef uint32_t i
        self.control = control
        self.n_slots = control.n_slots
        self.arena = arena
        self.channel = channel
        self.known = known
        self.on_mail = on_mail
        self.on_idle = on_idle
        self.spin_ns = control.header.spin_limit_ns
        # Behind one another, those of the widest entries first: each begins where its entries may.
        self.tables_size = (
            <uint64_t>AFFINITY * (sizeof(uint64_t) + sizeof(uint16_t))
            + <uint64_t>control.n_slots * (sizeof(void *) + sizeof(uint32_t) + 1) + control.n_mail
        )
        self.tasks = <void **>map_private(self.tables_size)
        self.session_of = <uint64_t *>(self.tasks + control.n_slots)
        self.free_slots = <uint32_t *>(self.session_of + AFFINITY)
        self.lane_of = <uint16_t *>(self.free_slots + control.n_slots)
        self.taken = <char *>(self.lane_of + AFFINITY)
        for i in range(control.n_slots):
            self.free_slots[i] = control.n_slots - 1 - i
        self.n_free = control.n_slots
        self.pending = PendingList()
        self.verdicts = deque()
        self.latency = Histogram()
        self.running_time = Histogram()
        self.armed_ns = NEVER
        self.open = True

    def __dealloc__(self):
        cdef uint32_t i
        if self.tasks:
            for i in range(self.n_slots):
                if self.tasks[i]:
                    Py_DECREF(<object>self.tasks[i])
            unmap_private(<char *>self.tasks, self.tables_size)
        pthread_mutex_destroy(&self.mutex)

    # -- submitting ----------------------------------------------------------------------------------------------------

    def submit_known(self, Task task, context, function, tuple args, dict kwargs) -> bool:
        """Queue a call of a function that `known` has a number for; False, and nothing done, when it has none."""
        definition = self.known.get(function)
        if definition is None:
            return False
        task.context = context
        self.submit(task, definition, function, args, kwargs)
        return True

    cpdef submit(self, Task task, Published definition, function, tuple args, dict kwargs):
        """Encode a call into `task` and queue it.

        `definition`: the function's number, or None to send `function` along. Raises EncodeError, ArenaFullError,
        PoolShutdownError, ForkedPoolError; then the task is not queued.
        """
        # Before anything is encoded: what a forked child took from the arena would be lost to its parent for good.
        refuse_in_child(self)
        if definition is not None:
            task.function = definition
            task.definition = definition.number
            task.epoch = definition.epoch
            self.channel.encode_call(task, None, args, kwargs, task.deadline_ns)
        else:
            self.channel.encode_call(task, function, args, kwargs, task.deadline_ns)
        self.enter(task)

    def submit_numbered(self, Task task, context, Published definition, tuple args, dict kwargs, uint64_t timeout_ns,
                        uint64_t patience_ns, int priority, session):
        """Queue a call of a function that has a number, under all its terms: the one step of a tool's call.

        `timeout_ns`, `patience_ns`: how long from now it has to end, and to start; 0: any time. Raises as `submit` does.
        """
        task.context = context
        task.priority = priority
        task.session = session
        task.session_key = session
        if timeout_ns or patience_ns:
            self.set_limits(task, timeout_ns, patience_ns)
        task.function = definition
        task.definition = definition.number
        task.epoch = definition.epoch
        self.channel.encode_call(task, None, args, kwargs, task.deadline_ns)
        self.enter(task)

    def submit_items(self, Task task, Published definition, function, int kind, list items):
        """Encode a chunk of `map` (kind CALL_EACH or CALL_STAR) into `task` and queue it."""
        refuse_in_child(self)
        task.kind = kind
        task.items = len(items)
        if definition is not None:
            task.function = definition
            task.definition = definition.number
            task.epoch = definition.epoch
            self.channel.encode_value(task, items, task.deadline_ns)
        else:
            self.channel.encode_call(task, function, (items,), {}, task.deadline_ns)
        self.enter(task)

    def encode(self, Task call, Published definition, function, int kind, tuple args, dict kwargs):
        """Encode a call, or a chunk of `map` (kind CALL_EACH or CALL_STAR, its items alone in `args`), into `call`.

        It is not queued: `attempt` does that, as often as need be. Raises EncodeError, ArenaFullError, ForkedPoolError.
        """
        refuse_in_child(self)
        call.owner = self
        call.kind = kind
        if kind != CALL:
            call.items = len(args[0])
        if definition is not None:
            call.function = definition
            call.definition = definition.number
            call.epoch = definition.epoch
            if kind != CALL:
                self.channel.encode_value(call, args[0], call.deadline_ns)
            else:
                self.channel.encode_call(call, None, args, kwargs, call.deadline_ns)
        else:
            self.channel.encode_call(call, function, args, kwargs, call.deadline_ns)
        if call.flags & IN_SEGMENT:
            call.flags |= KEPT

    def attempt(self, Task task, Task call, bint first):
        """Queue `task`, an attempt at a call that `encode` prepared. Only the first is refused by a closed pool."""
        task.kind = call.kind
        task.items = call.items
        task.encoding = call.encoding
        task.flags = call.flags
        task.inline = call.inline
        # Shared by both, so that a worker which still copies it after the call was settled finds it unchanged.
        task.segment = call.segment
        task.shared = call.shared
        task.length = call.length
        task.function = call.function
        task.definition = call.definition
        task.epoch = call.epoch
        task.priority = call.priority
        task.session = call.session
        task.affinity = call.affinity
        task.session_name = call.session_name
        task.deadline_ns = call.deadline_ns
        self.enter(task, not first)

    def submit_encoded(self, Task task, Published definition, int encoding, int flags, bytes payload, Segment segment,
                       uint64_t length):
        """Queue a call whose payload is encoded already, as a worker sends it."""
        task.encoding = encoding
        task.flags = flags
        task.inline = payload
        task.segment = segment
        task.length = length
        if definition is not None:
            task.function = definition
            task.definition = definition.number
            task.epoch = definition.epoch
        self.enter(task, True)

    def set_terms(self, Task task, timeout, int priority, session, int affinity=0, session_name=None):
        """Set what a call is run under: seconds or None, 0 (high) to 2 (low), session key or 0, how close it keeps.

        `affinity`: 0 a hint, 1 strict, 2 strict and not waiting; then `session_name` is for messages.
        """
        cdef Bindings bindings
        if timeout is not None:
            task.deadline_ns = deadline_after(timeout)
        task.priority = priority
        task.session = session
        task.session_key = session
        if affinity:
            task.affinity = affinity
            task.session_name = session_name
            if self.bindings is None:
                bindings = Bindings(self.control)
                pthread_mutex_lock(&self.mutex)
                if self.bindings is None:
                    self.bindings = bindings
                pthread_mutex_unlock(&self.mutex)

    cpdef set_limits(self, Task task, uint64_t timeout_ns, uint64_t patience_ns):
        """Have a task that is about to be queued watched: ns from now until it must have ended, and started; 0: none."""
        cdef uint64_t now = now_ns()
        if timeout_ns:
            task.timeout_ns = timeout_ns
            task.deadline_ns = task.due_ns = now + timeout_ns
        if patience_ns:
            task.start_by_ns = now + patience_ns
            if not task.due_ns or task.start_by_ns < task.due_ns:
                task.due_ns = task.start_by_ns

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

    def prefer_lane(self, uint64_t session, uint32_t lane) -> None:
        """Have the next call of a session offered to a lane, as if that had run the last."""
        self.session_of[session % AFFINITY] = session
        self.lane_of[session % AFFINITY] = <uint16_t>lane

    cdef int enter(self, Task task, bint from_worker=False) except -1:
        cdef bint open_
        cdef int verdict = AT_HOME
        cdef bint full = False
        cdef bint sooner = False
        refuse_in_child(self)
        task.owner = self
        task.submitted_ns = now_ns()
        task.number = add64(&self.next_number, 1) + 1
        pthread_mutex_lock(&self.mutex)
        # A task that runs while the pool closes may still need tasks of its own.
        open_ = self.open or from_worker
        # A chunk of `map` is no call that could be refused: what it has under way is bounded by its own buffer.
        full = self.most_queued and open_ and not from_worker and task.kind == CALL and self.is_full()
        if open_ and not full:
            self.n_submitted += 1
            if task.affinity:
                verdict = self.admit(task)
            elif not self.place(task):
                self.pending.append(task)
            if task.due_ns and task.due_ns < self.armed_ns:
                self.armed_ns = task.due_ns
                sooner = True
        pthread_mutex_unlock(&self.mutex)
        if not open_:
            raise PoolShutdownError.of(self.control.header.pool_name.decode("utf-8", "replace"))
        if full:
            self.refuse_full()
        self.wake_lanes()
        if sooner:
            self.on_due(task.due_ns)
        if verdict >= WORKER_LOST:
            self.refuse(task, verdict)
        return 0

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

    cdef int refuse(self, Task task, int verdict) except -1:
        """Fail a strict call that was not queued. The error is the future's, as it is of what cannot be encoded."""
        error = self.explain(task, verdict, <int>task.home - 1)
        task.clear()
        if task.on_settled is not None:
            # Who submitted it may hold a lock that the pool's own hook wants.
            self.fail_elsewhere(task, error)
        else:
            self.fail(task, error)
        # Where a session is found lost, calls that came before may have waited for it.
        return self.fail_doomed()

    cdef int fail_doomed(self) except -1:
        """Fail the calls whose worker is gone."""
        cdef Task task
        while self.bindings is not None and self.bindings.n_doomed:
            task = None                 # Not under the mutex: it may be the last reference to a result.
            pthread_mutex_lock(&self.mutex)
            task = self.bindings.next_doomed()
            pthread_mutex_unlock(&self.mutex)
            if task is None:
                break                   # Another thread has it.
            try:
                error = self.explain(task, WORKER_LOST, <int>task.home - 1)
            except BaseException as problem:
                error = problem
            task.clear()
            self.fail_elsewhere(task, error)
            pthread_mutex_lock(&self.mutex)
            # Not before its verdict counts: at every instant something says that the task is not settled.
            self.bindings.n_doomed -= 1
            pthread_mutex_unlock(&self.mutex)
        return 0

    def refuse_full(self):
        name = self.control.header.pool_name.decode("utf-8", "replace")
        raise PoolSaturatedError(
            f"pool {name!r} is saturated: {self.most_queued} calls wait for a worker, as many as max_queue_size lets "
            "wait; submit again later, or give the pool more workers or a longer queue",
            details={"pool": name, "max_queue_size": self.most_queued},
        )

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
        if ring.tail - load64(&ring.head) > ring.mask:
            ring_skip_dead(ring, control.cells(ring), control.slots)
            if ring.tail - load64(&ring.head) > ring.mask:
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

    cdef bint push_private(self, Task task, uint64_t cell) noexcept nogil:
        """Offer the task to the idle lane that last ran its session; False when that lane is busy or unknown."""
        cdef Header *header = self.control.header
        cdef uint32_t at = <uint32_t>(task.session % AFFINITY)
        cdef uint32_t index = self.lane_of[at]
        cdef Lane *lane
        if self.session_of[at] != task.session or index >= self.control.n_lanes:
            return False
        if test_bit(header.running, index):
            return False
        if not test_bit(header.searching, index) and not test_bit(header.sleeping, index):
            return False
        lane = &self.control.lanes[index]
        if not ring_push(&lane.private, self.control.cells(&lane.private), cell):
            return False
        point(PLACE_OFFERED)
        fence()
        if clear_bit(header.sleeping, index):
            set_bit(header.searching, index)
            store32(&lane.wake, 1)
            wake(&lane.wake, 1)
        # The lane may have taken other work meanwhile; then the shared ring gets the task too, and the first claim
        # wins.
        return not test_bit(header.running, index)

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
        # It passes on what it does not take itself (`WorkerLane.note_claim`).
        if (0 < load32(&header.typical_ns) < SHORT_NS and lowest_bit(header.drowsy, lanes) < lanes
                and lowest_bit(header.running, lanes) < lanes):
            return
        for i in range(PRIORITIES):
            queued += ring_length(&header.queues[i])
        searching = count_bits(header.searching, lanes)
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

    # -- collecting ----------------------------------------------------------------------------------------------------

    cdef bint has_completed(self) noexcept nogil:
        return (load32(&self.control.header.done) != 0 or load32(&self.backlog) != 0 or load32(&self.n_verdicts) != 0
                or (load32(&self.first_mail) != 0 and load32(&self.delivering) == 0))

    cdef int collect(self, Task wanted=None) except -1:
        cdef uint32_t batch[BATCH]
        cdef uint32_t count, i
        cdef int total = 0
        cdef bint delivered
        problem = None
        while True:
            count = self.take_completed(batch, BATCH)
            delivered = False
            try:
                if load32(&self.n_verdicts):
                    delivered = self.pass_verdicts()
                delivered = self.deliver_mail() or delivered
            except BaseException as error:
                # KeyboardInterrupt, for instance: what was taken is settled first.
                delivered = True
                problem = error
            if count == 0 and not delivered:
                # Mail that another thread is delivering is its matter: to wait for it here would keep it from the GIL.
                if problem is not None:
                    raise problem
                return total
            for i in range(count):
                try:
                    self.finish(batch[i])
                except BaseException as error:
                    problem = error
            total += count
            self.wake_lanes()
            if self.outstanding() == 0:
                # Whoever starts to observe in between says so after it has submitted: we see one or the other.
                swap32(&self.observers, 0)
                if self.outstanding():
                    store32(&self.observers, 1)
                elif not self.open:
                    self.on_idle()
            if total >= ENOUGH and wanted is not None and wanted.is_settled() and problem is None:
                return total

    cdef uint32_t take_completed(self, uint32_t *batch, uint32_t most) noexcept nogil:
        """Take up to `most` completed slots, oldest first."""
        cdef uint32_t head, count = 0
        cdef Slot *slots = self.control.slots
        if load32(&self.control.header.done) == 0 and load32(&self.backlog) == 0:
            return 0
        pthread_mutex_lock(&self.mutex)
        if self.backlog == 0:
            self.sweep()
        while self.backlog and count < most:
            head = self.backlog
            self.backlog = slots[head - 1].next
            if head > self.n_slots:
                slots[head - 1].next = 0
                if self.first_mail:
                    slots[self.last_mail - 1].next = head
                else:
                    store32(&self.first_mail, head)
                self.last_mail = head
            else:
                batch[count] = head - 1
                count += 1
        pthread_mutex_unlock(&self.mutex)
        point(COLLECT_TAKEN)
        return count

    cdef void sweep(self) noexcept nogil:
        """Move the completion list to the end of the backlog. Under the mutex.

        The list is a stack: reversed, it is in the order of completion. Slots in it are marked, so that nobody who cleans
        up after a dead worker handles them a second time.
        """
        cdef Slot *slots = self.control.slots
        cdef uint32_t head = swap32(&self.control.header.done, 0)
        cdef uint32_t following, last
        cdef uint32_t first = 0
        point(COLLECT_SWAPPED)
        while head:
            following = slots[head - 1].next
            slots[head - 1].next = first
            self.taken[head - 1] = 1
            first = head
            head = following
        if self.backlog == 0:
            self.backlog = first
        elif first:
            last = self.backlog
            while slots[last - 1].next:
                last = slots[last - 1].next
            slots[last - 1].next = first

    cdef int finish(self, uint32_t index) except -1:
        """Settle the task of a completed slot and free the slot."""
        cdef Slot *slot = &self.control.slots[index]
        cdef Task task = <Task>self.tasks[index]
        cdef uint8_t flags = slot.flags
        cdef uint64_t lane = claim_lane(slot.claim)
        cdef uint64_t now
        task.run_ns = slot.run_ns
        self.note_running_time(slot.run_ns)
        task.items = slot.items
        error = None
        point(FINISH_BEGUN)
        try:
            outcome = self.take_outcome(index)
        except BaseException as problem:
            # Whatever a result does while it is rebuilt, even SystemExit, is the matter of its task alone; only a
            # Ctrl-C that came just now is not, and comes again.
            if isinstance(problem, KeyboardInterrupt):
                PyErr_SetInterrupt()
            outcome = None
            error = DecodeError(
                f"the result of the task cannot be rebuilt: {type(problem).__name__}: {problem}",
                details={"task": task.number},
            )
            error.__cause__ = problem
        else:
            if flags & IS_ERROR:
                # (exception, its traceback as text, what a chunk of map had done before)
                error, text, outcome = outcome
                error.__cause__ = RemoteTraceback(text)
        if task.session:
            self.session_of[task.session % AFFINITY] = task.session
            self.lane_of[task.session % AFFINITY] = <uint16_t>lane
        point(FINISH_DECODED)
        now = now_ns()
        self.latency.add(now - task.submitted_ns)
        pthread_mutex_lock(&self.mutex)
        if task.affinity:
            self.bindings.finished(task, <uint32_t>lane)
        self.tasks[index] = NULL
        self.free_slot(index)
        pthread_mutex_unlock(&self.mutex)
        point(FINISH_FREED)
        if not task.is_settled():
            add64(&self.n_completed if error is None else &self.n_failed, 1)
        Py_DECREF(task)
        task.clear()
        if task.affinity:
            self.fail_doomed()
        task.settle(outcome, error)
        return 0

    cdef void note_running_time(self, uint64_t ran) noexcept nogil:
        cdef uint32_t *typical = &self.control.header.typical_ns
        # One long task counts at once; it takes many short ones to forget it.
        if ran > 1_000_000_000:
            ran = 1_000_000_000
        typical[0] = <uint32_t>max(ran, (<uint64_t>typical[0] * 7 + ran) // 8)
        self.running_time.add(ran)

    cdef object take_outcome(self, uint32_t index):
        cdef Slot *slot = &self.control.slots[index]
        cdef Segment segment
        cdef uint64_t length = slot.length
        add64(&self.bytes_out, length)
        if slot.flags & IN_SEGMENT:
            segment = self.arena.adopt(slot.segment - 1, length)
            return self.channel.decode(slot.encoding, <const uint8_t *>segment.base, length, segment)
        return self.channel.decode(slot.encoding, self.control.payload(index, length), length, None)

    cdef int deliver_mail(self) except -1:
        """Hand the messages of workers to the pool, by one thread at a time, so that they stay in order.

        Returns how many this thread delivered.
        """
        cdef uint32_t number
        cdef int count = 0
        while load32(&self.first_mail):
            if not cas32(&self.delivering, 0, 1):
                return count
            try:
                while True:
                    pthread_mutex_lock(&self.mutex)
                    number = self.first_mail
                    if number:
                        store32(&self.first_mail, self.control.slots[number - 1].next)
                    pthread_mutex_unlock(&self.mutex)
                    if number == 0:
                        break
                    count += 1
                    self.deliver(number - 1)
            finally:
                store32(&self.delivering, 0)
                fence()
        return count

    cdef int deliver(self, uint32_t index) except -1:
        cdef Slot *slot = &self.control.slots[index]
        cdef uint64_t length = slot.length
        cdef Segment segment = None
        cdef bytes payload = None
        point(MAIL_DELIVERING)
        if slot.kind == MAIL_ASK:
            self.on_ask(index)
            point(MAIL_DELIVERED)
            return 0
        try:
            if slot.flags & IN_SEGMENT:
                segment = self.arena.adopt(slot.segment - 1, length)
            elif length:
                payload = (<char *>self.control.payload(index, length))[:length]
            self.on_mail(slot.kind, claim_lane(slot.claim), slot.parent, slot.definition, slot.definition_epoch,
                         slot.encoding, slot.flags, payload, segment, length)
        finally:
            pthread_mutex_lock(&self.mutex)
            self.free_slot(index)
            pthread_mutex_unlock(&self.mutex)
        point(MAIL_DELIVERED)
        return 0

    # -- cancelling and failing ----------------------------------------------------------------------------------------

    cdef bint withdraw(self, Task task) except -1:
        if not self.take_back(task):
            return False
        add64(&self.n_cancelled, 1)
        task.clear()
        return True

    def message_of(self, Task task) -> tuple:
        """The encoded call of a task that was taken back: encoding, flags, payload or None, segment or None, length."""
        return task.encoding, task.flags, task.inline, task.segment, task.length

    def loan_of(self, Task task) -> tuple:
        """What another needs to run the task: kind, function's number and epoch, session key, then its message."""
        return (task.kind, task.definition, task.epoch, task.session, task.encoding, task.flags, task.inline,
                task.segment, task.length)

    cpdef bint take_back(self, Task task) except -1:
        """Take a task that has not started out of the queues, its message intact; False when it started."""
        cdef bint withdrawn = False
        cdef bint placed = False
        cdef uint64_t word
        cdef Task successor
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            if task.affinity and not task.founder:
                self.bindings.unlist(task)
            else:
                self.pending.remove(task)
            withdrawn = True
        elif task.slot != NO_SLOT and self.tasks[task.slot] == <void *>task:
            word = claim_word(task.generation, NOBODY, QUEUED)
            if cas64(&self.control.slots[task.slot].claim, word, claim_word(task.generation, NOBODY, FILLING)):
                self.tasks[task.slot] = NULL
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

    def cancel_queued(self, Task task) -> bool:
        """Take a task that has not started out of the queues; the caller fails it."""
        if not self.take_back(task):
            return False
        task.clear()
        return True

    def fail(self, Task task, error) -> None:
        """Settle a task with an error before its worker answers (or because it never will)."""
        if not task.is_settled():
            add64(&self.n_failed, 1)
        task.settle(None, error)

    def fail_elsewhere(self, Task task, error) -> None:
        """Have whoever settles completions settle the task with an error: its callbacks may take their time there."""
        self.verdicts.append((task, error))
        add32(&self.n_verdicts, 1)
        self.nudge(THREAD_BELL)

    cdef bint pass_verdicts(self) except -1:
        cdef bint some = False
        while load32(&self.n_verdicts):
            try:
                task, error = self.verdicts.popleft()
            except IndexError:
                # Another thread has it, and counts it down once it is settled: nothing to wait for.
                break
            some = True
            try:
                self.fail(<Task?>task, error)
            finally:
                add32(&self.n_verdicts, <uint32_t>-1)
        return some

    def note_cancelled(self) -> None:
        """Count a task that was cancelled while it ran."""
        add64(&self.n_cancelled, 1)

    def seconds_running(self, Task task) -> float:
        """For how long the task has been running; 0.0 when it does not run."""
        cdef int lane = self.lane_of_task(task)
        if lane < 0:
            return 0.0
        return (now_ns() - self.control.lanes[lane].started_ns) * 1e-9

    def close(self) -> None:
        """Take no more tasks."""
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        self.open = False
        pthread_mutex_unlock(&self.mutex)

    def withdraw_all(self) -> list:
        """Take every task that has not started out of the queues and return them; the caller settles them."""
        cdef Task task, successor
        cdef uint32_t index
        cdef list found = []
        refuse_in_child(self)
        if self.bindings is not None:
            pthread_mutex_lock(&self.mutex)
            try:
                self.bindings.gather(0, True, found)
            finally:
                pthread_mutex_unlock(&self.mutex)
            add64(&self.n_cancelled, len(found))
        while True:
            pthread_mutex_lock(&self.mutex)
            task = self.pending.pop()
            if task is not None and task.founder:
                successor = self.bindings.succeed(task)
                if successor is not None:
                    self.pending.append(successor)
            pthread_mutex_unlock(&self.mutex)
            if task is None:
                break
            add64(&self.n_cancelled, 1)
            task.clear()
            found.append(task)
        for index in range(self.control.n_slots):
            task = None
            pthread_mutex_lock(&self.mutex)
            if self.tasks[index]:
                task = <Task>self.tasks[index]
            pthread_mutex_unlock(&self.mutex)
            if task is not None and self.withdraw(task):
                found.append(task)
        return found

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

    cdef uint64_t outstanding(self) noexcept nogil:
        cdef uint64_t strict = 0
        if self.bindings is not None:
            strict = self.bindings.length + self.bindings.n_doomed
        return self.pending.length + strict + (self.control.n_slots - self.n_free) + load32(&self.n_verdicts)

    @property
    def unsettled(self) -> int:
        """Number of tasks that are queued, running, or completed but not collected."""
        return self.outstanding()

    # -- sessions ------------------------------------------------------------------------------------------------------

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

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def prepare_lane(self, uint32_t index, uint32_t client) -> None:
        """Make a lane ready for a worker that is about to start."""
        cdef Lane *lane = &self.control.lanes[index]
        lane.retire = 0
        lane.wake = 0
        lane.claimed = 0
        lane.completed = 0
        lane.busy_ns = 0
        lane.pid = 0
        lane.client = client
        lane.incarnation += 1
        self.control.stacks[index].pid = 0
        store32(&lane.state, LANE_STARTING)

    def retire_lane(self, uint32_t index) -> None:
        """Ask the lane's worker to end after the task that it runs."""
        cdef Lane *lane = &self.control.lanes[index]
        store32(&lane.retire, 1)
        self.rouse(index)

    def end_lanes(self) -> None:
        """Ask every worker to end once it is idle."""
        cdef uint32_t index
        store32(&self.control.header.closing, 1)
        for index in range(self.control.n_lanes):
            self.rouse(index)

    def rouse(self, uint32_t index) -> None:
        """Wake a lane, asleep or about to sleep, to look around."""
        cdef Lane *lane = &self.control.lanes[index]
        fence()
        clear_bit(self.control.header.sleeping, index)
        store32(&lane.wake, 1)
        wake(&lane.wake, 1)

    def lane_info(self, uint32_t index) -> dict:
        """Read a lane's words: state, pid, completed tasks, busy seconds, current task number, its seconds so far."""
        cdef Lane *lane = &self.control.lanes[index]
        cdef uint64_t claimed = load64(&lane.claimed)
        cdef uint64_t now = now_ns()
        return {
            "state": ("vacant", "starting", "ready", "retiring")[load32(&lane.state)],
            "pid": lane.pid,
            "client": lane.client,
            "incarnation": lane.incarnation,
            "completed": lane.completed,
            "busy_seconds": lane.busy_ns * 1e-9,
            "task": self.control.slots[claimed - 1].task if claimed else None,
            "running_seconds": (now - lane.started_ns) * 1e-9 if claimed and now > lane.started_ns else 0.0,
            "heartbeat_age": (now - lane.heartbeat_ns) * 1e-9 if lane.heartbeat_ns else None,
        }

    def counts(self) -> dict:
        """Read the counters: tasks by fate, bytes each way, queue lengths, lanes by activity."""
        cdef Header *header = self.control.header
        cdef uint64_t queued = 0
        cdef uint32_t i, free_mail = 0
        cdef uint64_t pending = self.pending.length
        for i in range(PRIORITIES):
            queued += ring_length(&header.queues[i])
        for i in range(self.control.n_slots, self.control.n_slots + self.control.n_mail):
            free_mail += claim_state(load64(&self.control.slots[i].claim)) == FREE
        if self.bindings is not None:
            queued += self.bindings.queued() - self.bindings.length
            pending += self.bindings.length
        return {
            "submitted": self.n_submitted, "completed": self.n_completed, "failed": self.n_failed,
            "cancelled": self.n_cancelled, "bytes_in": self.bytes_in, "bytes_out": self.bytes_out,
            "queued": queued + pending, "pending": pending,
            "running": count_bits(header.running, self.control.n_lanes),
            "searching": count_bits(header.searching, self.control.n_lanes),
            "sleeping": count_bits(header.sleeping, self.control.n_lanes),
            "slots": self.control.n_slots, "free_slots": self.n_free,
            "mail": self.control.n_mail, "free_mail": free_mail,
        }
