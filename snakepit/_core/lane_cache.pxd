# cython: language_level=3
"""Which lane last ran each session: a set-associative cache, as CPUs have them.

A set is one cache line of eight words, the newest first: in each 48 bits of the session's mixed key and 16 of the lane.
One line is touched for a call; a session that is pushed out, or taken for another, costs a call its warm worker and
nothing else.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport load64, store64

cdef enum:
    CACHE_SETS = 4096
    CACHE_WAYS = 8
    CACHE_BYTES = CACHE_SETS * CACHE_WAYS * 8
    NO_LANE = 0xFFFF


cdef inline uint64_t mixed(uint64_t key) noexcept nogil:
    # A key is two checksums side by side: the low bits of short names hardly differ.
    key ^= key >> 32
    key *= <uint64_t>0x9E3779B97F4A7C15
    return key ^ (key >> 29)


cdef inline uint64_t *set_of(uint64_t *cache, uint64_t session) noexcept nogil:
    return cache + (mixed(session) % CACHE_SETS) * CACHE_WAYS


cdef inline int way_of(uint64_t *words, uint64_t session) noexcept nogil:
    """Where in its set a session's word is, or CACHE_WAYS."""
    cdef uint64_t tag = mixed(session) >> 16
    cdef int way = 0
    while way < CACHE_WAYS and load64(&words[way]) >> 16 != tag:
        way += 1
    return way


cdef inline uint32_t recall_lane(uint64_t *cache, uint64_t session) noexcept nogil:
    """The lane of a session, or NO_LANE."""
    cdef uint64_t *words = set_of(cache, session)
    cdef int way = way_of(words, session)
    return <uint32_t>(load64(&words[way]) & 0xFFFF) if way < CACHE_WAYS else NO_LANE


cdef inline void note_lane(uint64_t *cache, uint64_t session, uint32_t lane) noexcept nogil:
    """Note the lane of a session; instead of the oldest of its set, if it is new. Under the owner's mutex."""
    cdef uint64_t *words = set_of(cache, session)
    cdef uint64_t noted = mixed(session) >> 16 << 16 | lane
    cdef int way = way_of(words, session)
    if way == CACHE_WAYS:
        for way in range(CACHE_WAYS - 1, 0, -1):
            store64(&words[way], load64(&words[way - 1]))
        way = 0
    if load64(&words[way]) != noted:
        store64(&words[way], noted)
