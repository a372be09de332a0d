# cython: language_level=3
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from snakepit._core.control cimport Control
from snakepit._core.task cimport Task

# What `Bindings.admit` decides of a strict call.
cdef enum:
    ANYWHERE = 0                        # the first of its session: an ordinary call until it is claimed
    AT_HOME = 1                         # `Task.home` is set: for that lane's bound ring
    WAITING = 2                         # listed here until its session has a worker
    WORKER_LOST = 3                     # refused: the session's worker is gone, or going
    WORKER_BUSY = 4                     # refused: the worker is not free and the call does not wait
    TABLE_FULL = 5                      # refused: too many sessions

# What is known of a session.
cdef enum:
    UNDECIDED = 0                       # its founder is under way, and nobody has seen who claimed it
    BOUND = 1
    LOST = 2
    MOVING = 3                          # its calls wait until it may begin elsewhere (`moving.pyx`)


cdef struct Binding:
    uint64_t key                        # the session's; 0: the entry is free
    void *founder                       # UNDECIDED: a task that some queue or slot keeps alive
    void *first_waiter                  # UNDECIDED, MOVING: a chain of tasks, each with one reference
    void *last_waiter
    uint32_t incarnation                # BOUND, LOST, MOVING: of the worker ...
    uint16_t lane                       # ... and its lane
    uint8_t state
    uint8_t forgotten                   # to be struck off once its waiters have a worker
    # Where sessions move:
    uint32_t in_flight                  # calls that its present worker owes, and its founder, once that is claimed
    uint8_t unsaved                     # that worker alone has all of its state
    uint8_t held                        # it begins nowhere until who moves it says so
    uint64_t tenure                     # its stay in that worker; another number each time
    uint64_t _pad                       # to the size of a cache line, which it fills alone


cdef class Bindings:
    """Which worker each session is bound to, and the strict calls that wait for theirs.

    Not locked: the scheduler calls it under its mutex. Apart from `gather` and `sessions_of`, no method runs Python code
    or allocates an object; and apart from these and `lane_lost`, which read the table, each takes the same time whatever
    the number of sessions and calls.
    """
    cdef Control control
    cdef void *memory                   # in which the table lies, a cache line an entry
    cdef Binding *table                 # open addressing, linear probing
    cdef uint64_t capacity              # a power of two; 0 before the first session
    cdef readonly uint64_t known        # sessions in it
    cdef list waiting                   # by lane: the PendingList of calls that found no room in slots
    cdef readonly uint64_t length       # calls in these lists and in the chains of waiters
    cdef void *first_doomed             # a chain: calls that were for a worker which is gone, to be failed
    cdef void *last_doomed
    cdef readonly uint64_t n_doomed     # of these, what is not handed to `Scheduler.fail_elsewhere` yet
    cdef uint32_t most_in_slots         # calls that one lane may hold in slots
    # By lane, one behind the other in one mapping:
    cdef uint32_t *in_slots             # calls of its sessions that are in slots
    cdef uint32_t *next_hungry          # the lanes that could take a waiting call as soon as a slot is free, a circle
    cdef uint64_t tables_size
    cdef uint32_t last_hungry           # whose successor is the first; NO_LANE: there is none

    cdef int admit(self, Task task) noexcept
    cdef bint must_wait(self, Task task) noexcept
    cdef bint has_room(self, uint32_t lane) noexcept
    cdef void wait(self, Task task) noexcept
    cdef Task next_waiting(self)
    cdef void entered(self, Task task) noexcept
    cdef void left_slot(self, Task task) noexcept
    cdef void lose_slot(self, Task task) noexcept
    cdef void finished(self, Task task, uint32_t lane) noexcept
    cdef void unlist(self, Task task) noexcept
    cdef Task succeed(self, Task founder)
    cdef void lose_founder(self, Task founder, uint32_t lane) noexcept
    cdef void lose_lane(self, uint32_t lane) noexcept
    cdef void lane_lost(self, uint32_t lane) noexcept
    cdef void doom(self, Task task) noexcept
    cdef Task next_doomed(self)
    cdef bint forget(self, uint64_t key) noexcept
    cdef int gather(self, uint64_t session, bint take, list found) except -1
    cdef uint64_t queued(self) noexcept nogil
    cdef list sessions_of(self, uint32_t lane, uint32_t incarnation)

    cdef Binding *find(self, uint64_t key) noexcept
    cdef Binding *insert(self, uint64_t key) noexcept
    cdef bint grow(self) noexcept
    cdef void remove(self, Binding *entry) noexcept
    cdef const void *place_of(self, uint64_t key) noexcept
    cdef bint take_on(self, Binding *entry, Task task) noexcept
    cdef void bind(self, Binding *entry, uint32_t lane) noexcept
    cdef void bind_founder(self, Binding *entry, uint32_t lane) noexcept
    cdef int lane_of_founder(self, Binding *entry) noexcept
    cdef void append_waiter(self, Binding *entry, Task task) noexcept
    cdef Task pop_waiter(self, Binding *entry)
    cdef void add_hungry(self, uint32_t lane) noexcept
    cdef void pay(self, uint32_t lane) noexcept
