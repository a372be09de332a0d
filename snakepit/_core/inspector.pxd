# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.layout cimport Header, Lane, Slot, StackPage


cdef class Inspector:
    """A reader of a pool's control block, of this process's or another's: it changes nothing but requests for stacks.

    It trusts no number that it reads there: each is checked against the block's size before it is followed.
    """
    cdef object kept                    # the Control whose mapping is read, if it is this process's own
    cdef char *base
    cdef char *asking                   # the stack pages, mapped to be written: for requests alone
    cdef uint64_t size
    cdef Header *header
    cdef Lane *lanes
    cdef Slot *slots
    cdef StackPage *stacks
    cdef readonly uint32_t n_lanes

    cdef int check(self) except -1
    cdef str name_of(self, uint32_t number, uint32_t epoch)
    cdef object text_of(self, StackPage *page)
