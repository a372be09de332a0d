# cython: language_level=3
"""Whether and how long a side spins before it sleeps (decision 0002)."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport now_ns
from snakepit._core.counters cimport count_either
from snakepit._core.layout cimport Header

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define SP_FREE_THREADED 1
    #else
    #define SP_FREE_THREADED 0
    #endif
    """
    bint FREE_THREADED "SP_FREE_THREADED"

cdef enum:
    MOST_DOZES = 10                     # in a row; then a side without work sleeps until it is woken
    LEAST_SPIN_NS = 4_000
    LOOK_NS = 20_000_000                # the longest sleep before signals are looked for, see `first_sleep`
    SHORT_NS = 20_000                   # tasks that run no longer are not worth a switch: of lanes, of the interpreter


cdef inline bint may_spin(Header *header) noexcept nogil:
    """Whether a CPU is left for a side that spins, beside the lanes that run or search; one that claims may say both."""
    return count_either(header.running, header.searching, header.n_lanes) < header.cpus


cdef inline uint64_t next_spin(uint64_t spin_ns, uint64_t waited_ns, uint64_t limit_ns) noexcept nogil:
    """How long to spin the next time.

    What came soon would have been worth spinning for, whether we did or slept; the kernel's halt-polling grows and
    shrinks its time by the same rule.
    """
    if waited_ns < limit_ns:
        return limit_ns
    return max(spin_ns // 2, <uint64_t>LEAST_SPIN_NS)


cdef inline uint64_t first_sleep(uint64_t deadline) noexcept nogil:
    """Until when a wait may sleep the first time; its end, 0 for none, is `deadline`.

    A signal ends a system call and nothing else: one that comes on the way there, above all in a spin, is to be looked
    for after it. What remains is the instant before each further sleep, as of CPython's own locks.
    """
    cdef uint64_t until = now_ns() + LOOK_NS
    return deadline if deadline and deadline < until else until
