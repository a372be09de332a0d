# cython: language_level=3
"""The owner's side of a pool's calls, in three layers over `completions.pyx`; this is the uppermost, where calls enter.

    submit -> encode (channel) -> enter: its number, its limits, whether the pool takes it     here
              -> place: a slot, its cell on a ring, lanes woken; or a list of waiting calls    placement.pyx
    collect:  completion list -> decode -> free the slot, refill it -> settle the task         settlement.pyx

The layers are one object, because one mutex guards what they know: a call leaves the list in which it stands and enters
the next in one step, and whoever looks sees it in exactly one.
"""
cimport cython
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport add64, load32, load64, now_ns, store64
from snakepit._core.bindings cimport AT_HOME, WORKER_LOST
from snakepit._core.channel cimport Channel
from snakepit._core.control cimport Control
from snakepit._core.counters cimport count_bits
from snakepit._core.definitions cimport Published
from snakepit._core.layout cimport (
    CALL, DONE, FREE, IN_SEGMENT, KEPT, LANE_READY, ORDER_SERVE, PRIORITIES, RUNNING, Header, claim_lane, claim_state,
)
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.queue cimport ring_queued
from snakepit._core.settlement cimport Settlement
from snakepit._core.task cimport Task, deadline_after, refuse_in_child
from snakepit._core.view cimport CallView

from snakepit.errors import PoolShutdownError, saturation_error

cdef uint64_t NEVER = <uint64_t>-1      # `armed_ns` when no task is watched


