# cython: language_level=3
"""Waiting for completions: the caller who waits, helps.

Workers push finished slots on a stack in shared memory (`Header.done`); any thread of the owner may take the whole
stack and settle what it finds, so what is shared out here is only who stays awake for it:

* a caller in `result()` becomes the *helper*: it spins a little on the stack, then sleeps on bell 2;
* other callers sleep on their own task;
* where several threads call, each of them first *glances* at the stack without letting go of the interpreter;
* otherwise the *collector thread* sleeps on bell 1.

`Header.armed` tells workers which bell to ring, 0 for none; who finds the stack empty and pushes on it rings at most
once, so a burst costs one wake-up. When a helper leaves, somebody must watch again. Waking the thread for that would
cost more than the call itself where calls follow each other closely; then the thread goes on *patrol*: it looks in
every millisecond while callers keep helping, and takes the watch back when they stop. Whoever observes futures without
helping (callbacks, `wait`, `as_completed`) ends the patrol at once.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport (
    EINTR, ETIMEDOUT, WAKE_ALL, add32, cas32, fence, load32, now_ns, pause, sleep_on, store32, swap32,
    wake,
)
from snakepit._core.interrupts cimport hold, release
from snakepit._core.layout cimport Header
from snakepit._core.spinning cimport FREE_THREADED, LEAST_SPIN_NS, SHORT_NS, first_sleep, may_spin, next_spin
from snakepit._core.task cimport Owner, Task, refuse_in_child

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef enum:
    PATROL_NS = 1_000_000
    CLOSE_CALLS_NS = 200_000            # calls that follow each other within this are worth a patrol
    COMPANY_NS = 20_000_000             # for so long after another thread has called there may be several
    GLANCE_NS = 15_000                  # some round trips of calls that are SHORT_NS long or less; a switch takes longer


cdef class Completions(Owner):
    cdef int collect(self, Task wanted=None) except -1:
        """Take the completion list and settle everything on it; returns how many slots that were.

        Who waits for `wanted` does so in bounded time: it stops early, with work left, once that task is settled.
        """
        raise NotImplementedError

    cdef bint has_completed(self) noexcept nogil:
        """Whether anything is there to collect."""
        return False

    # -- a caller waits ------------------------------------------------------------------------------------------------

    cdef int help(self, Task task, uint64_t deadline) except -1:
        cdef int reason
        cdef Header *header = self.control.header
        cdef uint64_t until
        cdef bint first = True
        refuse_in_child(self)
        until = self.glances_until()
        while not task.is_settled():
            reason = 0
            if not cas32(&self.helper, 0, 1):
                if self.glance(task, until):
                    self.collect_beside(task)
                elif self.sleep_on_task(task, deadline, first) == ETIMEDOUT:
                    return 0
                else:
                    first = False
                continue
            swap32(&header.armed, 0)
            add32(&self.helped, 1)
            # This thread may run a task itself: an interrupt meant for that must not meet what is settled here for
            # others, nor keep the role from being given up.
            hold()
            try:
                while True:
                    self.collect(task)
                    if task.is_settled():
                        return 0
                    if self.glance(task, until):
                        continue
                    with nogil:
                        reason = self.await_done(task, deadline, first)
                    first = reason == 0
                    if reason == ETIMEDOUT:
                        self.collect()
                        return 0
                    if reason == EINTR:
                        break
            finally:
                try:
                    self.leave(task)
                finally:
                    release()
            if reason == EINTR:
                # Not in the helper's role: a handler that waits for a task would wait for us to settle it.
                PyErr_CheckSignals()
        return 0

    cdef uint64_t glances_until(self) noexcept:
        """Until when a caller that begins to wait may keep the interpreter (decision 0031); 0: it lets go of it at once.

        One time for the whole of its wait: it is not to keep it for as long as other calls than its own go on ending.
        """
        cdef Header *header = self.control.header
        cdef uint64_t now
        cdef unsigned long me
        if FREE_THREADED or header.cpus < 2:
            return 0
        now = now_ns()
        me = PyThread_get_thread_ident()
        if me != self.last_caller:
            self.last_caller = me
            self.company_ns = now
        if now - self.company_ns > COMPANY_NS or load32(&header.typical_ns) > SHORT_NS:
            return 0
        return now + self.glance_ns

    cdef bint glance(self, Task task, uint64_t until) noexcept:
        """Look for completions, or the task's outcome, without letting go of the interpreter; False: none came until then."""
        cdef int _turn
        if until == 0 or now_ns() >= until:
            return False
        while True:
            for _turn in range(32):
                if load32(&self.control.header.done) or task.is_settled():
                    self.glance_ns = GLANCE_NS
                    return True
                pause()
            if now_ns() >= until:
                self.glance_ns = max(self.glance_ns // 2, <uint64_t>LEAST_SPIN_NS)
                return False

    cdef int collect_beside(self, Task task) except -1:
        """Collect without the helper's role, which another caller has."""
        hold()
        try:
            try:
                self.collect(task)
            finally:
                if self.has_completed():
                    # Left for others, who may have looked before we took it from the list into the backlog.
                    self.nudge(HELPER_BELL)
                    self.nudge(THREAD_BELL)
        finally:
            release()
        return 0

    cdef int await_done(self, Task task, uint64_t deadline, bint first) noexcept nogil:
        """Wait until the completion list is not empty: 0, or ETIMEDOUT, or EINTR when signals are to be looked for.

        `first`: signals have not been looked for since the wait began, or since something was there.
        """
        cdef Header *header = self.control.header
        cdef uint64_t began = now_ns()
        cdef uint64_t now = began, until
        cdef uint32_t bell
        cdef int _turn, reason
        if first and may_spin(header):
            while now - began < self.spin_ns:
                for _turn in range(32):
                    if load32(&header.done) or task.is_settled():
                        return 0
                    pause()
                now = now_ns()
        bell = load32(&header.bells[HELPER_BELL])
        store32(&task.parked, 1)
        swap32(&header.armed, HELPER_BELL)
        fence()
        if self.has_completed() or task.is_settled():
            return 0
        until = first_sleep(deadline) if first else deadline
        reason = sleep_on(&header.bells[HELPER_BELL], bell, until)
        self.spin_ns = next_spin(self.spin_ns, now_ns() - began, header.spin_limit_ns)
        return EINTR if reason == ETIMEDOUT and until != deadline else reason

    cdef int leave(self, Task task) except -1:
        """Give up the helper's role and make sure that somebody watches the list."""
        cdef uint64_t now = now_ns()
        cdef bint close = now - self.last_left_ns < CLOSE_CALLS_NS
        self.last_left_ns = now
        swap32(&self.helper, 0)
        if load32(&self.patrol) and not load32(&self.waiting_callers) and not load32(&self.observers):
            return 0
        self.arm()
        if self.has_completed():
            self.collect(task)
            if self.has_completed():
                # The caller has settled enough for others: the rest is the thread's.
                self.nudge(THREAD_BELL)
                return 0
        if close and not load32(&self.waiting_callers) and not load32(&self.observers):
            if cas32(&self.patrol, 0, 1):
                cas32(&self.control.header.armed, THREAD_BELL, 0)
                self.nudge(THREAD_BELL)
        return 0

    cdef int sleep_on_task(self, Task task, uint64_t deadline, bint first) except -1:
        """Sleep until the task is settled or the helper's role may be free: 0 or ETIMEDOUT.

        `first`: signals have not been looked for since the wait began.
        """
        cdef int reason = 0
        cdef uint64_t until = first_sleep(deadline) if first else deadline
        add32(&self.waiting_callers, 1)
        store32(&task.parked, 1)
        fence()
        # The helper reads `waiting_callers` after it gave up its role: one of us sees the other.
        if load32(&self.helper) and not task.is_settled():
            with nogil:
                reason = sleep_on(&task.parked, 1, until)
        add32(&self.waiting_callers, <uint32_t>-1)
        if reason == EINTR or until != deadline:
            PyErr_CheckSignals()
            return 0
        return reason if reason == ETIMEDOUT else 0

    cdef void settled(self, Task task) noexcept:
        wake(&task.parked, WAKE_ALL)
        if load32(&self.helper):
            self.nudge(HELPER_BELL)

    cdef void observed(self) noexcept:
        store32(&self.observers, 1)
        if swap32(&self.patrol, 0):
            self.nudge(THREAD_BELL)

    cdef void arm(self) noexcept nogil:
        swap32(&self.control.header.armed, THREAD_BELL)
        fence()

    cdef void nudge(self, uint32_t bell) noexcept nogil:
        add32(&self.control.header.bells[bell], 1)
        wake(&self.control.header.bells[bell], WAKE_ALL)

    # -- the collector thread ------------------------------------------------------------------------------------------

    def attend(self) -> int:
        """Wait for completions that nobody else collects, settle them, return how many; the thread's one step.

        Returns 0 when there was nothing to settle and the pool was closed with `dismiss`.
        """
        cdef Header *header = self.control.header
        cdef uint32_t bell, helped
        cdef bint rung
        with nogil:
            while not load32(&self.dismissed):
                bell = load32(&header.bells[THREAD_BELL])
                helped = load32(&self.helped)
                if load32(&self.patrol):
                    rung = sleep_on(&header.bells[THREAD_BELL], bell, now_ns() + PATROL_NS) != ETIMEDOUT
                    if not rung and helped != load32(&self.helped):
                        continue
                    if not rung:
                        swap32(&self.patrol, 0)
                else:
                    if not load32(&self.helper):
                        self.arm()
                        if not self.has_completed():
                            sleep_on(&header.bells[THREAD_BELL], bell, 0)
                    else:
                        sleep_on(&header.bells[THREAD_BELL], bell, 0)
                if self.has_completed():
                    if not load32(&self.helper):
                        break
                    # We may have taken the helper's place at `armed` and so the ring that was meant for it.
                    self.nudge(HELPER_BELL)
        return self.collect()

    def watch(self) -> None:
        """Somebody waits for outcomes without helping: the collector thread has to bring them."""
        refuse_in_child(self)
        self.observed()

    def dismiss(self) -> None:
        """Let the collector thread's `attend` return for good."""
        store32(&self.dismissed, 1)
        self.nudge(THREAD_BELL)

    def recall(self) -> None:
        """Undo `dismiss`, once that thread has ended: another may attend."""
        store32(&self.dismissed, 0)
