# cython: language_level=3
"""A task and the compiled half of its Future.

A `concurrent.futures.Future` costs 2 microseconds, nearly all for its Condition, which most futures never need. Here
the state is one atomic word; the condition, the waiters and the callbacks are made when somebody asks for them. From
then on (HAS_CONDITION) every change of state happens under that condition, so the standard library's `wait` and
`as_completed`, which lock it themselves, see what they always saw.
"""
import threading
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError

from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport cas32, fence, load32, now_ns, store32, swap32
from snakepit._core.forks cimport forks
from snakepit._core.layout cimport NORMAL
from snakepit._core.refs cimport share

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef object make_condition = threading.Condition
cdef object creating = threading.RLock()  # a signal handler may need what it guards
cdef tuple STATE_NAMES = ("PENDING", "RUNNING", "PENDING", "FINISHED", "CANCELLED", "CANCELLED_AND_NOTIFIED")
cdef dict STATE_NUMBERS = {
    "PENDING": PENDING, "RUNNING": RUNNING_STATE, "FINISHED": FINISHED, "CANCELLED": CANCELLED,
    "CANCELLED_AND_NOTIFIED": CANCELLED_AND_NOTIFIED,
}


cdef uint64_t deadline_after(object timeout) except? 0:
    """The monotonic instant `timeout` seconds from now; at least 1 (0 means none)."""
    seconds = float(timeout)
    if seconds <= 0:
        return 1
    if seconds > 1e9:
        seconds = 1e9
    return now_ns() + <uint64_t>(seconds * 1e9)


cdef class Message:
    cdef void clear(self) noexcept:
        self.inline = None
        self.segment = None
        self.shared = None


cdef class Owner:
    def __cinit__(self):
        self.made_in = forks

    @property
    def forked(self) -> bool:
        """Whether this process forked from the one that made it."""
        return self.made_in != forks

    def refuse_in_child(self) -> None:
        """Raise ForkedPoolError in a process that forked from the one that made it."""
        refuse_in_child(self)

    def spare_this_thread(self, hand_over) -> None:
        """Have this thread run no callbacks: `hand_over(task)` gets the tasks that it settles."""
        self.hand_over = hand_over
        self.spared = PyThread_get_thread_ident()

    def spare_all_threads(self, hand_over) -> None:
        """Have nobody who settles tasks run their callbacks: `hand_over(task)` gets the tasks."""
        self.hand_over = hand_over
        self.spared = 0

    cdef int help(self, Task task, uint64_t deadline) except -1:
        """Return when the task is settled or the deadline has passed."""
        raise NotImplementedError

    cdef bint withdraw(self, Task task) except -1:
        """Take the task out of the queues; False when it started already."""
        raise NotImplementedError

    cdef bint is_running(self, Task task) noexcept:
        return False

    cdef void observed(self) noexcept:
        """Somebody waits for a task by other means than `result`: outcomes must arrive without help."""

    cdef void settled(self, Task task) noexcept:
        """A task was settled on which a caller sleeps."""


