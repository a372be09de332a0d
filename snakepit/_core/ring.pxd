# cython: language_level=3
"""A stream's ring in a segment of the arena, word by word (`stream.pyx` is its reader, `writer.pyx` its writer).

    RingHead | records: Record, payload, up to the next multiple of 32 bytes | ... | a record that says SKIP, or the end

One process writes and one reads. Each word below has one writer, but for the bells and the modes beside them, which
change by atomic operations only. Positions and counts only grow; a position modulo the capacity is a place.

Each side says that it sleeps before it looks once more and sleeps; the other changes its word, and then looks whether
somebody sleeps. A full fence between the two on each side: one of them sees the other.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.atomics cimport WAKE_ALL, add32, wake

cdef enum:
    RING_BYTES = 262144                 # of a ring, its head included
    INLINE_SHARE = 8                    # a record takes at most this fraction of the ring; else a segment holds it
    RECORD = 32                         # bytes of a `Record`; records begin at multiples of it
    BRIEF = 40                          # looks, about a microsecond, before a side lets other threads run

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


cdef inline uint64_t record_size(uint64_t length) noexcept nogil:
    """Bytes that a record with `length` bytes of payload behind it takes in the ring."""
    return (RECORD + length + RECORD - 1) & ~<uint64_t>(RECORD - 1)


cdef inline Record *record_at(RingHead *head, char *records, uint64_t *position) noexcept nogil:
    """The record at `position`, which is moved to where that is."""
    cdef Record *record = <Record *>(records + position[0] % head.capacity)
    if record.flags & SKIP:
        position[0] += head.capacity - position[0] % head.capacity
        record = <Record *>records
    return record


cdef inline void ring_bell(uint32_t *bell) noexcept nogil:
    add32(bell, 1)
    wake(bell, WAKE_ALL)
