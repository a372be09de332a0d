# cython: language_level=3
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from snakepit._core.bindings cimport Bindings
from snakepit._core.completions cimport Completions
from snakepit._core.layout cimport Lane
from snakepit._core.mutex cimport pthread_mutex_t
from snakepit._core.queue cimport PendingList
from snakepit._core.task cimport Task


cdef class Placement(Completions):
    """Where the pool's calls stand: in slots and on rings, or waiting for a slot (see `placement.pyx`).

    `mutex` guards what follows it, here and in the classes made of this one. It is held for a few loads and stores,
    never across Python code: no allocation that could run a finaliser, no pickling, no callback, so a finaliser or
    signal handler may submit at any moment.
    """
    cdef object __weakref__
    cdef pthread_mutex_t mutex
    cdef uint64_t tables_size           # bytes of the mapping in which the tables below lie
    cdef uint32_t answered_last         # the lane that did
    cdef uint64_t *lanes_used           # by session: the lane that last ran it (`lane_cache.pxd`)
    cdef void **tasks                   # by slot: the task that is in it, with one reference
    cdef uint32_t *free_slots           # a stack: the hottest slot is reused first
    cdef uint32_t n_free
    cdef uint32_t n_slots               # here too: the collector may have cleared `control` before we die
    cdef PendingList pending
    cdef readonly Bindings bindings     # strict affinity; None until it is first asked for
    cdef bint home_turn                 # whose turn it is to have a free slot: a lane's own waiting calls
    cdef char *taken                    # by slot: 1 while it stands in the backlog or is being handled, 2 (MAIL_ASK)
                                        # when who asked is dead
    cdef bint open                      # takes new tasks
    cdef uint64_t most_queued           # calls that may be queued at once; 0: any number
    cdef uint64_t bytes_in              # of payload, placed

    cdef int admit(self, Task task) noexcept
    cdef bint place(self, Task task) noexcept
    cdef bint stands_in_slot(self, Task task) noexcept
    cdef bint win_back(self, Task task) noexcept
    cdef bint is_free(self, uint32_t index) noexcept nogil
    cdef uint32_t lane_of_session(self, uint64_t session) noexcept
    cdef uint32_t lane_to_offer(self, uint64_t session) noexcept
    cdef bint push_private(self, Task task, uint64_t cell) noexcept
    cdef void wake_lanes(self) noexcept nogil
    cdef void refill(self) noexcept
    cdef void free_slot(self, uint32_t index) noexcept
    cdef bint is_full(self) noexcept
    cpdef bint take_back(self, Task task) except -1
    cpdef int lane_of_task(self, Task task, bint even_settled=*) noexcept
    cdef int begin_bindings(self) except -1
    cdef const void *place_of(self, Task task) noexcept
