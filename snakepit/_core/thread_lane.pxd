# cython: language_level=3
from libc.stdint cimport uint64_t

from snakepit._core.interrupts cimport Runner, mutex_t
from snakepit._core.lane cimport WorkerLane


cdef class ThreadLane(WorkerLane):
    """A lane that shares its process with others (see `thread_lane.pyx`)."""
    cdef mutex_t mutex                  # guards `inside` and `interrupted` against who interrupts
    cdef Runner runner                  # the lane's thread, once that has attached


cdef class Quota:
    """How many tasks the lanes of one process may still claim, and how many they have done, all together."""
    cdef uint64_t limit                 # 0: none
    cdef uint64_t tickets
    cdef uint64_t done
