# cython: language_level=3
"""A stream's ring in a segment of the arena, and who stands at its ends (see `stream.pyx`).

    RingHead | records: Record, payload, up to the next multiple of 32 bytes | ... | a record that says SKIP, or the end

One process writes and one reads. Each word below has one writer, but for the bells and the modes beside them, which
change by atomic operations only. Positions and counts only grow; a position modulo the capacity is a place.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.channel cimport Channel
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport Header
from snakepit._core.scheduler cimport Scheduler, pthread_mutex_t
from snakepit._core.task cimport Message, Task

cdef enum:
    RING_BYTES = 262144                 # of a ring, its head included
    INLINE_SHARE = 8                    # a record takes at most this fraction of the ring; else a segment holds it
    RECORD = 32                         # bytes of a `Record`; records begin at multiples of it
    SLICE_NS = 100_000_000              # the longest that a writer sleeps before it looks whether it was stopped
    LEAST_SPIN_NS = 4_000

# What stands in `Record.flags` beside the payload's own.
cdef enum:
    SKIP = 0x80                         # no record: the next one is at the beginning of the ring

# How one side of the ring waits for the other.
cdef enum:
    AWAKE = 0
    ASLEEP = 1                          # on its bell
    BY_MAIL = 2                         # a reader that must not block: its owner is sent a message


cdef struct RingHead:
    # Written once, before anybody else knows of the ring.
    uint64_t number                     # of the stream, in its pool
    uint64_t capacity                   # bytes for records
    uint64_t max_bytes                  # most payload bytes in flight, unless one chunk is alone
    uint32_t max_chunks
    uint32_t _pad1
    uint64_t _pad2[4]
    # The writer's.
    uint64_t produced                   # chunks; stored last, with everything that they are before it
    uint64_t tail                       # position of the next record
    uint64_t bytes_in
    uint32_t ended                      # 1: no chunk comes any more
    uint32_t _pad3
    uint64_t _pad4[4]
    # The reader's.
    uint64_t consumed                   # chunks; stored last
    uint64_t head
    uint64_t bytes_out
    uint64_t _pad5[5]
    # Both read these with each chunk and seldom write them.
    uint32_t closed                     # by the owner: nobody reads any more
    uint32_t reader_mode
    uint32_t reader_bell                # futex word
    uint32_t writer_mode
    uint32_t writer_bell                # futex word
    uint32_t _pad6[11]


cdef struct Record:
    uint64_t length                     # bytes of payload
    uint64_t word                       # the segment's state word, by which it is taken over ...
    uint32_t segment                    # ... and its index + 1; 0: the payload follows
    uint8_t encoding
    uint8_t flags
    uint8_t _pad[6]


cdef struct RingLink:
    # A ring in the list of its pool. Plain memory: an object that is about to die must not be referred to again.
    RingLink *previous
    RingLink *following
    RingHead *head
    char *records
    unsigned long reader                # the thread that read last, at first the one that made the stream
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
    cdef ChunkRing ring                 # None once there is nothing to read any more
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
    cdef int rest(self) noexcept nogil
    cdef int begin(self) except -1
    cdef object conclude(self)
    cdef ChunkRing drop_ring(self)


cdef class ChunkWriter:
    """The writing end, in the worker, for one call."""
    cdef WorkerLane lane
    cdef Channel channel
    cdef Header *control
    cdef RingHead *head
    cdef char *records
    cdef uint32_t born
    cdef uint64_t deadline_ns
    cdef Message message
    cdef uint64_t consumed, freed, bytes_out    # what the reader is known to have done: chunks, position, bytes
    cdef uint64_t spin_ns
    cdef list kept                      # (chunk's number, shared arrays that it names), unread as far as known

    cdef int encode(self, object chunk) except -1
    cdef bint has_room(self, uint64_t size, uint64_t length) noexcept nogil
    cdef bint is_read(self, uint64_t number) noexcept nogil
    cdef bint await_reader(self, uint64_t size, uint64_t length, uint64_t number) except -1
    cdef int rest(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil
    cdef bint may_go_on(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil
    cdef void write(self, uint64_t size) noexcept
    cdef int rouse_reader(self) except -1
    cdef int drop_read(self) except -1
