# cython: language_level=3
"""Sessions that move: they lose their worker, but not what they are.

    BOUND   the worker goes, or the owner asks                                              --> MOVING
    MOVING  calls wait with the entry; those that the worker owes yet end there, or die with it
            none is left, and the state is saved or the worker buried: the first that waits
            begins the session again, wherever it is claimed                                --> UNDECIDED --> BOUND

Each stay in a worker is a *tenure* with a number of its own, which calls carry in their slots. A worker that has not
taken up the session under that number asks the owner for its state first; so a worker to which a session returns never
goes on with what it remembers of an earlier stay, and what it says of one is not believed any more.

A session is *unsaved* while its worker has done more of it than the owner has a copy of. Then nothing begins elsewhere
before that worker has saved it or is dead. `in_flight` counts from when a call is the worker's until it is settled here,
with what its answer encloses: so an answer that lies in shared memory when its worker dies still counts.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from snakepit._core.atomics cimport load32, load64
from snakepit._core.bindings cimport (
    ANYWHERE, AT_HOME, BOUND, MOVING, UNDECIDED, WAITING, WORKER_BUSY, WORKER_LOST, Binding, Bindings,
)
from snakepit._core.layout cimport DONE, LANE_READY, LANE_VACANT, ORDER_SERVE, Lane, claim_state
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport STRICT_FAIL_FAST, STRICT_PARTING, Task, refuse_in_child

cimport cython


@cython.no_gc           # as its base: its tasks are held by references that nobody else can see
cdef class MovingBindings(Bindings):
    # -- calls -------------------------------------------------------------------------------------------------------------

    cdef int admit(self, Task task) noexcept:
        cdef Binding *entry = self.find(task.session)
        cdef int verdict
        cdef int lane
        cdef bint forgotten
        if entry == NULL:
            if task.affinity == STRICT_PARTING:
                return WORKER_LOST
            verdict = Bindings.admit(self, task)
            if verdict == ANYWHERE:
                self.begin(self.find(task.session), task)
            return verdict
        # What `bind` strikes off moves others into the gap: then this call begins the session anew.
        forgotten = entry.forgotten
        if entry.state == UNDECIDED:
            if task.affinity == STRICT_FAIL_FAST:
                return WORKER_BUSY
            lane = self.lane_of_founder(entry)
            if lane < 0:
                self.append_waiter(entry, task)
                return WAITING
            self.bind_founder(entry, <uint32_t>lane)
            if forgotten:
                return self.admit(task)
        if entry.state == MOVING and not entry.held and self.still_serves(entry) and not self.may_begin(entry):
            # Told to leave, it was not let go for want of a successor, and nobody else knows all of the session.
            self.bind(entry, entry.lane)
            if forgotten:
                return self.admit(task)
        if entry.state == MOVING:
            return self.admit_moving(entry, task)
        if task.affinity == STRICT_FAIL_FAST and (
            load32(&self.control.lanes[entry.lane].owed) or load64(&self.control.lanes[entry.lane].claimed)
        ):
            task.home = entry.lane + 1
            return WORKER_BUSY
        if self.take_on(entry, task):
            return AT_HOME
        return self.admit_moving(entry, task)

    cdef int admit_moving(self, Binding *entry, Task task) noexcept:
        """Decide where a call of a session goes that is to begin elsewhere."""
        if task.affinity == STRICT_PARTING:
            # For the worker that it has, or for none.
            if not self.has_ended(entry) and self.take_on(entry, task):
                return AT_HOME
            task.home = entry.lane + 1
            return WORKER_LOST
        if self.may_begin(entry) and entry.first_waiter == NULL:
            self.begin(entry, task)
            return ANYWHERE
        if task.affinity == STRICT_FAIL_FAST:
            task.home = entry.lane + 1
            return WORKER_BUSY
        self.append_waiter(entry, task)
        return WAITING

    cdef bint take_on(self, Binding *entry, Task task) noexcept:
        if Bindings.take_on(self, entry, task):
            task.tenure = entry.tenure
            entry.in_flight += 1
            return True
        entry.state = MOVING
        return False

    cdef void left_slot(self, Task task) noexcept:
        cdef bint owed = task.home != 0
        Bindings.left_slot(self, task)
        if owed:
            self.ended(task)

    cdef void finished(self, Task task, uint32_t lane) noexcept:
        cdef bint founder = task.home == 0 and task.founder
        Bindings.finished(self, task, lane)
        if founder:
            self.ended(task)

    cdef void bind_founder(self, Binding *entry, uint32_t lane) noexcept:
        entry.in_flight = 1             # Until it is settled.
        self.bind(entry, lane)

    cdef void unlist(self, Task task) noexcept:
        cdef bint owed = task.home != 0
        Bindings.unlist(self, task)
        if owed:
            self.ended(task)

    cdef void ended(self, Task task) noexcept:
        """The worker owes a call less; if that was the last, the session may begin elsewhere."""
        cdef Binding *entry = self.find(task.session)
        if entry != NULL and entry.tenure == task.tenure and entry.in_flight:
            entry.in_flight -= 1
            self.settle(entry)

    cdef int gather(self, uint64_t session, bint take, list found) except -1:
        if take:
            # What is taken out of one list must not have another filled, which is emptied already.
            self.frozen = True
        return Bindings.gather(self, session, take, found)

    # -- beginning elsewhere -----------------------------------------------------------------------------------------------

    cdef bint has_ended(self, Binding *entry) noexcept:
        """Whether the session's worker is buried."""
        cdef Lane *lane = &self.control.lanes[entry.lane]
        return lane.incarnation != entry.incarnation or load32(&lane.state) == LANE_VACANT

    cdef bint still_serves(self, Binding *entry) noexcept:
        cdef Lane *lane = &self.control.lanes[entry.lane]
        return (lane.incarnation == entry.incarnation and load32(&lane.state) == LANE_READY
                and load32(&lane.retire) == ORDER_SERVE)

    cdef bint may_begin(self, Binding *entry) noexcept:
        return (not self.frozen and not entry.held and entry.in_flight == 0
                and (not entry.unsaved or self.has_ended(entry)))

    cdef void begin(self, Binding *entry, Task founder) noexcept:
        """Give the session a founder; it, and those that follow, belong to a new tenure."""
        self.tenures += 1
        entry.state = UNDECIDED
        entry.tenure = self.tenures
        entry.in_flight = 0
        entry.unsaved = False
        entry.founder = <void *>founder
        founder.founder = True
        founder.home = 0
        founder.tenure = entry.tenure

    cdef void settle(self, Binding *entry) noexcept:
        """Have the first call that waits begin the session elsewhere, if that may be by now."""
        cdef Task task
        if entry.state != MOVING or entry.first_waiter == NULL or not self.may_begin(entry):
            return
        # At no instant shall it look as if nothing were queued: that would end a closed pool.
        self.length += 1
        task = self.pop_waiter(entry)
        self.begin(entry, task)
        self.pending.put_back(task)
        self.length -= 1

    cdef void bind(self, Binding *entry, uint32_t lane) noexcept:
        cdef Task task
        entry.state = BOUND
        entry.founder = NULL
        entry.lane = <uint16_t>lane
        entry.incarnation = self.control.lanes[lane].incarnation
        while entry.first_waiter != NULL:
            task = <Task>entry.first_waiter
            if not self.take_on(entry, task):
                self.settle(entry)
                return
            self.length += 1
            self.pop_waiter(entry)
            self.wait(task)
            self.length -= 1
        if entry.forgotten:
            self.remove(entry)

    cdef Task succeed(self, Task founder):
        cdef Task task = Bindings.succeed(self, founder)
        if task is not None:
            task.tenure = founder.tenure
        return task

    # -- losing a worker ---------------------------------------------------------------------------------------------------

    cdef void lose_founder(self, Task founder, uint32_t lane) noexcept:
        cdef Binding *entry = self.find(founder.session)
        # One that has answered is settled like any other call, and counts until then.
        cdef bint answered = claim_state(load64(&self.control.slots[founder.slot].claim)) == DONE
        if entry != NULL and entry.state == UNDECIDED and entry.founder == <void *>founder:
            founder.founder = answered
            entry.in_flight = answered
            self.bind(entry, lane)
        elif not answered:
            founder.founder = False
            self.ended(founder)

    cdef void doom(self, Task task) noexcept:
        """A call was for a worker that is dead, and has not begun: it waits for another."""
        cdef Binding *entry = self.find(task.session)
        if (entry == NULL or entry.tenure != task.tenure or self.frozen or task.affinity == STRICT_PARTING
                or entry.state == UNDECIDED):
            Bindings.doom(self, task)
            if entry != NULL and entry.tenure == task.tenure and entry.in_flight:
                entry.in_flight -= 1
            return
        entry.state = MOVING
        entry.in_flight -= 1
        task.home = 0
        self.take_back_in(entry, task)

    cdef void take_back_in(self, Binding *entry, Task task) noexcept:
        """List a call before those that were submitted later. Few are: the lists of a lane are emptied before its slots."""
        cdef void *at = entry.first_waiter
        while at != NULL and (<Task>at).number < task.number:
            at = (<Task>at).following
        self.append_waiter(entry, task)
        if at == NULL:
            return
        entry.last_waiter = task.previous
        (<Task>task.previous).following = NULL
        task.previous = (<Task>at).previous
        task.following = at
        (<Task>at).previous = <void *>task
        if task.previous != NULL:
            (<Task>task.previous).following = <void *>task
        else:
            entry.first_waiter = <void *>task

    cdef void lane_lost(self, uint32_t lane) noexcept:
        """Begin the sessions of a buried worker elsewhere for which calls wait."""
        cdef uint64_t i
        cdef uint64_t chained = self.length
        for i in range(self.control.n_lanes):
            chained -= (<PendingList>self.waiting[i]).length
        if chained == 0:
            return
        for i in range(self.capacity):
            if self.table[i].key and self.table[i].state == MOVING and self.table[i].lane == lane:
                self.settle(&self.table[i])

    cdef list sessions_of(self, uint32_t lane, uint32_t incarnation):
        cdef uint64_t i
        cdef list found = []
        cdef Binding *entry
        for i in range(self.capacity):
            entry = &self.table[i]
            if entry.key and entry.state != UNDECIDED and entry.lane == lane and entry.incarnation == incarnation:
                found.append(entry.key)
        return found


