# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.control cimport Control


cdef class Definitions:
    """The owner's side: gives numbers to pickled functions and classes, puts them where every worker can read them."""
    cdef readonly Control control
    cdef readonly Arena arena
    cdef int made_in                    # `forks` when it was made
    cdef list free
    cdef uint32_t used


cdef class Published:
    """One numbered definition; its number is reused when the object dies, so whoever names it keeps it alive."""
    cdef Definitions table
    cdef Segment segment
    cdef readonly uint32_t number
    cdef readonly uint32_t epoch
    cdef readonly object target         # the function or class itself
    cdef object __weakref__


cdef class DefinitionReader:
    """The worker's side: loads a definition on its first use and keeps it."""
    cdef Control control
    cdef Arena arena
    cdef dict known                     # number -> (epoch, object)
    cdef object load                    # bytes -> object
    cdef object lock                    # decides which of two threads' objects is kept

    cdef object get(self, uint32_t number, uint32_t epoch)
