# cython: language_level=3
"""The owner's hand on its lanes: who serves, who is a spare, who shall make room, who answers.

A worker is replaced without a gap by an exchange. Its successor starts as a *spare*: ready, but told to hold. Lanes that
shall go are told to exchange; the first of them that comes round between two tasks lets the spare in by one
compare-and-swap and ends. So as many lanes serve as the pool has workers, at every instant: a long task delays only its
own worker's end, and none is ever run beside the configured number.

    spare   HOLD -----CAS by who leaves, or by the owner-----> SERVE
    worker  SERVE --owner, CAS--> EXCHANGE --the lane--> gone, or SERVE if no spare was left

A worker of several threads has a block of lanes, that begins at a multiple of their number. It is known by the first of
them; what is told it here is told all its lanes, and each exchanges when it comes round, with any lane of a spare. So
the number of lanes that serve stays the same here, too, while a worker may serve with a part of its lanes for a time.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport cas32, fence, load32, load64, now_ns, store32, wake
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit, lowest_bit
from snakepit._core.layout cimport (
    LANE_READY, LANE_RETIRING, LANE_STARTING, LANE_VACANT, MAX_LANES, ORDER_EXCHANGE, ORDER_HOLD, ORDER_RETIRE,
    ORDER_SERVE, PRIORITIES, Lane,
)
from snakepit._core.queue cimport ring_length


cdef class Roster:
    def __init__(self, Control control):
        self.control = control
        self.threads = max(1, control.header.threads)

    cdef Lane *first_of(self, uint32_t lane) noexcept nogil:
        """The first lane of the worker to which this one belongs."""
        return &self.control.lanes[lane - lane % self.threads]

    cdef bint swap_orders(self, uint32_t lane, uint32_t old, uint32_t new) noexcept:
        """Give each lane of a worker that stands under one order another; whether there was any."""
        cdef Lane *first = self.first_of(lane)
        cdef bint some = False
        cdef uint32_t i
        for i in range(self.threads):
            if cas32(&first[i].retire, old, new):
                some = True
        return some

    cdef bint counts(self, Lane *lane) noexcept nogil:
        """Whether a lane serves or is starting to.

        Of several threads, one that was told to end is not counted on: its worker goes on. A whole worker keeps its place
        until it has ended, so that no more tasks run than there are workers.
        """
        cdef uint32_t state = load32(&lane.state)
        cdef uint32_t order = load32(&lane.retire)
        if state != LANE_STARTING and state != LANE_READY:
            return False
        return order != ORDER_HOLD and (self.threads == 1 or order != ORDER_RETIRE)

    def census(self) -> tuple[int, int]:
        """How many lanes serve or are starting to, and how many are held as spares."""
        cdef uint32_t i, state, serving = 0, held = 0
        for i in range(self.control.n_lanes):
            state = load32(&self.control.lanes[i].state)
            if self.counts(&self.control.lanes[i]):
                serving += 1
            elif ((state == LANE_STARTING or state == LANE_READY)
                    and load32(&self.control.lanes[i].retire) == ORDER_HOLD):
                held += 1
        return serving, held

    def serving(self, uint32_t lane) -> int:
        """How many lanes of a worker serve or are starting to."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i, count = 0
        for i in range(self.threads):
            count += self.counts(&first[i])
        return count

    def held(self, uint32_t lane) -> int:
        """How many lanes of a worker are spare."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i, count = 0
        for i in range(self.threads):
            if load32(&first[i].retire) == ORDER_HOLD:
                count += 1
        return count

    def serves(self, uint32_t lane) -> bool:
        """Whether the worker is ready and takes tasks, on any of its lanes."""
        return self.taking(lane) > 0

    cpdef uint32_t taking(self, uint32_t lane):
        """How many lanes of a worker are ready and take tasks."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i, count = 0
        for i in range(self.threads):
            if load32(&first[i].state) == LANE_READY and load32(&first[i].retire) != ORDER_HOLD:
                count += 1
        return count

    def has_left(self, uint32_t lane) -> bool:
        """Whether the worker claims nothing any more on any of its lanes, and has only to end."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        for i in range(self.threads):
            if load32(&first[i].state) != LANE_RETIRING:
                return False
        return True

    def holds(self, uint32_t lane) -> bool:
        """Whether the worker is a spare that serves nowhere."""
        return self.held(lane) == self.threads

    def prepare(self, uint32_t lane, uint32_t client) -> None:
        """Make a worker's lanes ready for the process that is about to start, the arena's `client`."""
        cdef Lane *each
        cdef uint32_t i, first = lane - lane % self.threads
        for i in range(first, first + self.threads):
            each = &self.control.lanes[i]
            each.retire = ORDER_SERVE
            each.wake = 0
            each.claimed = 0
            each.completed = 0
            each.busy_ns = 0
            each.pid = 0
            each.examine = 0
            each.client = client
            each.incarnation += 1
            self.control.stacks[i].pid = 0
            store32(&each.state, LANE_STARTING)

    def hold(self, uint32_t lane) -> None:
        """Make a worker that has not started yet a spare."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        for i in range(self.threads):
            store32(&first[i].retire, ORDER_HOLD)

    def vacate(self, uint32_t lane) -> None:
        """Take back the lanes of a worker that could not be started."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        for i in range(self.threads):
            store32(&first[i].retire, ORDER_SERVE)
            store32(&first[i].state, LANE_VACANT)

    def let_in(self, uint32_t lane, uint32_t most=MAX_LANES) -> int:
        """Let a spare serve, on at most so many lanes; returns on how many it does so now and did not before."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i, count = 0
        for i in range(self.threads):
            if count == most:
                break
            if cas32(&first[i].retire, ORDER_HOLD, ORDER_SERVE):
                count += 1
        if count:
            self.ring(lane)
        return count

    def give_up_held(self, uint32_t lane) -> None:
        """Have a worker that serves in part keep none of its lanes for later: they end."""
        if self.swap_orders(lane, ORDER_HOLD, ORDER_RETIRE):
            self.ring(lane)

    def send_away(self, uint32_t lane) -> bool:
        """End a spare that nobody needs; False if it serves by now, on whatever lanes."""
        cdef bint told = self.swap_orders(lane, ORDER_HOLD, ORDER_RETIRE)
        if told:
            self.ring(lane)
        return told and not self.may_serve(lane)

    def may_serve(self, uint32_t lane) -> bool:
        """Whether any lane of the worker was not told to end."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        for i in range(self.threads):
            if load32(&first[i].retire) != ORDER_RETIRE:
                return True
        return False

    def retire(self, uint32_t lane) -> None:
        """Tell a worker to end after the tasks that it runs; nothing else is true of it from here on."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        for i in range(self.threads):
            store32(&first[i].retire, ORDER_RETIRE)
        self.ring(lane)

    def end_all(self) -> None:
        """Tell every worker to end once nothing is queued."""
        cdef uint32_t first
        store32(&self.control.header.closing, 1)
        for first in range(0, self.control.n_lanes, self.threads):
            self.ring(first)

    def offer(self, uint32_t lane) -> bool:
        """Tell a worker that serves to end as soon as a spare takes over; False if it serves no more."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        cdef bint some = self.swap_orders(lane, ORDER_SERVE, ORDER_EXCHANGE)
        for i in range(self.threads):
            some = some or load32(&first[i].retire) == ORDER_EXCHANGE
        if some:
            self.ring(lane)
        return some

    def offer_again(self, uint32_t lane) -> None:
        """As `offer`, of the lanes that have gone back to serving; the others know already."""
        if self.swap_orders(lane, ORDER_SERVE, ORDER_EXCHANGE):
            self.ring(lane)

    def ring(self, uint32_t lane) -> None:
        """Wake a worker's lanes, asleep or about to sleep, to look around; `heartbeat` shows whether they did."""
        cdef uint32_t first = lane - lane % self.threads
        cdef uint32_t i
        fence()
        for i in range(first, first + self.threads):
            clear_bit(self.control.header.sleeping, i)
            store32(&self.control.lanes[i].wake, 1)
            wake(&self.control.lanes[i].wake, 1)

    def lane_info(self, uint32_t lane) -> dict:
        """Read a lane's words: state, pid, completed tasks, busy seconds, current task number, its seconds so far."""
        cdef Lane *words = &self.control.lanes[lane]
        cdef uint64_t claimed = load64(&words.claimed)
        cdef uint64_t now = now_ns()
        return {
            "state": ("vacant", "starting", "ready", "retiring")[load32(&words.state)],
            "pid": words.pid,
            "client": words.client,
            "incarnation": words.incarnation,
            "completed": words.completed,
            "busy_seconds": words.busy_ns * 1e-9,
            "task": self.control.slots[claimed - 1].task if claimed else None,
            "running_seconds": (now - words.started_ns) * 1e-9 if claimed and now > words.started_ns else 0.0,
            "heartbeat_age": (now - words.heartbeat_ns) * 1e-9 if words.heartbeat_ns else None,
        }

    def examine(self, uint32_t lane) -> bool:
        """Have a worker that serves and runs nothing looked at, by its first lane; False: it is not idle."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i
        if self.running(lane) or not self.serves(lane):
            return False
        for i in range(self.threads):
            if load32(&first[i].state) == LANE_READY and load32(&first[i].retire) == ORDER_SERVE:
                store32(&first[i].examine, 1)
                # Awake or about to sleep, it looks for work, and then sees the word.
                self.ring(lane)
                return True
        return False

    def heartbeat(self, uint32_t lane) -> int:
        """When this lane's loop last came round, in monotonic nanoseconds; 0 before it is ready."""
        return self.control.lanes[lane].heartbeat_ns

    def completed(self, uint32_t lane) -> int:
        """How many tasks the worker has completed."""
        cdef Lane *first = self.first_of(lane)
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.threads):
            total += first[i].completed
        return total

    def running(self, uint32_t lane) -> int:
        """How many tasks the worker runs."""
        cdef Lane *first = self.first_of(lane)
        cdef uint32_t i, count = 0
        for i in range(self.threads):
            if load64(&first[i].claimed):
                count += 1
        return count

    def running_since(self, uint32_t lane) -> int:
        """When the oldest task that the worker runs started, in monotonic nanoseconds; 0 when it runs none."""
        cdef Lane *first = self.first_of(lane)
        cdef uint64_t oldest = 0
        cdef uint32_t i
        for i in range(self.threads):
            if load64(&first[i].claimed) and (oldest == 0 or first[i].started_ns < oldest):
                oldest = first[i].started_ns
        return oldest

    def overdue(self, uint64_t grace_ns) -> tuple[list[int], list[int]]:
        """Lanes to look after: (idle though there is work for them, running one task for longer than the grace time).

        Reads shared memory only; both are empty in a pool that is idle or fast.
        """
        cdef uint32_t i
        cdef uint64_t queued = 0
        cdef uint64_t started
        cdef uint64_t now = now_ns()
        cdef int priority
        cdef Lane *lane
        cdef list idle = []
        cdef list long_ = []
        for priority in range(PRIORITIES):
            queued += ring_length(&self.control.header.queues[priority])
        for i in range(self.control.n_lanes):
            lane = &self.control.lanes[i]
            if load32(&lane.state) != LANE_READY or load32(&lane.retire) == ORDER_HOLD:
                continue
            if load64(&lane.claimed):
                started = lane.started_ns
                if now > started and now - started > grace_ns:
                    long_.append(i)
            elif (queued or load64(&lane.private.head) < load64(&lane.private.tail)
                    or self.control.has_bound(i)):
                idle.append(i)
        return idle, long_

    def lingering(self) -> list[int]:
        """Lanes that run nothing and were told to go: for good, or because a spare is ready to take over.

        A healthy one is gone in a moment, or comes round when it is rung. Reads shared memory only.
        """
        cdef uint32_t i, order
        cdef bint spare = False
        cdef Lane *lane
        cdef list found = []
        for i in range(self.control.n_lanes):
            lane = &self.control.lanes[i]
            if load32(&lane.state) == LANE_READY and load32(&lane.retire) == ORDER_HOLD:
                spare = True
        for i in range(self.control.n_lanes):
            lane = &self.control.lanes[i]
            if load32(&lane.state) != LANE_READY or load64(&lane.claimed):
                continue
            order = load32(&lane.retire)
            if order == ORDER_RETIRE or (order == ORDER_EXCHANGE and spare):
                found.append(i)
        return found

    @property
    def idle(self) -> bool:
        """Whether no lane runs a task."""
        return lowest_bit(self.control.header.running, self.control.n_lanes) >= self.control.n_lanes
