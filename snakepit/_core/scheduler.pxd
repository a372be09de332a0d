# cython: language_level=3
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from snakepit._core.arena cimport Arena
from snakepit._core.bindings cimport Bindings
from snakepit._core.channel cimport Channel
from snakepit._core.completions cimport Completions
from snakepit._core.counters cimport Histogram
from snakepit._core.definitions cimport Published
from snakepit._core.queue cimport PendingList
from snakepit._core.task cimport Task

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)


cdef class Scheduler(Completions):
    """The owner's side of the queues: places calls where workers find them and settles what comes back.

    `mutex` guards what follows it. It is held for a few loads and stores, never across Python code: no allocation that
    could run a finaliser, no pickling, no callback, so a finaliser or signal handler may submit at any moment.
    """
    cdef readonly Arena arena
    cdef readonly Channel channel
    cdef object __weakref__
    cdef dict known
    cdef object on_mail, on_idle        # what the pool wants to hear
    cdef public object on_ask           # `Answerer.answer`: answers a worker in the slot of its question
    cdef public object on_enclosed      # takes what an answer encloses, where sessions move
    cdef pthread_mutex_t mutex
    cdef uint64_t tables_size           # bytes of the mapping in which the tables below lie
    cdef void **tasks                   # by slot: the task that is in it, with one reference
    cdef uint32_t *free_slots           # a stack: the hottest slot is reused first
    cdef uint32_t n_free
    cdef uint32_t n_slots               # here too: the collector may have cleared `control` before we die
    cdef PendingList pending
    cdef readonly Bindings bindings     # strict affinity; None until it is first asked for
    cdef bint home_turn                 # whose turn it is to have a free slot: a lane's own waiting calls
    cdef public object explain          # (task, verdict, lane or -1) -> the error of a strict call that is refused
    cdef uint32_t backlog               # completed slots taken off the shared list, not yet handled: index + 1
    cdef uint32_t first_mail, last_mail # messages of workers, taken and not delivered: index + 1
    cdef uint32_t delivering            # 1 while a thread delivers them
    cdef object verdicts                # (task, error): failed by the supervisor, to be settled by whoever collects
    cdef uint32_t n_verdicts            # of these, what is not settled yet
    cdef char *taken                    # by slot: 1 while it stands in the backlog or is being handled, 2 (MAIL_ASK)
                                        # when who asked is dead
    cdef uint64_t *session_of           # affinity: the session that an entry is about ...
    cdef uint16_t *lane_of              # ... and the lane that last ran it
    cdef bint open                      # takes new tasks
    cdef uint64_t most_queued           # calls that may be queued at once; 0: any number
    cdef uint64_t armed_ns              # the earliest `due_ns` that the pool knows of, if not later than all there are
    cdef object on_due                  # told of an earlier one
    # Statistics; changed by single atomic additions.
    cdef uint64_t n_submitted, n_completed, n_failed, n_cancelled, bytes_in, bytes_out, next_number
    cdef readonly Histogram latency, running_time

    cpdef submit(self, Task task, Published definition, function, tuple args, dict kwargs)
    cdef int enter(self, Task task, bint from_worker=*) except -1
    cpdef bint take_back(self, Task task) except -1
    cdef int admit(self, Task task) noexcept
    cdef int refuse(self, Task task, int verdict) except -1
    cdef int fail_doomed(self) except -1
    cdef bint place(self, Task task) noexcept
    cdef bint is_full(self) noexcept
    cpdef set_limits(self, Task task, uint64_t timeout_ns, uint64_t patience_ns)
    cdef void refill(self) noexcept
    cdef void wake_lanes(self) noexcept nogil
    cdef int finish(self, uint32_t index) except -1
    cdef object take_outcome(self, uint32_t index)
    cdef void note_running_time(self, uint64_t ran) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef bint pass_verdicts(self) except -1
    cdef uint32_t take_completed(self, uint32_t *batch, uint32_t most) noexcept nogil
    cdef bint push_private(self, Task task, uint64_t cell) noexcept nogil
    cdef int deliver_mail(self) except -1
    cdef int deliver(self, uint32_t index) except -1
    cdef void free_slot(self, uint32_t index) noexcept
    cdef uint64_t outstanding(self) noexcept nogil
    cpdef int lane_of_task(self, Task task, bint even_settled=*) noexcept
