# cython: language_level=3
from snakepit._core.control cimport Control


cdef class Roster:
    """Which lanes serve, which are held as spares, and what each is told (see `roster.pyx`)."""
    cdef readonly Control control