cdef MovingBindings bindings_of(Scheduler scheduler):
    refuse_in_child(scheduler)
    return <MovingBindings?>scheduler.bindings


cdef int go_on(Scheduler scheduler) except -1:
    """Leave the mutex, once what may have become possible under it has been done."""
    scheduler.refill()
    pthread_mutex_unlock(&scheduler.mutex)
    scheduler.wake_lanes()
    return 0


def let_sessions_move(Scheduler scheduler, on_enclosed) -> None:
    """Have strict sessions move; before the first call. `on_enclosed(list)` gets what answers enclose."""
    cdef MovingBindings bindings = MovingBindings(scheduler.control)
    bindings.pending = scheduler.pending
    scheduler.on_enclosed = on_enclosed
    scheduler.bindings = bindings


def note_unsaved(Scheduler scheduler, uint64_t session, uint64_t tenure, bint unsaved) -> None:
    """Say whether the worker of a session knows more of it than the owner."""
    cdef MovingBindings bindings = bindings_of(scheduler)
    cdef Binding *entry
    pthread_mutex_lock(&scheduler.mutex)
    entry = bindings.find(session)
    if entry != NULL and entry.tenure == tenure:
        entry.unsaved = unsaved
        bindings.settle(entry)
    go_on(scheduler)


def look_again(Scheduler scheduler, list sessions) -> None:
    """Let sessions go on that wait for a worker which was to go and did not."""
    cdef MovingBindings bindings = bindings_of(scheduler)
    cdef Binding *entry
    cdef uint64_t key
    for session in sessions:
        key = session
        pthread_mutex_lock(&scheduler.mutex)
        entry = bindings.find(key)
        if entry != NULL and entry.state == MOVING and not entry.held:
            if bindings.still_serves(entry) and not bindings.may_begin(entry):
                bindings.bind(entry, entry.lane)
            else:
                bindings.settle(entry)
        go_on(scheduler)


