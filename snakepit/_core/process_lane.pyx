# cython: language_level=3
"""The lane of a worker with one thread: it runs tasks on the main thread, where signals are handled.

    owner: stop word INTERRUPT, signal --> the handler, `interrupt`, between two bytecodes: inside the task's function?
    lane:  `call` raises `inside` before the function, lowers it after; then, if a signal was announced, waits for it

So a signal that comes late finds the lane outside, or is waited for, and never meets another task.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport add32, load32, now_ns, sleep_on
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport CALLED, RETURNED, STOP_INTERRUPT, STOP_MASK

from snakepit.errors import TaskInterrupt

cdef extern from "Python.h":
    object call_object "PyObject_Call"(object function, object args, object kwargs)
    unsigned long PyThread_get_thread_ident() nogil

cdef enum:
    PROMPTLY_NS = 50_000_000            # how long a signal that was announced may take


cdef class ProcessLane(WorkerLane):
    def announce(self, int pid) -> None:
        """Say that this lane is ready for work, which the calling thread will do."""
        self.thread = PyThread_get_thread_ident()
        WorkerLane.announce(self, pid)

    cdef void forget_interrupts(self) noexcept:
        self.heard = self.interrupted = self.owed = False

    def call(self, function, tuple args, dict kwargs):
        """Call the function of the claimed task: the only place where TaskInterrupt is raised.

        Signal handlers run between bytecodes, so none runs from the function's end to where `inside` is lowered. The
        stop word is the handshake with the owner: either it announces its signal before RETURNED stands there, and the
        signal is waited for here, or it sends none. So no later task meets it, not even as an interrupted system call.
        """
        cdef uint32_t *word = &self.control.slots[self.slot].cancel
        cdef bint late = add32(word, CALLED) & STOP_MASK
        try:
            if late:
                self.interrupted = True
                raise TaskInterrupt("the task was asked to stop before its function was called")
            self.inside = True
            return call_object(function, args, kwargs)
        finally:
            self.inside = False
            if (add32(word, RETURNED) & STOP_MASK) >= STOP_INTERRUPT:
                self.await_signal()

    @property
    def alone(self) -> bool:
        """Whether this lane is its process's only one: what the process does, it does for its task."""
        return True

    def interrupt(self, _number, _frame):
        """The handler of the interrupting signal; raises TaskInterrupt once a task, and only inside its function."""
        self.heard = True
        if not self.inside or self.interrupted:
            return
        if (load32(&self.control.slots[self.slot].cancel) & STOP_MASK) < STOP_INTERRUPT:
            return
        if self.holds:
            self.owed = True
            return
        self.interrupted = True
        raise TaskInterrupt("the task was asked to stop")

    def hold_interrupts(self) -> None:
        """Put off an interrupt until `release_interrupts`: what follows must not be left half done."""
        if PyThread_get_thread_ident() == self.thread:
            self.holds += 1

    def release_interrupts(self) -> None:
        """End what `hold_interrupts` began; raises TaskInterrupt if one came meanwhile."""
        if PyThread_get_thread_ident() != self.thread:
            return
        self.holds -= 1
        if self.owed and not self.holds:
            self.owed = False
            if self.inside and not self.interrupted:
                self.interrupted = True
                raise TaskInterrupt("the task was asked to stop")

    cdef int await_signal(self) except -1:
        """Let the signal come that the owner has announced; not for ever, for the owner may be gone."""
        cdef uint64_t until = now_ns() + PROMPTLY_NS
        cdef uint32_t word = 0
        PyErr_CheckSignals()
        while not self.heard and now_ns() < until:
            with nogil:
                sleep_on(&word, 0, now_ns() + 1_000_000)
            PyErr_CheckSignals()
        return 0
