# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena
from snakepit._core.channel cimport Channel
from snakepit._core.claimant cimport Claimant
from snakepit._core.definitions cimport DefinitionReader
from snakepit._core.task cimport Message


cdef class WorkerLane(Claimant):
    """One thread of a worker: claims a task, decodes it, encodes and publishes the answer (see `lane.pyx`)."""
    cdef readonly Arena arena
    cdef readonly Channel channel
    cdef readonly DefinitionReader definitions
    cdef uint32_t born                  # `forks` when it was made
    cdef Message answer
    cdef bint inside                    # in the task's function: the one place where an interrupt may be raised
    cdef unsigned long thread           # that runs the tasks
    cdef bint heard                     # the interrupting signal came since the claim
    cdef readonly bint interrupted      # the claimed task was interrupted
    cdef int holds                      # sections of our own under way that no interrupt may break ...
    cdef bint owed                      # ... and one came meanwhile
    cdef list kept                      # (slot, generation, shared arrays of an answer that is not read yet)
    cdef object asks                    # its `Asker`, once somebody asked
    cdef public object enclosed         # None, or what travels with the next answer: a list, for `Settlement.on_enclosed`
    cdef public object examiner         # None, or what looks at the worker's health when the owner asks for that

    cdef int be_examined(self) except -1
    cdef int encode_enclosed(self, Message answer, value, uint64_t deadline_ns) except -1
    cdef int await_signal(self) except -1
    cdef void publish_slot(self) noexcept nogil
    cdef void push(self, uint32_t index) noexcept nogil
    cdef uint32_t open_mail(self) noexcept nogil
    cdef int post_message(
        self, int kind, uint64_t number, Message message, uint32_t definition, uint32_t epoch, uint64_t session=*
    ) except -1
