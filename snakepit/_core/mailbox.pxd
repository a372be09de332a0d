# cython: language_level=3
from libc.stdint cimport uint32_t

from snakepit._core.arena cimport Arena
from snakepit._core.layout cimport Slot
from snakepit._core.placement cimport Placement


cdef class Mailbox:
    """The messages of workers, taken off the completion list and not delivered (see `mailbox.pyx`).

    A chain of slots, first to last, that changes under the mutex of the placement to which the slots belong.
    """
    cdef Arena arena
    cdef object on_mail
    cdef public object on_ask           # `Answerer.answer`: answers a worker in the slot of its question
    cdef uint32_t first, last           # index + 1
    cdef uint32_t delivering            # 1 while a thread delivers them

    cdef bint waits(self) noexcept nogil
    cdef void append(self, Slot *slots, uint32_t number) noexcept nogil
    cdef int deliver(self, Placement placement) except -1
    cdef int hand_over(self, Placement placement, uint32_t index) except -1