cdef class Scheduler(Settlement):
    """Schedules calls for one pool.

    `known`: functions whose number holds for good. `on_mail(kind, lane, number, definition, epoch, encoding, flags,
    payload, segment, length)` hears what workers say on their own; `on_idle()` is called when the pool takes no more
    tasks and the last one is settled.
    """

    def __init__(self, Control control, Arena arena, Channel channel, dict known, on_mail, on_idle):
        Settlement.__init__(self, control, arena, channel, on_mail, on_idle)
        self.known = known
        self.armed_ns = NEVER

    # -- submitting ----------------------------------------------------------------------------------------------------

    def submit_known(self, Task task, context, function, tuple args, dict kwargs, CallView view=None) -> bool:
        """Queue a call of a function that `known` has a number for; False, and nothing done, when it has none."""
        # As in `Definitions.get`: it borrows.
        with cython.critical_section(self.known):
            definition = self.known.get(function)
        if definition is None:
            return False
        task.context = context
        if view is not None:
            task.priority = view.priority
            if view.session:
                task.session = view.session
                task.session_key = view.session_key
                self.keep_close(task, view.affinity)
                store64(&view.place, <uint64_t>self.place_of(task))
        self.submit(task, definition, function, args, kwargs)
        return True

    cpdef submit(self, Task task, Published definition, function, tuple args, dict kwargs):
        """Encode a call into `task` and queue it.

        `definition`: the function's number, or None to send `function` along. Raises EncodeError, ArenaFullError,
        PoolShutdownError, ForkedPoolError, what a pool that gave up raises; then the task is not queued.
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
        task.session_key = call.session_key
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

    cpdef set_terms(self, Task task, timeout, int priority, session, int affinity=0):
        """Set what a call is run under: seconds or None, 0 (high) to 2 (low), session key or 0, how close it keeps.

        `affinity`: 0 a hint, 1 strict, 2 strict and not waiting, 3 strict, also of one that is about to leave.
        """
        if timeout is not None:
            task.deadline_ns = deadline_after(timeout)
        task.priority = priority
        task.session = session
        task.session_key = session
        self.keep_close(task, affinity)

    cdef int keep_close(self, Task task, int affinity) except -1:
        task.affinity = affinity
        if affinity and self.bindings is None:
            self.begin_bindings()
        return 0

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

    cdef int enter(self, Task task, bint from_worker=False) except -1:
        cdef bint open_, given_up
        cdef int verdict = AT_HOME
        cdef bint at_home = False
        cdef bint full = False
        cdef bint sooner = False
        refuse_in_child(self)
        task.owner = self
        task.submitted_ns = now_ns()
        task.number = add64(&self.next_number, 1) + 1
        pthread_mutex_lock(&self.mutex)
        # A task that runs while the pool closes may still need tasks of its own.
        open_ = self.open or from_worker
        given_up = self.why_broken is not None
        # A chunk of `map` is no call that could be refused: what it has under way is bounded by its own buffer.
        full = (self.most_queued and open_ and not given_up and not from_worker and task.kind == CALL
                and self.is_full())
        if open_ and not given_up and not full:
            self.n_submitted += 1
            if task.affinity:
                # Then only its own lane has something to do, and that is awake.
                at_home = self.pending.length == 0
                verdict = self.admit(task)
                at_home = at_home and verdict == AT_HOME
            elif not self.place(task):
                self.pending.append(task)
            if task.due_ns and task.due_ns < self.armed_ns:
                self.armed_ns = task.due_ns
                sooner = True
        pthread_mutex_unlock(&self.mutex)
        if given_up:
            raise self.why_broken()
        if not open_:
            raise PoolShutdownError.of(self.control.header.pool_name.decode("utf-8", "replace"))
        if full:
            raise saturation_error(self.control.header.pool_name.decode("utf-8", "replace"), self.most_queued)
        if not at_home:
            self.wake_lanes()
        if sooner:
            self.on_due(task.due_ns)
        if verdict >= WORKER_LOST:
            self.refuse(task, verdict)
        return 0

    # -- cancelling ----------------------------------------------------------------------------------------------------

    cdef bint withdraw(self, Task task) except -1:
        if not self.take_back(task):
            return False
        add64(&self.n_cancelled, 1)
        task.clear()
        return True

    def cancel_queued(self, Task task) -> bool:
        """Take a task that has not started out of the queues; the caller fails it."""
        if not self.take_back(task):
            return False
        task.clear()
        return True

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

    def give_up(self, why_broken) -> None:
        """Queue nothing more, not even what tasks need: the error `why_broken()` is raised instead.

        What entered before is in the queues when this returns: no call is overlooked by `withdraw_all` after it.
        """
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        self.why_broken = why_broken
        pthread_mutex_unlock(&self.mutex)

    def withdraw_all(self, bint failed=False) -> list:
        """Take every task that has not started out of the queues and return them; the caller settles them.

        They count as cancelled, unless `failed`: whoever fails them counts them.
        """
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
            task.clear()
            found.append(task)
        for index in range(self.control.n_slots):
            task = None
            pthread_mutex_lock(&self.mutex)
            if self.tasks[index]:
                task = <Task>self.tasks[index]
            pthread_mutex_unlock(&self.mutex)
            if task is not None and self.take_back(task):
                task.clear()
                found.append(task)
        if not failed:
            add64(&self.n_cancelled, len(found))
        return found

    def message_of(self, Task task) -> tuple:
        """The encoded call of a task that was taken back: encoding, flags, payload or None, segment or None, length."""
        return task.encoding, task.flags, task.inline, task.segment, task.length

    def lend(self, Task task, uint32_t lane, bint bound) -> bool:
        """Take a task that stands in a slot, unclaimed, to have `lane`'s worker run it on top of another.

        False, and nothing done, when it has started, or is a strict call of another worker's; with `bound` also when it
        is not one of this worker's. The first call of a strict session binds it to that worker, as a claim would.
        """
        cdef Header *header = self.control.header
        cdef uint32_t first = lane - lane % header.threads
        cdef uint32_t i
        cdef bint lent = False
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        if (self.stands_in_slot(task)
                and (first < task.home <= first + header.threads or (task.home == 0 and not bound))
                and self.win_back(task)):
            if task.affinity:
                for i in range(first, first + header.threads):
                    if (load32(&self.control.lanes[i].state) == LANE_READY
                            and load32(&self.control.lanes[i].retire) == ORDER_SERVE):
                        lane = i
                        break
                self.bindings.finished(task, lane)
            self.free_slot(task.slot)
            lent = True
        pthread_mutex_unlock(&self.mutex)
        if lent:
            Py_DECREF(task)
            self.wake_lanes()
            self.fail_doomed()
        return lent

    def loan_of(self, Task task) -> tuple:
        """What another needs to run the task: kind, function's number and epoch, session key, then its message."""
        return (task.kind, task.definition, task.epoch, task.session, task.encoding, task.flags, task.inline,
                task.segment, task.length)

    def stranded(self) -> list:
        """Lanes that hold a task and do not name it: in the midst of a claim or an answer, or stopped there."""
        cdef list found = []
        cdef uint32_t index
        cdef uint64_t word
        pthread_mutex_lock(&self.mutex)
        for index in range(self.control.n_slots):
            if self.tasks[index]:
                word = load64(&self.control.slots[index].claim)
                if ((claim_state(word) == RUNNING or claim_state(word) == DONE)
                        and not load64(&self.control.lanes[claim_lane(word)].claimed)):
                    found.append(<uint32_t>claim_lane(word))
        pthread_mutex_unlock(&self.mutex)
        return found

    def counts(self) -> dict:
        """Read the counters: tasks by fate, bytes each way, queue lengths, lanes by activity."""
        cdef Header *header = self.control.header
        cdef uint64_t queued = 0
        cdef uint32_t i, free_mail = 0
        cdef uint64_t pending = self.pending.length
        for i in range(PRIORITIES):
            queued += ring_queued(&header.queues[i], self.control.cells(&header.queues[i]), self.control.slots)
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
