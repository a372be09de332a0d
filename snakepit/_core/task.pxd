# cython: language_level=3
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from snakepit._core.arena cimport Segment
from snakepit._core.forks cimport forks, refuse

# State of a task, the low byte of `Task.sync`.
cdef enum:
    PENDING = 0
    RUNNING_STATE = 1                   # only ever set through the standard library's own methods
    SETTLING = 2                        # one thread is writing the outcome
    FINISHED = 3
    CANCELLED = 4                       # cancelled, waiters not told yet
    CANCELLED_AND_NOTIFIED = 5
    STATE_MASK = 0xFF
    HAS_CONDITION = 0x100               # somebody made the condition: state changes under it only

# How closely a call keeps to its session's worker, `Task.affinity`.
cdef enum:
    HINT = 0                            # that worker if it is idle
    STRICT_QUEUE = 1                    # no other, however long it takes
    STRICT_FAIL_FAST = 2                # no other, and only if it is free now
    STRICT_PARTING = 3                  # no other, also when the session is about to leave it


cdef class Message:
    """What travels one way: an encoded value, inline or in a segment, and the shared arrays that it names."""
    cdef uint8_t encoding
    cdef uint8_t flags
    cdef uint32_t items
    cdef uint64_t length                # bytes of payload
    cdef bytes inline                   # the payload, or None
    cdef Segment segment                # where the payload lies, or None
    cdef list shared                    # keeps named arrays alive until the message was read

    cdef void clear(self) noexcept


cdef class Owner:
    """What a task asks of whoever runs it."""
    cdef int made_in                    # `forks` when it was made
    cdef object hand_over               # takes the tasks whose callbacks others must not run, or None
    cdef unsigned long spared           # of these threads the one that must not, 0 for all

    cdef int help(self, Task task, uint64_t deadline) except -1
    cdef bint withdraw(self, Task task) except -1
    cdef bint is_running(self, Task task) noexcept
    cdef void observed(self) noexcept
    cdef void settled(self, Task task) noexcept


cdef inline int refuse_in_child(Owner owner) except -1:
    """Raise ForkedPoolError in a process that forked from the one that made `owner`."""
    if owner.made_in != forks:
        refuse()
    return 0


cdef class Task(Message):
    """A call on its way, and the compiled half of its Future (see `snakepit.pool.futures`)."""
    cdef Owner owner
    cdef uint32_t sync                  # atomic: state and flag, see above
    cdef uint32_t parked                # futex word: 1 while a caller sleeps for the outcome
    cdef object outcome
    cdef object error
    cdef object condition
    cdef object waiters
    cdef object callbacks
    cdef object on_settled              # called with the task instead of callbacks: the pool's own use
    # Where the call is.
    cdef uint8_t kind
    cdef uint8_t priority
    cdef uint8_t affinity
    cdef bint founder                   # strict, and the first of its session: who claims it is the session's worker
    cdef uint16_t home                  # strict: the lane of its session's worker + 1; 0: not known yet
    cdef bint listed                    # stands in a pending list
    cdef void *previous
    cdef void *following
    cdef uint32_t slot
    cdef uint64_t generation
    # What it calls, and under which terms.
    cdef readonly object function       # the Definition, kept alive; or, in-process, the function itself
    cdef object arguments               # in-process: those by position
    cdef object keywords                # in-process: those by name; None without
    cdef uint32_t definition
    cdef uint32_t epoch
    cdef readonly uint64_t number
    cdef readonly uint64_t deadline_ns
    cdef readonly uint64_t timeout_ns   # how long before the deadline its time began; 0: whoever asks knows
    cdef readonly uint64_t start_by_ns  # when it must have started at the latest; 0: whenever
    cdef readonly uint64_t due_ns       # when the pool next looks whether its time is up (see `overdue.pyx`); 0: never
    cdef uint64_t session
    cdef readonly object session_key    # the same as it was given: keeps the session's name known (see `terms.py`)
    cdef uint64_t tenure                # strict, where sessions move: the stay of its session that it belongs to
    cdef uint64_t parent
    cdef uint64_t submitted_ns
    cdef readonly uint64_t run_ns
    cdef public uint32_t attempt        # which attempt at a call this is, from 1; 0: nobody counts
    cdef public object context          # the pool's own notes on the task

    cdef bint is_settled(self) noexcept nogil
    cdef int settle(self, object outcome, object error) except -1
    cdef bint settle_cancelled(self, bint tell, bint here=*) except -1
    cdef void set_outcome(self, object outcome, object error) noexcept
    cdef int settle_observed(self, object outcome, object error) except -1
    cdef int notify(self) except -1
    cdef int after_settling(self, bint here=*) except -1
    cdef int wait_settled(self, object timeout) except -1


cdef uint64_t deadline_after(object timeout) except? 0
