# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Message


cdef class Answerer:
    """Answers the questions of workers, in the slots that they came in (see `answering.pyx`)."""
    cdef Scheduler scheduler
    cdef object respond, explain
    cdef dict quick                     # topic -> function(session, *arguments)
    cdef dict known                     # sessions by their keys; the owner of this fills and empties it
    cdef dict kept                      # slot -> (generation, shared arrays of an answer that is not read yet)

    cdef object answer_quickly(self, uint64_t session, list question)
    cdef object read(self, uint32_t index)
    cdef int write(self, uint32_t index, Message message) except -1
    cdef int drop_read_answers(self) except -1