cdef class Task(Message):
    def __cinit__(self):
        self.slot = 0xFFFFFFFF
        self.priority = NORMAL

    def __init__(self):
        # Keeps the standard Future's own `__init__` away, which would make a condition.
        pass

    cdef bint is_settled(self) noexcept nogil:
        return (load32(&self.sync) & STATE_MASK) >= FINISHED

    # -- settling -----------------------------------------------------------------------------------------------------

    cdef int settle(self, object outcome, object error) except -1:
        """Set the outcome, wake who waits, run the callbacks. The first call counts; later ones change nothing."""
        cdef uint32_t seen
        while True:
            seen = load32(&self.sync)
            if (seen & STATE_MASK) >= SETTLING:
                return 0
            if seen & HAS_CONDITION:
                return self.settle_observed(outcome, error)
            if cas32(&self.sync, seen, SETTLING):
                break
        self.set_outcome(outcome, error)
        if not cas32(&self.sync, SETTLING, FINISHED):
            # A condition appeared meanwhile: whoever made it may hold it and believe the task unsettled.
            with self.condition:
                store32(&self.sync, FINISHED | HAS_CONDITION)
                self.notify()
        self.after_settling()
        return 0

    cdef int settle_observed(self, object outcome, object error) except -1:
        with self.condition:
            if (load32(&self.sync) & STATE_MASK) >= SETTLING:
                return 0
            self.set_outcome(outcome, error)
            store32(&self.sync, FINISHED | HAS_CONDITION)
            self.notify()
        self.after_settling()
        return 0

    cdef void set_outcome(self, object outcome, object error) noexcept:
        self.outcome = outcome
        self.error = error
        # Dropped with the task, by another thread than the one that has made them.
        share(outcome)
        share(error)

    cdef int notify(self) except -1:
        if self.waiters is not None:
            for waiter in self.waiters:
                if self.error is not None:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
        self.condition.notify_all()
        return 0

    cdef int after_settling(self, bint here=False) except -1:
        cdef Owner owner
        fence()
        if swap32(&self.parked, 0):
            self.owner.settled(self)
        if self.on_settled is not None:
            on_settled, self.on_settled = self.on_settled, None
            on_settled(self)
        if self.callbacks is not None:
            owner = self.owner
            # Who cancels a call is its user, and runs the callbacks as the standard library has it.
            if here or owner is None or owner.hand_over is None or (
                owner.spared and owner.spared != PyThread_get_thread_ident()
            ):
                self._invoke_callbacks()
            else:
                owner.hand_over(self)
        return 0

    cdef bint settle_cancelled(self, bint tell, bint here=False) except -1:
        """Mark the task cancelled, for good, and tell those who wait; False when it was settled before."""
        with self._condition:
            if (load32(&self.sync) & STATE_MASK) >= SETTLING:
                return False
            store32(&self.sync, (CANCELLED_AND_NOTIFIED if tell else CANCELLED) | HAS_CONDITION)
            if tell and self.waiters is not None:
                for waiter in self.waiters:
                    waiter.add_cancelled(self)
            self.condition.notify_all()
        self.after_settling(here)
        return True

    def mark_cancelled(self):
        """Settle the task as cancelled, wherever it is; False when it was settled before."""
        return self.settle_cancelled(True)

    def conclude(self, outcome, error):
        """Settle a task that no worker answers itself: by what its last attempt came to."""
        self.settle(outcome, error)

    def drop_message(self):
        """Let go of the encoded call."""
        self.clear()

    def partial_outcome(self):
        """What a failed chunk of `map` had done before its error: a list, or None."""
        return self.outcome

    def set_hook(self, hook):
        """Have `hook(task)` called when the task is settled, before any callback; for the pool's own use."""
        self.on_settled = hook

    # -- what the standard library's code reaches for ------------------------------------------------------------------

    @property
    def _condition(self):
        cdef uint32_t seen
        # Who asks for it waits, or wants to be told: in a forked child nobody would ever tell.
        if self.owner is not None and not self.is_settled():
            refuse_in_child(self.owner)
        if self.condition is None:
            with creating:
                if self.condition is None:
                    self.condition = make_condition()
        while True:
            seen = load32(&self.sync)
            if seen & HAS_CONDITION or (seen & STATE_MASK) >= FINISHED:
                break
            if cas32(&self.sync, seen, seen | HAS_CONDITION):
                if self.owner is not None:
                    self.owner.observed()
                break
        return self.condition

    @property
    def _state(self):
        cdef uint32_t state = load32(&self.sync) & STATE_MASK
        if state == PENDING and self.owner is not None and self.owner.is_running(self):
            return "RUNNING"
        return STATE_NAMES[state]

    @_state.setter
    def _state(self, str name):
        store32(&self.sync, <uint32_t>STATE_NUMBERS[name] | (load32(&self.sync) & HAS_CONDITION))

    @property
    def _result(self):
        return self.outcome

    @_result.setter
    def _result(self, value):
        self.outcome = value

    @property
    def _exception(self):
        return self.error

    @_exception.setter
    def _exception(self, value):
        self.error = value

    @property
    def _waiters(self):
        if self.waiters is None:
            with creating:
                if self.waiters is None:
                    self.waiters = []
        return self.waiters

    @property
    def _done_callbacks(self):
        if self.callbacks is None:
            with creating:
                if self.callbacks is None:
                    self.callbacks = []
        return self.callbacks

    @_done_callbacks.setter
    def _done_callbacks(self, value):
        self.callbacks = value

    # -- the Future's methods that calls depend on ---------------------------------------------------------------------

    def done(self):
        """Return True when the task was cancelled or ended."""
        return self.is_settled()

    @property
    def session_name(self):
        """The id of a strict call's session, for messages; None of other calls."""
        return str(self.session_key.name) if self.affinity else None

    def running(self):
        """Return True while the task runs."""
        return self._state == "RUNNING"

    def cancelled(self):
        """Return True when the task was cancelled before it started."""
        return (load32(&self.sync) & STATE_MASK) >= CANCELLED

    def cancel(self):
        """Cancel the task if it has not started; return whether it is cancelled."""
        cdef uint32_t state = load32(&self.sync) & STATE_MASK
        if state >= CANCELLED:
            return True
        if state != PENDING or (self.owner is not None and not self.owner.withdraw(self)):
            return False
        # Nobody will take the task any more, so its waiters are told here. A future without an owner is left to
        # `set_running_or_notify_cancel`, as the standard library's are.
        self.settle_cancelled(self.owner is not None, True)
        return (load32(&self.sync) & STATE_MASK) >= CANCELLED

    cdef int wait_settled(self, object timeout) except -1:
        cdef uint64_t deadline = 0 if timeout is None else deadline_after(timeout)
        if self.owner is not None:
            self.owner.help(self, deadline)
        else:
            with self._condition:
                self.condition.wait_for(self.done, timeout)
        if not self.is_settled():
            raise FutureTimeoutError()
        return 0

    def result(self, timeout=None):
        """Return what the call returned, or raise what it raised.

        `timeout`: seconds to wait, None for ever; then TimeoutError. CancelledError if the task was cancelled.
        """
        if not self.is_settled():
            self.wait_settled(timeout)
        if (load32(&self.sync) & STATE_MASK) >= CANCELLED:
            raise CancelledError()
        if self.error is not None:
            raise self.error
        return self.outcome

    def exception(self, timeout=None):
        """Return the exception that the call raised, or None. `timeout` and CancelledError as in `result`."""
        if not self.is_settled():
            self.wait_settled(timeout)
        if (load32(&self.sync) & STATE_MASK) >= CANCELLED:
            raise CancelledError()
        return self.error
