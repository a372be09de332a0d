# cython: language_level=3
from libc.stdint cimport uint64_t

from snakepit._core.bindings cimport Binding, Bindings
from snakepit._core.queue cimport PendingList
from snakepit._core.task cimport Task


cdef class MovingBindings(Bindings):
    """The bindings of a pool whose sessions outlive their workers (see `moving.pyx`).

    Instead of failing, the calls of a session that has lost its worker wait with its entry until it may begin elsewhere:
    none of its calls is under way any more, and what the old worker knows of it is saved or gone for good. The first of
    them is then a founder like any other.
    """
    cdef PendingList pending            # the scheduler's: a founder is put at its head
    cdef uint64_t tenures               # given so far
    cdef bint frozen                    # the queues are being emptied: nothing begins elsewhere

    cdef int admit_moving(self, Binding *entry, Task task) noexcept
    cdef bint may_begin(self, Binding *entry) noexcept
    cdef bint has_ended(self, Binding *entry) noexcept
    cdef bint still_serves(self, Binding *entry) noexcept
    cdef void begin(self, Binding *entry, Task founder) noexcept
    cdef void settle(self, Binding *entry) noexcept
    cdef void ended(self, Task task) noexcept
    cdef void take_back_in(self, Binding *entry, Task task) noexcept
