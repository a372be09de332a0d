# cython: language_level=3
"""The owner's side of stopping a task that a worker process runs: words in shared memory that name that task alone."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport cas32, load32, load64, swap32
from snakepit._core.layout cimport (
    CALLED, ORDER_RETIRE, ORDER_SERVE, RETURNED, RUNNING, STOP_FLAG, STOP_INTERRUPT, STOP_MASK, claim_generation,
    claim_state,
)
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.queue cimport NO_SLOT
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Task, refuse_in_child


cdef bint raise_to(Scheduler scheduler, Task task, uint32_t level) noexcept:
    """Ask the task's worker for more; False when it does not run, or an interrupt would come too late."""
    cdef bint done = False
    cdef uint32_t *word
    cdef uint32_t seen
    cdef uint64_t claim
    # While the mutex is held the slot is not given to another task, whose worker would take this for its own.
    pthread_mutex_lock(&scheduler.mutex)
    if task.slot != NO_SLOT and scheduler.tasks[task.slot] == <void *>task:
        claim = load64(&scheduler.control.slots[task.slot].claim)
        if claim_state(claim) == RUNNING and claim_generation(claim) == task.generation:
            word = &scheduler.control.slots[task.slot].cancel
            while not done:
                seen = load32(word)
                if level > STOP_FLAG and seen & RETURNED:
                    break
                done = cas32(word, seen, (seen & ~<uint32_t>STOP_MASK) | max(level, seen & STOP_MASK))
    pthread_mutex_unlock(&scheduler.mutex)
    return done


def ask_to_stop(Scheduler scheduler, Task task) -> bool:
    """Raise the cooperative flag of a running task; False when it does not run."""
    refuse_in_child(scheduler)
    return raise_to(scheduler, task, STOP_FLAG)


def announce_interrupt(Scheduler scheduler, Task task) -> bool:
    """Announce the interrupting signal, which must be sent right after; False: it must not, the function is over."""
    return raise_to(scheduler, task, STOP_INTERRUPT)


def phase_of(Scheduler scheduler, Task task) -> str:
    """What the worker of a running task does for it: "decoding", "running", "encoding"; "" when it does not run."""
    cdef uint32_t seen
    if scheduler.lane_of_task(task, True) < 0:
        return ""
    seen = load32(&scheduler.control.slots[task.slot].cancel)
    return "encoding" if seen & RETURNED else "running" if seen & CALLED else "decoding"


def close_lane(Scheduler scheduler, uint32_t lane) -> bool:
    """Keep a lane from claiming anything after the running task; False when it was told to already."""
    return swap32(&scheduler.control.lanes[lane].retire, ORDER_RETIRE) == ORDER_SERVE


def reopen_lane(Scheduler scheduler, uint32_t lane) -> None:
    """Undo `close_lane`, unless the worker has seen it and ends."""
    cas32(&scheduler.control.lanes[lane].retire, ORDER_RETIRE, ORDER_SERVE)


def tasks_of_session(Scheduler scheduler, uint64_t session) -> list:
    """The unsettled tasks of a session, queued and running."""
    cdef list found = []
    cdef uint32_t index
    cdef Task task
    refuse_in_child(scheduler)
    pthread_mutex_lock(&scheduler.mutex)
    try:
        scheduler.pending.add_session(session, found)
        if scheduler.bindings is not None:
            scheduler.bindings.gather(session, False, found)
    finally:
        pthread_mutex_unlock(&scheduler.mutex)
    for index in range(scheduler.control.n_slots):
        task = None
        pthread_mutex_lock(&scheduler.mutex)
        if scheduler.tasks[index] and (<Task>scheduler.tasks[index]).session == session:
            task = <Task>scheduler.tasks[index]
        pthread_mutex_unlock(&scheduler.mutex)
        if task is not None and not task.is_settled():
            found.append(task)
    return found