def hold_session(Scheduler scheduler, uint64_t session) -> int:
    """Let a session's later calls wait; those that its worker owes go on. Returns that worker's lane.

    -1: nobody knows the session; -2: its first call has not begun; -3: somebody else holds it.
    """
    cdef MovingBindings bindings = bindings_of(scheduler)
    cdef Binding *entry
    cdef int result = -1
    cdef int lane
    pthread_mutex_lock(&scheduler.mutex)
    entry = bindings.find(session)
    if entry != NULL:
        if entry.held:
            result = -3
        else:
            if entry.state == UNDECIDED:
                lane = bindings.lane_of_founder(entry)
                if lane >= 0:
                    bindings.bind_founder(entry, <uint32_t>lane)
                    entry = bindings.find(session)
            if entry == NULL:
                pass                    # Forgotten, it was struck off by that.
            elif entry.state == UNDECIDED:
                result = -2
            else:
                entry.state = MOVING
                entry.held = True
                result = entry.lane
    go_on(scheduler)
    return result


def release_session(Scheduler scheduler, uint64_t session, int lane) -> bool:
    """Have a session that is held begin on a lane, or wherever (-1); False, and it is still held, if it must not yet."""
    cdef MovingBindings bindings = bindings_of(scheduler)
    cdef Binding *entry
    cdef bint done = True
    pthread_mutex_lock(&scheduler.mutex)
    entry = bindings.find(session)
    if entry != NULL and entry.held:
        entry.held = False
        done = bindings.may_begin(entry)
        if not done:
            entry.held = True
        elif lane < 0:
            bindings.settle(entry)
        else:
            bindings.tenures += 1
            entry.tenure = bindings.tenures
            entry.unsaved = False
            bindings.bind(entry, <uint32_t>lane)
    go_on(scheduler)
    return done


def keep_session(Scheduler scheduler, uint64_t session) -> None:
    """Give up moving a session that is held: it goes on where it was, or begins elsewhere if that is gone."""
    cdef MovingBindings bindings = bindings_of(scheduler)
    cdef Binding *entry
    pthread_mutex_lock(&scheduler.mutex)
    entry = bindings.find(session)
    if entry != NULL and entry.held:
        entry.held = False
        if bindings.still_serves(entry):
            bindings.bind(entry, entry.lane)
        else:
            bindings.settle(entry)
    go_on(scheduler)


def least_owed(Scheduler scheduler, list lanes) -> int:
    """Of some lanes, the one with the fewest strict calls to do."""
    cdef uint32_t index
    cdef int best = -1
    for lane in lanes:
        index = lane
        if best < 0 or load32(&scheduler.control.lanes[index].owed) < load32(&scheduler.control.lanes[best].owed):
            best = <int>index
    return best
