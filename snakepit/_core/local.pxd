# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.counters cimport Histogram
from snakepit._core.interrupts cimport Runner
from snakepit._core.mutex cimport pthread_mutex_t
from snakepit._core.queue cimport PendingList
from snakepit._core.task cimport Owner, Task


cdef class LocalQueue(Owner):
    """The queue of a pool whose workers are threads of this process; nothing is encoded (see `local.pyx`)."""
    cdef pthread_mutex_t mutex
    cdef PendingList pending
    cdef bint open
    cdef uint64_t most_queued           # calls that may be queued at once; 0: any number
    cdef uint32_t work                  # futex word: grows with each task and at closing
    cdef uint32_t sleeping              # threads asleep on it
    cdef uint32_t drowsy                # of these, the ones that look up by themselves within `DROWSY_NS`
    cdef uint32_t searching             # threads that spin for a task
    cdef uint32_t watching              # callers that spin for an outcome
    cdef uint32_t cpus
    cdef uint64_t spin_limit_ns         # the longest that a thread spins before it sleeps
    cdef uint64_t call_spin_ns          # how long the next caller spins
    cdef uint64_t typical_ns            # how long tasks lately ran, about
    cdef uint64_t n_submitted, n_completed, n_failed, n_cancelled, n_running, next_number
    cdef readonly Histogram latency, running_time
    cdef object on_idle, judge
    cdef object why_broken              # makes the error of every call, once the pool has given up; under the mutex
    cdef list runners                   # the threads that run tasks

    cpdef bint take_back(self, Runner runner, Task task) except -1
    cdef void call_thread(self) noexcept
    cdef void search(self, uint32_t seen, uint64_t until) noexcept nogil
    cdef void rest(self, uint32_t seen, int dozes) noexcept nogil
    cdef void watch(self, Task task, uint64_t until) noexcept nogil
    cdef void start(self, Task task, Runner runner) noexcept
    cdef bint run_started(self, Runner runner, Task task) except -1
    cdef bint count_end(self, bint failed) noexcept
