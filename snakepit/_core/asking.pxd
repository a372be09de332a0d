# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.control cimport Control
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport Slot
from snakepit._core.task cimport Message


cdef class Asker:
    """Asks the owner for a worker's threads, and waits for the answers (see `asking.pyx`)."""
    cdef readonly WorkerLane lane
    cdef uint32_t born                  # `forks` when it was made
    cdef uint64_t spin_ns               # how long the next wait spins; several threads may set it

    cdef object question(self, uint64_t session, list question)
    cdef object send(self, uint64_t session, Message message)
    cdef int await_answer(self, Slot *slot, uint64_t posted) except -1
    cdef void spin(self, Slot *slot, uint64_t posted, uint64_t until) noexcept nogil
    cdef int sleep(self, Slot *slot, uint64_t posted) noexcept nogil
    cdef int give_up(self, uint32_t index, uint64_t posted) except -1
    cdef object take_answer(self, uint32_t index)


cdef class Entry:
    """A variable as it was read; never changed."""
    cdef object value                   # or its pickle
    cdef bint pickled
    cdef uint64_t revision              # of before it was read
    cdef uint64_t until                 # monotonic ns


cdef class VariableCache:
    """Variables of one session that a worker has read (see `asking.pyx`)."""
    cdef Asker asker
    cdef uint64_t session
    cdef Control control
    cdef uint64_t *word                 # the session's of `Header.revisions`
    cdef uint64_t ttl_ns
    cdef dict entries
    cdef dict questions                 # those for variables, encoded, by their names

    cdef int remember(self, name, value, uint64_t revision) except -1
