# cython: language_level=3
"""The lane of a worker with several threads: claims like any other, and is interrupted in a way of its own.

Signals reach the main thread alone, which runs no tasks here. So the owner's signal only says that there is an interrupt
to deliver; the main thread finds by the stop words for whom, and leaves TaskInterrupt with the lane's thread (see
`interrupts.pyx`):

    owner: stop word INTERRUPT, signal --> main thread: `send_interrupt` of each lane
                                             under the lane's mutex: inside its function, and the word says so?
    lane:  `call` raises `inside` under the mutex; lowers it under the mutex, and takes back what was not raised yet

From the function's last bytecode to that point only C runs, so nothing is raised there, and a signal that comes late
finds the lane outside, or in a task whose word does not ask for it.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport add32, add64, load32, load64
from snakepit._core.interrupts cimport Runner, hold, mutex_destroy, mutex_init, mutex_lock, mutex_unlock, release
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport CALLED, RETURNED, STOP_INTERRUPT, STOP_MASK

from snakepit.errors import TaskInterrupt

cdef extern from "Python.h":
    object call_object "PyObject_Call"(object function, object args, object kwargs)


cdef class ThreadLane(WorkerLane):
    def __cinit__(self):
        mutex_init(&self.mutex, NULL)

    def __dealloc__(self):
        mutex_destroy(&self.mutex)

    def attach(self) -> None:
        """Make the calling thread the one that runs this lane's tasks."""
        self.runner = Runner()

    @property
    def alone(self) -> bool:
        """Whether this lane is its process's only one."""
        return False

    def call(self, function, tuple args, dict kwargs):
        """Call the function of the claimed task: the only place where TaskInterrupt is raised."""
        cdef uint32_t *word = &self.control.slots[self.slot].cancel
        cdef bint late
        mutex_lock(&self.mutex)
        late = add32(word, CALLED) & STOP_MASK
        self.runner.word = word
        self.inside = not late
        mutex_unlock(&self.mutex)
        try:
            if late:
                raise TaskInterrupt("the task was asked to stop before its function was called")
            return call_object(function, args, kwargs)
        finally:
            mutex_lock(&self.mutex)
            if self.inside and self.interrupted and self.runner.withdraw():
                self.interrupted = False
            if late:
                self.interrupted = True
            self.inside = False
            self.runner.word = NULL
            add32(word, RETURNED)
            mutex_unlock(&self.mutex)

    def send_interrupt(self) -> bool:
        """Have TaskInterrupt raised in the running task, from another thread, if its owner asks for that.

        Once a task; False when there was nothing to do.
        """
        cdef bint sent = False
        mutex_lock(&self.mutex)
        if self.inside and not self.interrupted and (load32(self.runner.word) & STOP_MASK) >= STOP_INTERRUPT:
            self.interrupted = sent = True
            self.runner.send()
        mutex_unlock(&self.mutex)
        return sent

    def hold_interrupts(self) -> None:
        """Put off an interrupt of the calling thread until `release_interrupts`."""
        hold()

    def release_interrupts(self) -> None:
        """End what `hold_interrupts` began; raises TaskInterrupt if one came meanwhile."""
        release()


cdef class Quota:
    def __init__(self, uint64_t limit):
        self.limit = limit

    def take(self) -> bool:
        """Take the right to claim one task; False when none is left."""
        return self.limit == 0 or add64(&self.tickets, 1) < self.limit

    def count(self) -> int:
        """Count a task that is done; returns the number of it."""
        return add64(&self.done, 1) + 1

    @property
    def completed(self) -> int:
        """How many tasks are done."""
        return load64(&self.done)
