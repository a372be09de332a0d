# cython: language_level=3
"""Where a lane finds work, and how it waits for some.

It looks in its private ring, then in its bound rings and the shared ones in turn; with none, it spins for a while if a
CPU is free for that, then says in shared memory that it sleeps, looks once more, and sleeps. Whoever queues a task sees
the word or the lane sees the task. Nothing here touches a Python object: all of it runs without the GIL.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport (
    EINTR, ETIMEDOUT, cas32, fence, load32, load64, now_ns, pause, sleep_on, store32, store64, wake,
)
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit, count_bits, count_either, count_seekers, idlest_sleeper, lowest_bit, set_bit, test_bit
from snakepit._core.layout cimport (
    DROWSY_NS, LANE_READY, LANE_RETIRING, ORDER_EXCHANGE, ORDER_HOLD, ORDER_RETIRE, ORDER_SERVE, PRIORITIES, Header, Lane,
    Ring, Slot, claim_generation,
)
from snakepit._core.points cimport (
    LANE_BEDDED, LANE_CHOSE, LANE_CLAIMED, LANE_COUNTED, LANE_LOOKING, LANE_NOTED, LANE_ROUSED, LANE_RUNNING,
    LANE_SEARCHING, LANE_STOLE, point,
)
from snakepit._core.queue cimport LOW_TURN, NO_SLOT, ring_claim, ring_length
from snakepit._core.spinning cimport MOST_DOZES, SHORT_NS, next_spin

cdef inline uint32_t claim_from(Control control, uint32_t lane, Ring *ring) noexcept nogil:
    if load64(&ring.head) < load64(&ring.tail):
        return ring_claim(ring, control.cells(ring), control.slots, lane)
    return NO_SLOT


cdef inline bint is_spare(Lane *lane) noexcept nogil:
    """Whether the lane is ready to serve and waits to be let in."""
    return load32(&lane.retire) == ORDER_HOLD and load32(&lane.state) == LANE_READY


cdef class Claimant:
    def __init__(self, Control control, uint32_t index):
        self.control = control
        self.index = index
        self.me = &self.control.lanes[index]
        self.spin_ns = self.control.header.spin_limit_ns
        self.slot = NO_SLOT

    # -- taking --------------------------------------------------------------------------------------------------------

    cdef uint32_t take(self) noexcept nogil:
        cdef uint32_t found
        while True:
            if load32(&self.me.retire):
                found = self.obey()
                if found != NO_SLOT:
                    break
            point(LANE_LOOKING)
            found = self.find()
            if found != NO_SLOT:
                self.slot = found
                point(LANE_CLAIMED)
                self.note_claim()
                self.dozes = 0
                return found
            if self.running:
                clear_bit(self.control.header.running, self.index)
                self.running = False
            if load32(&self.control.header.closing):
                found = RETIRE
                break
            if self.spin():
                continue
            found = self.steal()
            if found != NO_SLOT:
                self.slot = found
                point(LANE_STOLE)
                self.note_claim()
                return found
            if self.sleep() == EINTR:
                found = SIGNALLED
                break
            if load32(&self.me.examine) and not self.control.has_work(self.index):
                found = EXAMINE
                break
        if found == RETIRE:
            self.depart()
        return found

    cdef uint32_t find(self) noexcept nogil:
        """Claim the next task from the private ring, or from the bound rings and the shared ones by priority."""
        cdef uint32_t found = NO_SLOT
        cdef bint strict, shared
        cdef bint bound_first = False
        cdef int i, priority
        found = claim_from(self.control, self.index, &self.me.private)
        if found != NO_SLOT:
            return found
        self.turns += 1
        strict = load32(&self.me.bound_used)
        shared = not self.leaves_shared()
        if strict:
            # In turn, and not the same one at each turn of the low priority.
            bound_first = (self.turns ^ (self.turns // LOW_TURN)) & 1
        for i in range(PRIORITIES):
            priority = PRIORITIES - 1 - i if self.turns % LOW_TURN == 0 else i
            if strict and bound_first:
                found = claim_from(self.control, self.index, &self.me.bound[priority])
                if found != NO_SLOT:
                    return found
            if shared:
                found = claim_from(self.control, self.index, &self.control.header.queues[priority])
                if found != NO_SLOT:
                    return found
            if strict and not bound_first:
                found = claim_from(self.control, self.index, &self.me.bound[priority])
                if found != NO_SLOT:
                    return found
        return NO_SLOT

    cdef bint leaves_shared(self) noexcept nogil:
        """Whether what the shared rings hold is left to others, who are about to take it.

        Who looks up by itself may have taken the CPU from one of them just then, which is back at once if this one goes
        on dozing. If it took what was for that one, it would do so again in its next dozes; and each session that began
        so would have its worker where none is awake.
        """
        cdef Header *header = self.control.header
        cdef uint64_t queued = 0
        cdef uint32_t takers
        cdef int i
        if not self.patient:
            return False
        for i in range(PRIORITIES):
            queued += ring_length(&header.queues[i])
        if 0 < load32(&header.typical_ns) < SHORT_NS:
            takers = count_either(header.searching, header.running, self.control.n_lanes)
        else:
            takers = count_seekers(header.searching, header.running, self.control.n_lanes)
        return queued <= takers

    cdef uint64_t claims_so_far(self) noexcept nogil:
        """Of what more than one lane may claim."""
        cdef uint64_t heads = 0
        cdef uint32_t i
        for i in range(PRIORITIES):
            heads += load64(&self.control.header.queues[i].head)
        for i in range(self.control.n_lanes):
            heads += load64(&self.control.lanes[i].private.head)
        return heads

    cdef bint sees_work(self) noexcept nogil:
        """Whether there seems to be something that `find` would take."""
        return (self.has_offer() or self.control.has_bound(self.index)
                or (self.control.has_shared() and not self.leaves_shared()))

    cdef uint32_t steal(self) noexcept nogil:
        """Claim what was offered to a lane that is busy by now, or gone."""
        cdef uint32_t lane, found
        cdef Ring *ring
        for lane in range(self.control.n_lanes):
            if lane == self.index or not self.control.is_away(lane, self.patient):
                continue
            ring = &self.control.lanes[lane].private
            if load64(&ring.head) < load64(&ring.tail):
                found = ring_claim(ring, self.control.cells(ring), self.control.slots, self.index)
                if found != NO_SLOT:
                    return found
        return NO_SLOT

    cdef void note_claim(self) noexcept nogil:
        cdef Header *header = self.control.header
        cdef Slot *slot = &self.control.slots[self.slot]
        cdef bint searched = self.searching
        self.patient = False
        if not self.running:
            set_bit(header.running, self.index)
            self.running = True
        point(LANE_RUNNING)
        if searched:
            clear_bit(header.searching, self.index)
            self.searching = False
        self.generation = claim_generation(load64(&slot.claim))
        self.started_ns = now_ns()
        if self.idle_since_ns:
            # Work that a doze ended with came some time during it. Taken for as late as the doze's end, a caller that
            # waits for each of its calls would look slow because we doze, and we would doze on for that.
            self.spin_ns = next_spin(
                self.spin_ns, self.started_ns - self.idle_since_ns, header.spin_limit_ns + self.unseen_ns
            )
            self.idle_since_ns = self.unseen_ns = 0
        self.me.heartbeat_ns = self.started_ns
        self.me.started_ns = self.started_ns
        store64(&self.me.claimed, <uint64_t>self.slot + 1)
        point(LANE_NOTED)
        # Pairs with the fence of who offers us a task: it sees that we have one, or we see the other.
        fence()
        if self.has_offer():
            # Offered to us while we took other work: somebody else must come for it.
            self.wake_another()
        elif self.slept or searched:
            # The owner may have left more than this task to us because we dozed (`Placement.wake_lanes`), or the owner or
            # another lane because we searched. Now that we are busy, perhaps for long and perhaps with what was for us
            # alone, what is left is for another, who passes it on in the same way.
            self.slept = False
            if (self.control.has_shared()
                    and count_seekers(header.searching, header.running, self.control.n_lanes) == 0
                    and lowest_bit(header.drowsy, self.control.n_lanes) >= self.control.n_lanes):
                self.wake_another()

    cdef void wake_another(self) noexcept nogil:
        """Have a sleeping lane look for work, if there is one."""
        cdef Header *header = self.control.header
        cdef uint32_t other = idlest_sleeper(
            header.sleeping, header.running, header.searching, self.control.n_lanes, header.threads
        )
        if other < self.control.n_lanes and clear_bit(header.sleeping, other):
            point(LANE_CHOSE)
            set_bit(header.searching, other)
            point(LANE_COUNTED)
            store32(&self.control.lanes[other].wake, 1)
            wake(&self.control.lanes[other].wake, 1)

    # -- orders --------------------------------------------------------------------------------------------------------

    cdef void put_down(self) noexcept nogil:
        """Claim nothing any more: nobody shall count on this lane."""
        clear_bit(self.control.header.searching, self.index)
        clear_bit(self.control.header.running, self.index)
        self.searching = False
        self.running = False

    cdef void depart(self) noexcept nogil:
        """Claim nothing for good."""
        self.put_down()
        store32(&self.me.state, LANE_RETIRING)
        # Pairs with the fence of who offers us a task: it sees that we have left, or we see that it lies here.
        fence()
        if self.has_offer():
            self.wake_another()

    cdef bint has_offer(self) noexcept nogil:
        """Whether a task was offered to us alone."""
        return load64(&self.me.private.head) < load64(&self.me.private.tail)

    cdef uint32_t obey(self) noexcept nogil:
        """Do as told by `retire`: NO_SLOT to go on serving, RETIRE or SIGNALLED."""
        cdef uint32_t order
        while True:
            order = load32(&self.me.retire)
            if order == ORDER_RETIRE:
                # Whoever takes a place that was ours need not wait for our burial. A spare that is not wanted any more
                # had none. Of a worker of several threads, the owner has given the places away when it told us.
                if self.me.completed and self.control.header.threads <= 1:
                    self.hand_over()
                return RETIRE
            if order == ORDER_EXCHANGE:
                if self.has_offer():
                    return NO_SLOT      # First this: it would lie here until our burial.
                # Whoever gives us a strict call counts it first and reads the order then (`Bindings.take_on`).
                fence()
                if load32(&self.me.owed):
                    return NO_SLOT
                if self.hand_over():
                    return RETIRE
                # Another was quicker. The owner asks again when the next spare is ready; if that was so while the order
                # still stood, asking changed nothing, but the spare can be seen from here.
                if cas32(&self.me.retire, ORDER_EXCHANGE, ORDER_SERVE) and self.sees_spare():
                    cas32(&self.me.retire, ORDER_SERVE, ORDER_EXCHANGE)
                continue
            if order != ORDER_HOLD:
                return NO_SLOT
            if self.searching or self.running:
                self.put_down()
            store32(&self.me.wake, 0)
            fence()
            if load32(&self.control.header.closing):
                return RETIRE
            # Whoever lets us in changes the order first and the word that we sleep on after it.
            if load32(&self.me.retire) == ORDER_HOLD and sleep_on(&self.me.wake, 0, 0) == EINTR:
                return SIGNALLED

    cdef bint must_obey(self) noexcept nogil:
        """Whether there is an order to see to now: to exchange is none while strict calls are owed."""
        cdef uint32_t order = load32(&self.me.retire)
        return order != ORDER_SERVE and not (order == ORDER_EXCHANGE and load32(&self.me.owed))

    cdef bint sees_spare(self) noexcept nogil:
        cdef uint32_t i
        for i in range(self.control.n_lanes):
            if is_spare(&self.control.lanes[i]):
                return True
        return False

    cdef bint hand_over(self) noexcept nogil:
        """Let a spare that is ready serve in our place; False when there is none."""
        cdef uint32_t i
        cdef Lane *other
        for i in range(self.control.n_lanes):
            other = &self.control.lanes[i]
            if is_spare(other) and cas32(&other.retire, ORDER_HOLD, ORDER_SERVE):
                store32(&other.wake, 1)
                wake(&other.wake, 1)
                return True
        return False

    def leave(self) -> bool:
        """Serve no more, and hand over to a spare; False when none was ready."""
        cdef bint handed
        with nogil:
            handed = self.hand_over()
            self.depart()
        return handed

    # -- waiting -------------------------------------------------------------------------------------------------------

    cdef bint spin(self) noexcept nogil:
        """Look for work without sleeping; True when there is some. Not while the CPUs have other things to do."""
        cdef Header *header = self.control.header
        cdef uint32_t busy
        cdef uint64_t now, until
        cdef int _turn
        busy = count_bits(header.running, self.control.n_lanes) + count_bits(header.searching, self.control.n_lanes)
        if test_bit(header.searching, self.index):
            self.searching = True
            busy -= 1
        now = now_ns()
        if self.idle_since_ns == 0:
            self.idle_since_ns = now
        # One CPU for the owner, one for each busy lane, one for us.
        if busy + 2 > header.cpus:
            return self.sees_work()
        # From here on this lane is one of those for whom others leave what there is.
        self.patient = False
        if not self.searching:
            set_bit(header.searching, self.index)
            self.searching = True
        point(LANE_SEARCHING)
        until = now + self.spin_ns
        while True:
            for _turn in range(32):
                if self.control.has_work(self.index):
                    return True
                pause()
            if now_ns() >= until or load32(&self.me.retire) or load32(&header.closing):
                return False
            # A lane that was woken for a call of its own needs the CPU that we took for ours.
            if (count_bits(header.running, self.control.n_lanes)
                    + count_bits(header.searching, self.control.n_lanes) + 1 > header.cpus):
                return self.control.has_work(self.index)

    cdef int sleep(self) noexcept nogil:
        """Sleep until woken; 0, or EINTR after a signal."""
        cdef Header *header = self.control.header
        cdef int reason = 0
        cdef bint wanted
        cdef uint64_t claims
        self.slept = True
        store32(&self.me.wake, 0)
        set_bit(header.sleeping, self.index)
        clear_bit(header.searching, self.index)
        self.searching = False
        if self.dozes >= MOST_DOZES:
            # It will not look up again by itself: what is there is for it, too.
            self.patient = False
        fence()
        point(LANE_BEDDED)
        wanted = (self.sees_work() or self.control.has_stranded(self.index, self.patient) or self.must_obey()
                  or load32(&self.me.examine) or load32(&header.closing))
        self.patient = False
        if not wanted:
            if self.dozes < MOST_DOZES:
                self.dozes += 1
                claims = self.claims_so_far()
                set_bit(header.drowsy, self.index)
                # Whoever skipped waking us saw this bit; whoever did not, saw the one above.
                reason = sleep_on(&self.me.wake, 0, now_ns() + DROWSY_NS)
                self.unseen_ns = DROWSY_NS // 2 if reason == ETIMEDOUT else 0
                # If nobody has claimed anything since this lane lay down, nobody is about to.
                self.patient = reason == ETIMEDOUT and self.claims_so_far() != claims
                clear_bit(header.drowsy, self.index)
            else:
                while load32(&self.me.wake) == 0 and reason == 0:
                    reason = sleep_on(&self.me.wake, 0, 0)
            # The answer to who rang to see whether this loop still goes round.
            self.me.heartbeat_ns = now_ns()
        point(LANE_ROUSED)
        if not clear_bit(header.sleeping, self.index):
            # Somebody woke us and counted us as searching.
            self.searching = True
            self.patient = False
        return reason
