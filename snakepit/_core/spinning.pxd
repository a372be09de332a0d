# cython: language_level=3
"""Whether and how long a side spins before it sleeps (decision 0002)."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport load64, popcount64
from snakepit._core.layout cimport Header

cdef enum:
    LEAST_SPIN_NS = 4_000
    SHORT_NS = 20_000                   # tasks that run no longer are not worth a switch: of lanes, of the interpreter


cdef inline bint may_spin(Header *header) noexcept nogil:
    """Whether a CPU is left for a side that spins, beside the lanes that run or search; one that claims may say both."""
    cdef uint32_t word, busy = 0
    for word in range((header.n_lanes + 63) // 64):
        busy += popcount64(load64(&header.running[word]) | load64(&header.searching[word]))
    return busy < header.cpus


cdef inline uint64_t next_spin(uint64_t spin_ns, uint64_t waited_ns, uint64_t limit_ns) noexcept nogil:
    """How long to spin the next time.

    What came soon would have been worth spinning for, whether we did or slept; the kernel's halt-polling grows and
    shrinks its time by the same rule.
    """
    if waited_ns < limit_ns:
        return limit_ns
    return max(spin_ns // 2, <uint64_t>LEAST_SPIN_NS)
