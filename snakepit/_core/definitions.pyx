# cython: language_level=3
"""Functions are named once: their pickle lies in the arena, calls carry its number.

A worker looks a number up when it first meets it, so a replacement knows every function without being told. Numbers are
reused, each time with a new epoch; a cached object of an older epoch is stale.
"""
import threading

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport load32, store32
from snakepit._core.control cimport Control, write_name
from snakepit._core.forks cimport forks, refuse
from snakepit._core.layout cimport NAME_BYTES, Definition

from snakepit.errors import ArenaFullError


@cython.no_gc_clear     # numbers come back to it from objects that die in the same collection
cdef class Definitions:
    def __init__(self, Control control, Arena arena):
        self.control = control
        self.arena = arena
        self.free = []
        self.made_in = forks

    def refuse_in_child(self) -> None:
        """Raise ForkedPoolError in a process that forked from the one that made the table."""
        if self.made_in != forks:
            refuse()

    def publish(self, bytes pickled, target, str name="") -> Published | None:
        """Give `pickled` a number; None when the table or the arena is full (the caller then sends it with each call).

        `name` is for those who look at the pool from outside.
        """
        cdef Published published
        cdef Definition *entry
        cdef uint32_t number
        # First, for it may fail: a number that was taken would be lost.
        cdef Segment segment
        try:
            # Without waiting: a call that is small enough needs no arena, whoever has filled it.
            segment = self.arena.allocate(PyBytes_GET_SIZE(pickled), 0)
        except ArenaFullError:
            return None
        memcpy(segment.base, PyBytes_AS_STRING(pickled), PyBytes_GET_SIZE(pickled))
        try:
            number = self.free.pop()
        except IndexError:
            number = self.used
            if number >= self.control.header.n_definitions:
                return None
            self.used += 1
        published = Published.__new__(Published)
        published.number = number
        published.target = target
        published.segment = segment
        entry = &self.control.definitions[number]
        entry.segment = published.segment.index
        entry.length = PyBytes_GET_SIZE(pickled)
        write_name(self.control.names + <uint64_t>number * NAME_BYTES, name)
        published.epoch = entry.epoch + 1
        store32(&entry.epoch, published.epoch)
        published.table = self
        return published


@cython.no_gc_clear
cdef class Published:
    def __dealloc__(self):
        if self.table is not None:
            self.table.free.append(self.number)


cdef class DefinitionReader:
    """`load(pickled)` turns the bytes into the function or class."""

    def __init__(self, Control control, Arena arena, load):
        self.control = control
        self.arena = arena
        self.load = load
        self.known = {}
        # Re-entrant: what drops out of `known` may run a finaliser.
        self.lock = threading.RLock()

    cdef object get(self, uint32_t number, uint32_t epoch):
        cdef Definition *entry
        # Cython's `get` borrows what it finds; without the GIL, another thread may let go of it meanwhile.
        with cython.critical_section(self.known):
            known = self.known.get(number)
        if known is not None and (<tuple>known)[0] == epoch:
            return (<tuple>known)[1]
        entry = &self.control.definitions[number]
        if load32(&entry.epoch) != epoch:
            raise LookupError(f"definition {number} of epoch {epoch} was replaced while a task named it")
        loaded = self.load(PyBytes_FromStringAndSize(self.arena.address_of(entry.segment), entry.length))
        # Not loaded under the lock: it may import a module, for which another thread waits that needs a definition.
        # Of two threads that load the same, both shall use one object, whose state may matter.
        with self.lock:
            previous = self.known.get(number)
            if previous is not None and (<tuple>previous)[0] == epoch:
                return (<tuple>previous)[1]
            self.known[number] = (epoch, loaded)
        return loaded

    def find(self, int number, int epoch) -> object:
        """Return the definition, loading it on first use."""
        return self.get(number, epoch)
