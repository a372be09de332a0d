# cython: language_level=3
"""What a dead worker leaves in shared memory, and whose it is.

    slot RUNNING, by its claim word     the one task that fails
    slot DONE, pushed or not            complete: settled like any other, by whoever collects
    cells on the private ring           not started: back to the shared rings
    cells on the bound rings            not started, and for this worker alone: these fail too
    mail, posted and pushed             delivered;  else dropped, with the worker that meant it
    a question, pushed                  the same, its slot freed by who answers it; answered: dropped
    segments of completed answers       ours from now on; every other one of the dead client can be reclaimed
"""
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport fence, load64, store32, wake
from snakepit._core.completions cimport HELPER_BELL, THREAD_BELL
from snakepit._core.control cimport Control
from snakepit._core.counters cimport clear_bit
from snakepit._core.layout cimport (
    ANSWERED, DONE, IN_SEGMENT, LANE_VACANT, MAIL, MAIL_ASK, NOBODY, POSTED, PRIORITIES, QUEUED, RUNNING, Header, Lane,
    Ring, Slot, cell_generation, cell_slot, claim_lane, claim_state, claim_word,
)
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.points cimport BURIAL_BEGUN, BURIAL_COLLECTED, BURIAL_SWEPT, point
from snakepit._core.queue cimport ring_push
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Task


cdef void leave_lane(Scheduler scheduler, Task task, uint32_t index) noexcept:
    """A strict call was claimed by the dead worker, and with it its session."""
    if task.founder:
        scheduler.bindings.lose_founder(task, index)
    else:
        scheduler.bindings.left_slot(task)


cdef void lose_bound(Scheduler scheduler, Lane *lane) noexcept:
    """Doom the strict calls that the dead worker had not claimed."""
    cdef Control control = scheduler.control
    cdef int priority
    cdef Ring *ring
    cdef uint64_t cell
    cdef uint32_t index
    cdef Task task
    for priority in range(PRIORITIES):
        ring = &lane.bound[priority]
        while ring.head < ring.tail:
            cell = load64(control.cells(ring) + (ring.head & ring.mask))
            index = cell_slot(cell)
            ring.head += 1
            if load64(&control.slots[index].claim) != claim_word(cell_generation(cell), NOBODY, QUEUED):
                continue
            task = <Task>scheduler.tasks[index]
            scheduler.tasks[index] = NULL
            scheduler.bindings.lose_slot(task)
            scheduler.free_slot(index)
            Py_DECREF(task)


def empty_lane(Scheduler scheduler, uint32_t index) -> Task | None:
    """Clear a lane whose process is dead; returns the task that it was running, unsettled, if any.

    Runs no code of users and settles nothing. Doing it twice changes nothing, so a burial can be repeated.
    """
    cdef Control control = scheduler.control
    cdef Header *header = control.header
    cdef Lane *lane = &control.lanes[index]
    cdef uint32_t i
    cdef uint64_t word, cell
    cdef Slot *slot
    cdef Task lost = None
    point(BURIAL_BEGUN)
    pthread_mutex_lock(&scheduler.mutex)
    clear_bit(header.searching, index)
    clear_bit(header.sleeping, index)
    clear_bit(header.drowsy, index)
    clear_bit(header.running, index)
    # From here on, what the dead lane pushed is marked as taken.
    scheduler.sweep()
    point(BURIAL_COLLECTED)
    for i in range(control.n_slots + control.n_mail):
        slot = &control.slots[i]
        word = load64(&slot.claim)
        if claim_lane(word) != index:
            continue
        if claim_state(word) == RUNNING:
            if scheduler.tasks[i]:
                lost = <Task>scheduler.tasks[i]
                if lost.affinity:
                    leave_lane(scheduler, lost, index)
                scheduler.tasks[i] = NULL
                scheduler.free_slot(i)
        elif claim_state(word) == DONE or (claim_state(word) == POSTED and scheduler.taken[i]):
            if i < control.n_slots and scheduler.tasks[i] and (<Task>scheduler.tasks[i]).founder:
                leave_lane(scheduler, <Task>scheduler.tasks[i], index)
            # Somebody may be reading it at this moment, which is why it stays where it is.
            if slot.flags & IN_SEGMENT and slot.segment:
                scheduler.arena.entrust(slot.segment - 1, lane.client)
            if slot.kind == MAIL_ASK and claim_state(word) == POSTED:
                # Read by the owner at this moment, or about to be: whoever answers frees it.
                scheduler.taken[i] = 2
            if not scheduler.taken[i]:
                # It died between its answer and the list.
                scheduler.taken[i] = 1
                slot.next = scheduler.backlog
                scheduler.backlog = i + 1
        elif claim_state(word) == MAIL or claim_state(word) == POSTED or claim_state(word) == ANSWERED:
            scheduler.free_slot(i)
    while lane.private.head < lane.private.tail:
        cell = load64(control.cells(&lane.private) + (lane.private.head & lane.private.mask))
        slot = &control.slots[cell_slot(cell)]
        if load64(&slot.claim) == claim_word(cell_generation(cell), NOBODY, QUEUED):
            if not ring_push(&header.queues[slot.priority], control.cells(&header.queues[slot.priority]), cell):
                break                   # No room there: it waits here for this lane's next worker.
        lane.private.head += 1
    if scheduler.bindings is not None:
        scheduler.bindings.lose_lane(index)
        lose_bound(scheduler, lane)
    store32(&lane.state, LANE_VACANT)
    lane.pid = 0
    lane.claimed = 0
    if scheduler.bindings is not None:
        scheduler.bindings.lane_lost(index)
        scheduler.refill()
    pthread_mutex_unlock(&scheduler.mutex)
    point(BURIAL_SWEPT)
    if lost is not None:
        Py_DECREF(lost)
        lost.clear()
    scheduler.fail_doomed()
    # The dead worker may have taken the word that somebody waits for a bell, and never have rung it.
    fence()
    scheduler.nudge(THREAD_BELL)
    scheduler.nudge(HELPER_BELL)
    # Or it has cleared the sleeping bit of a lane that it was about to wake: nobody would wake that one again.
    for i in range(control.n_lanes):
        if i != index:
            store32(&control.lanes[i].wake, 1)
            wake(&control.lanes[i].wake, 1)
    scheduler.wake_lanes()
    return lost
