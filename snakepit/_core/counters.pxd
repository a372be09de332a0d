# cython: language_level=3
"""Which lanes search, sleep and run: one bit a lane in shared memory.

A bit is set and cleared by single atomic operations of the lane itself (or, on its behalf, by who wakes it), so after a
kill the owner clears the dead lane's bits and every count is exact again. Plain counters could not be repaired.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport and64, load64, lowest_bit64, or64, popcount64


cdef inline void set_bit(uint64_t *bitmap, uint32_t lane) noexcept nogil:
    or64(&bitmap[lane // 64], <uint64_t>1 << (lane % 64))


cdef inline bint clear_bit(uint64_t *bitmap, uint32_t lane) noexcept nogil:
    """Clear the bit; True when this call did it."""
    cdef uint64_t bit = <uint64_t>1 << (lane % 64)
    return and64(&bitmap[lane // 64], ~bit) & bit != 0


cdef inline bint test_bit(uint64_t *bitmap, uint32_t lane) noexcept nogil:
    return load64(&bitmap[lane // 64]) >> (lane % 64) & 1


cdef inline uint32_t count_bits(uint64_t *bitmap, uint32_t lanes) noexcept nogil:
    cdef uint32_t word, total = 0
    for word in range((lanes + 63) // 64):
        total += popcount64(load64(&bitmap[word]))
    return total


cdef inline uint32_t count_either(uint64_t *one, uint64_t *other, uint32_t lanes) noexcept nogil:
    """How many lanes have their bit set in one of two bitmaps, or in both."""
    cdef uint32_t word, total = 0
    for word in range((lanes + 63) // 64):
        total += popcount64(load64(&one[word]) | load64(&other[word]))
    return total


cdef inline uint32_t count_seekers(uint64_t *searching, uint64_t *running, uint32_t lanes) noexcept nogil:
    """How many lanes search, or are on their way to it.

    Who wakes a lane says for it that it searches, and may be late: the lane may have woken by itself meanwhile and run a
    task, for as long as that takes. One that says both searches for nothing.
    """
    cdef uint32_t word, total = 0
    for word in range((lanes + 63) // 64):
        total += popcount64(load64(&searching[word]) & ~load64(&running[word]))
    return total


cdef inline uint32_t lowest_bit(uint64_t *bitmap, uint32_t lanes) noexcept nogil:
    """The lowest lane whose bit is set, or `lanes`."""
    cdef uint32_t word
    cdef uint64_t bits
    for word in range((lanes + 63) // 64):
        bits = load64(&bitmap[word])
        if bits:
            return word * 64 + lowest_bit64(bits)
    return lanes


cdef inline uint32_t count_range(uint64_t *bitmap, uint32_t first, uint32_t count) noexcept nogil:
    """How many of the `count` lanes from `first` on have their bit set."""
    cdef uint32_t word, total = 0
    cdef uint32_t end = first + count
    cdef uint64_t bits
    for word in range(first // 64, (end + 63) // 64):
        bits = load64(&bitmap[word])
        if word == first // 64:
            bits &= ~<uint64_t>0 << (first % 64)
        if word == end // 64:
            bits &= (<uint64_t>1 << (end % 64)) - 1
        total += popcount64(bits)
    return total


cdef inline uint32_t lowest_in_range(uint64_t *bitmap, uint32_t first, uint32_t count) noexcept nogil:
    """The lowest of these lanes whose bit is set, or the one behind them."""
    cdef uint32_t lane
    for lane in range(first, first + count):
        if test_bit(bitmap, lane):
            return lane
    return first + count


cdef inline uint32_t idlest_sleeper(
    uint64_t *sleeping, uint64_t *running, uint64_t *searching, uint32_t lanes, uint32_t threads
) noexcept nogil:
    """The sleeping lane to wake, or `lanes`: of the worker that has the fewest lanes at work or on their way to it.

    Of equals the first, as with workers of one lane, so that a lightly loaded pool keeps using the same.
    """
    cdef uint32_t busy
    cdef uint32_t first = 0
    cdef uint32_t best = lanes
    cdef uint32_t least = 0xFFFFFFFF
    if threads <= 1:
        return lowest_bit(sleeping, lanes)
    while first < lanes and least > 0:
        if count_range(sleeping, first, threads):
            busy = count_range(running, first, threads) + count_range(searching, first, threads)
            if busy < least:
                least = busy
                best = first
        first += threads
    if best < lanes:
        # It may have woken up meanwhile: then whoever else sleeps.
        best = lowest_in_range(sleeping, best, threads)
        if best >= lanes or not test_bit(sleeping, best):
            best = lowest_bit(sleeping, lanes)
    return best


cdef class Histogram:
    """Durations in logarithmic bins, eight to a doubling: any quantile within 9 %, one addition a sample."""
    cdef uint64_t bins[512]

    cdef void add(self, uint64_t ns) noexcept nogil
