# cython: language_level=3
"""The owner's side of streams: their rings, and who reads them (see `stream.pyx`; the words are in `ring.pxd`)."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.channel cimport Channel
from snakepit._core.mutex cimport pthread_mutex_t
from snakepit._core.ring cimport Record, RingHead
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Task


cdef struct RingLink:
    # A ring in the list of its pool. Plain memory: an object that is about to die must not be referred to again.
    RingLink *previous
    RingLink *following
    RingHead *head
    char *records
    unsigned long reader                # the thread that read last, at first the one that made the stream
    uint32_t resting                    # 1 while the reader sleeps on its bell, whatever the worker did to its mode
    bint done                           # the call is settled
    bint abandoned                      # closed, unread, because its reader waits for the pool's end


cdef class Rings:
    """The rings of one pool: all of them, for whoever buries a worker or waits for the pool's end.

    `mutex` guards the list and `ChunkReader.ring`; it is held for loads, stores and futex wake-ups, never across
    Python code, so a finaliser may close a stream at any moment.
    """
    cdef readonly Scheduler scheduler
    cdef Arena arena
    cdef pthread_mutex_t mutex
    cdef RingLink *first                # the rings unlink themselves when they die
    cdef uint64_t numbers
    cdef dict sleepers                  # by number: rings whose reader waits for a message


cdef class ChunkRing:
    """The owner's half of a ring. It lives as long as its stream or its call, a late worker's included.

    The call holds it among what its message keeps alive: until the worker has answered, or is dead. So a worker whose
    call was given up may go on writing without harm.
    """
    cdef Rings rings
    cdef Segment segment
    cdef RingHead *head
    cdef char *records
    cdef RingLink link
    cdef uint32_t born                  # `forks` when it was made
    cdef object waker                   # called once, when a reader that waits by mail shall look

    cdef int discard(self) except -1
    cdef void shut(self) noexcept nogil


cdef class ChunkReader:
    """The reading end, which a stream of worker processes derives from. One thread reads; any may close."""
    cdef readonly ChunkRing ring        # None once there is nothing to read any more
    cdef Rings rings
    cdef Task task
    cdef Channel channel
    cdef uint32_t born
    cdef uint32_t reading               # 1 while a thread reads
    cdef uint32_t over                  # 1: nothing is given out any more
    cdef uint64_t seen                  # chunks that the writer is known to have produced
    cdef uint64_t spin_ns               # how long the next spin lasts

    cdef object take(self)
    cdef object decode(self, Record *record, uint64_t number)
    cdef int advance(self, uint64_t size, uint64_t length) except -1
    cdef bint is_waiting_over(self) noexcept nogil
    cdef bint spin_briefly(self) noexcept nogil
    cdef void rest(self, bint first) noexcept nogil
    cdef int begin(self) except -1
    cdef object conclude(self)
    cdef ChunkRing drop_ring(self)
