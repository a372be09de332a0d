# cython: language_level=3
"""Arming the protocol's points (see `points.pxd`); what `snakepit.testing` builds on."""
import os

from snakepit._core.memory cimport Mapping

# Not by iterating over the enum: as a flag type it would skip what is no power of two.
cdef dict numbers = {
    name.lower().replace("_", ".", 1): int(member)
    for name, member in sorted(globals()["Point"].__members__.items(), key=lambda item: int(item[1]))
    if member != LAST_POINT
}


def compiled_in() -> bool:
    """Whether this build has points: built with SNAKEPIT_DEBUG=1."""
    return COMPILED_IN == 1


def point_names() -> list:
    """Return the names of the points, in the protocol's order."""
    return list(numbers)


def point_number(str name) -> int:
    """Return the number of a point. Raises KeyError."""
    return numbers[name]


cdef class PointTable:
    """The state of all points, in the file behind `fd`; this process is the owner of the pools under test."""
    cdef Mapping mapping
    cdef Entry *entries

    def __init__(self, int fd):
        os.ftruncate(fd, POINTS * sizeof(Entry))
        self.mapping = Mapping(fd, POINTS * sizeof(Entry))
        self.entries = <Entry *>self.mapping.base
        self.entries[0].target = os.getpid()

    def arm(self, int number, int signal, int nth, bint in_owner, int target) -> None:
        """Have the nth passing from now act: send `signal` to `target`, or itself (0), or wait for `disarm` (0)."""
        cdef Entry *entry = &self.entries[number]
        cdef uint32_t action = KILL_OTHER | <uint32_t>signal << SIGNAL_SHIFT if target else signal if signal else WAIT
        entry.action = 0
        entry.target = target
        entry.countdown = nth
        entry.action = action | <uint32_t>(IN_OWNER if in_owner else IN_WORKERS)

    def disarm(self, int number) -> None:
        """Have the point do nothing any more; who waits at it goes on."""
        self.entries[number].action = 0

    def passes(self, int number) -> int:
        """How often the point was passed, by any process."""
        return self.entries[number].passes

    def fired(self, int number) -> int:
        """How often the point has acted."""
        return self.entries[number].fired

    def fired_pid(self, int number) -> int:
        """The process in which it acted last; 0: none."""
        return self.entries[number].fired_pid
