# cython: language_level=3
"""The owner's hand on its lanes: who serves, who is a spare, who shall make room, who answers.

A worker is replaced without a gap by an exchange. Its successor starts as a *spare*: ready, but told to hold. Lanes that
shall go are told to exchange; the first of them that comes round between two tasks lets the spare in by one
compare-and-swap and ends. So as many lanes serve as the pool has workers, at every instant: a long task delays only its
own worker's end, and none is ever run beside the configured number.

    spare   HOLD -----CAS by who leaves, or by the owner-----> SERVE
    worker  SERVE --owner, CAS--> EXCHANGE --the lane--> gone, or SERVE if no spare was left
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport cas32, fence, load32, load64, now_ns, store32, wake
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit, lowest_bit
from snakepit._core.layout cimport (
    LANE_READY, LANE_RETIRING, LANE_STARTING, LANE_VACANT, ORDER_EXCHANGE, ORDER_HOLD, ORDER_RETIRE, ORDER_SERVE,
    PRIORITIES, Lane,
)
from snakepit._core.queue cimport ring_length


cdef class Roster:
    def __init__(self, Control control):
        self.control = control

    def census(self) -> tuple[int, int]:
        """How many lanes serve or are starting to, and how many are held as spares."""
        cdef uint32_t i, state, serving = 0, held = 0
        for i in range(self.control.n_lanes):
            state = load32(&self.control.lanes[i].state)
            if state == LANE_STARTING or state == LANE_READY:
                if load32(&self.control.lanes[i].retire) == ORDER_HOLD:
                    held += 1
                else:
                    serving += 1
        return serving, held

    def serves(self, uint32_t lane) -> bool:
        """Whether the lane is ready and takes tasks."""
        return (load32(&self.control.lanes[lane].state) == LANE_READY
                and load32(&self.control.lanes[lane].retire) != ORDER_HOLD)

    def holds(self, uint32_t lane) -> bool:
        """Whether the lane is a spare."""
        return load32(&self.control.lanes[lane].retire) == ORDER_HOLD

    def has_left(self, uint32_t lane) -> bool:
        """Whether the lane has run its last task."""
        return load32(&self.control.lanes[lane].state) == LANE_RETIRING

    def hold(self, uint32_t lane) -> None:
        """Make the lane of a worker that has not started yet a spare."""
        store32(&self.control.lanes[lane].retire, ORDER_HOLD)

    def vacate(self, uint32_t lane) -> None:
        """Take back a lane whose worker could not be started."""
        store32(&self.control.lanes[lane].retire, ORDER_SERVE)
        store32(&self.control.lanes[lane].state, LANE_VACANT)

    def let_in(self, uint32_t lane) -> bool:
        """Let a spare serve; False if it does already."""
        if not cas32(&self.control.lanes[lane].retire, ORDER_HOLD, ORDER_SERVE):
            return False
        self.ring(lane)
        return True

    def send_away(self, uint32_t lane) -> bool:
        """End a spare that nobody needs; False if it serves by now."""
        if not cas32(&self.control.lanes[lane].retire, ORDER_HOLD, ORDER_RETIRE):
            return False
        self.ring(lane)
        return True

    def offer(self, uint32_t lane) -> bool:
        """Tell a lane that serves to end as soon as a spare takes over; False if it serves no more."""
        if (not cas32(&self.control.lanes[lane].retire, ORDER_SERVE, ORDER_EXCHANGE)
                and load32(&self.control.lanes[lane].retire) != ORDER_EXCHANGE):
            return False
        self.ring(lane)
        return True

    def ring(self, uint32_t lane) -> None:
        """Wake a lane, asleep or about to sleep, to look around; `heartbeat` shows whether it did."""
        fence()
        clear_bit(self.control.header.sleeping, lane)
        store32(&self.control.lanes[lane].wake, 1)
        wake(&self.control.lanes[lane].wake, 1)

    def heartbeat(self, uint32_t lane) -> int:
        """When the lane's loop last came round, in monotonic nanoseconds; 0 before it is ready."""
        return self.control.lanes[lane].heartbeat_ns

    def completed(self, uint32_t lane) -> int:
        """How many tasks the lane's worker has completed."""
        return self.control.lanes[lane].completed

    def running_since(self, uint32_t lane) -> int:
        """When the lane's running task started, in monotonic nanoseconds; 0 when it runs none."""
        return self.control.lanes[lane].started_ns if load64(&self.control.lanes[lane].claimed) else 0

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

    @property
    def idle(self) -> bool:
        """Whether no lane runs a task."""
        return lowest_bit(self.control.header.running, self.control.n_lanes) >= self.control.n_lanes
