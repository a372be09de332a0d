# cython: language_level=3
from libc.stdint cimport uint64_t

from snakepit._core.atomics cimport add64


cdef class Histogram:
    cdef void add(self, uint64_t ns) noexcept nogil:
        cdef int exponent = 0
        cdef uint64_t value = ns | 1
        while value >= 16:
            value >>= 1
            exponent += 1
        # `value` is 8..15 from 8 ns on: its low three bits pick the bin within the doubling.
        add64(&self.bins[exponent * 8 + (value & 7) + (8 if ns >= 8 else 0)], 1)

    def quantile(self, double q) -> float:
        """Return the duration in seconds that the fraction `q` of the samples did not exceed; 0.0 without samples."""
        cdef uint64_t total = 0, seen = 0
        cdef int i
        for i in range(512):
            total += self.bins[i]
        if total == 0:
            return 0.0
        for i in range(512):
            seen += self.bins[i]
            if seen >= q * total and seen:
                break
        if i < 8:
            return i * 1e-9
        return (8 + i % 8 + 0.5) * 2.0 ** (i // 8 - 1) * 1e-9

    @property
    def count(self) -> int:
        """Number of samples."""
        cdef uint64_t total = 0
        for i in range(512):
            total += self.bins[i]
        return total
