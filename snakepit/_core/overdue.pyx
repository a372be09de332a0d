# cython: language_level=3
"""Limits of a queue in time and length: which tasks are due, and when to look again.

A task that is watched carries the instant at which somebody has to look at it (`Task.due_ns`). The pool is told only of
an instant that is earlier than the one for which it has set its timer (`Scheduler.armed_ns`), so a call that is done in
time costs a comparison. When the timer fires, whoever is due by then is found by looking at all that are queued or
running, and the timer is set to the earliest instant that is left.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport load64, now_ns
from snakepit._core.layout cimport PRIORITIES, RUNNING, claim_state
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Task

cdef uint64_t NEVER = <uint64_t>-1
cdef enum:
    EARLY_NS = 1_000_000                # by how much a timer may fire before its time


def limit_queue(Scheduler scheduler, uint64_t most_queued, on_due) -> None:
    """Refuse calls while `most_queued` wait (0: never); `on_due(ns)` hears when `take_due` has to be called sooner."""
    scheduler.most_queued = most_queued
    scheduler.on_due = on_due


def take_due(Scheduler scheduler) -> tuple[list, int]:
    """Return the tasks whose time is up, which are watched no more, and the next instant to look at, 0 for none.

    A timer that fires while an earlier or later one was set in its place has nothing to do: ([], 0).
    """
    cdef list due = []
    cdef uint64_t now = now_ns()
    cdef uint64_t following = NEVER
    cdef uint32_t index
    cdef int priority
    cdef void *at
    cdef list bound = []
    # What is appended here is no container, and a list makes no garbage collection run: no Python code under the mutex.
    pthread_mutex_lock(&scheduler.mutex)
    if scheduler.armed_ns > now + EARLY_NS:
        pthread_mutex_unlock(&scheduler.mutex)
        return due, 0
    try:
        for index in range(scheduler.n_slots):
            if scheduler.tasks[index]:
                look(scheduler, <Task>scheduler.tasks[index], now, due, &following)
        for priority in range(PRIORITIES):
            at = scheduler.pending.first[priority]
            while at != NULL:
                look(scheduler, <Task>at, now, due, &following)
                at = (<Task>at).following
        if scheduler.bindings is not None:
            scheduler.bindings.gather(0, False, bound)
            for task in bound:
                look(scheduler, <Task>task, now, due, &following)
    finally:
        scheduler.armed_ns = following
        pthread_mutex_unlock(&scheduler.mutex)
    return due, 0 if following == NEVER else following


cdef int look(Scheduler scheduler, Task task, uint64_t now, list due, uint64_t *following) except -1:
    if task.due_ns == 0 or task.is_settled():
        return 0
    if task.due_ns <= now:
        if (task.deadline_ns > now and not task.listed
                and claim_state(load64(&scheduler.control.slots[task.slot].claim)) >= RUNNING):
            # It has started in time, and still has time to end.
            task.due_ns = task.deadline_ns
        else:
            task.due_ns = 0
            due.append(task)
            return 0
    following[0] = min(following[0], task.due_ns)
    return 0


def watch_until(Scheduler scheduler, Task task, uint64_t when_ns, uint64_t timeout_ns) -> bool:
    """Have a task looked at at an instant, or earlier; True when the timer has to be set to `Task.due_ns`.

    `timeout_ns`: how long before its deadline its time began.
    """
    cdef bint sooner
    pthread_mutex_lock(&scheduler.mutex)
    task.timeout_ns = timeout_ns
    if task.due_ns == 0 or when_ns < task.due_ns:
        task.due_ns = when_ns
    sooner = task.due_ns < scheduler.armed_ns
    if sooner:
        scheduler.armed_ns = task.due_ns
    pthread_mutex_unlock(&scheduler.mutex)
    return sooner
