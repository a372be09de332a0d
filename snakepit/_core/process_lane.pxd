# cython: language_level=3
from snakepit._core.lane cimport WorkerLane


cdef class ProcessLane(WorkerLane):
    """A lane that has its process to itself (see `process_lane.pyx`)."""
    cdef unsigned long thread           # that runs the tasks
    cdef bint heard                     # the interrupting signal came since the claim
    cdef int holds                      # sections of our own under way that no interrupt may break ...
    cdef bint owed                      # ... and one came meanwhile

    cdef int await_signal(self) except -1
