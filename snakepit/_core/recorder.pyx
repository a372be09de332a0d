# cython: language_level=3
"""The worker's flight recorder: an anonymous file that outlives it.

    | Header: bytes written so far, the newest call that wrote, where it began to | ring of the last bytes of stderr | what faulthandler wrote at the crash ...

The owner reads it after the worker's death (`snakepit.lifecycle.autopsy`). Pages that nothing was written to cost
nothing, so a worker that neither prints nor crashes has none.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from snakepit._core.atomics cimport add64, load64, store64
from snakepit._core.memory cimport Mapping

cdef extern from * nogil:
    """
    #include <signal.h>
    #include <unistd.h>

    static int sp_echo_from = -1;
    static long sp_echo_at = 0;

    /* faulthandler, which has just written to the file, raises the signal again and comes here. Only calls that are safe
       in a signal handler. */
    static void sp_echo(int number) {
        char block[512];
        long at = sp_echo_at;
        ssize_t n;
        while ((n = pread(sp_echo_from, block, sizeof block, at)) > 0) {
            if (write(2, block, n) < 0) break;
            at += n;
        }
        signal(number, SIG_DFL);
        raise(number);
    }
    static int sp_echo_faults(int fd, long at) {
        static const int numbers[] = {SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGILL};
        struct sigaction action;
        size_t i;
        sp_echo_from = fd;
        sp_echo_at = at;
        sigemptyset(&action.sa_mask);
        action.sa_handler = sp_echo;
        action.sa_flags = SA_NODEFER | SA_ONSTACK;
        for (i = 0; i < sizeof numbers / sizeof *numbers; i++)
            if (sigaction(numbers[i], &action, 0)) return -1;
        return 0;
    }
    """
    int sp_echo_faults(int fd, long at)

HEADER = 64
TAIL = 8192 - 64
SIZE = 8192

cdef enum:
    HEADER_BYTES = 64
    TAIL_BYTES = 8192 - 64


# In the header, words of 64 bits.
cdef enum:
    WRITTEN = 0                         # bytes so far
    CALL = 1                            # the newest call that wrote anything, by the time at which it was claimed
    BEGUN = 2                           # how many bytes had been written before it wrote the first


cdef class Recorder:
    """Stands in for the `write` of a text stream: passes the text on and remembers its end.

    Without a lock, so that it cannot hang in a forked child or a signal handler; of two threads that write at once each
    has its own part of the ring.
    """
    cdef Mapping mapping
    cdef object write
    cdef object lane

    def __init__(self, int fd, write=None):
        self.mapping = Mapping(fd, HEADER_BYTES + TAIL_BYTES)
        self.write = write

    def watch(self, lane) -> None:
        """Note from now on where the text of each call of this lane begins; a call that writes nothing costs nothing."""
        self.lane = lane

    def __call__(self, text):
        written = self.write(text)
        # Whatever `write` took is text, or it would have raised.
        self.remember(str(text[-TAIL_BYTES:]).encode("utf-8", "backslashreplace")[-TAIL_BYTES:])
        return written

    cdef int remember(self, bytes data) except -1:
        cdef uint64_t count = PyBytes_GET_SIZE(data)
        cdef uint64_t *header = <uint64_t *>self.mapping.base
        cdef uint64_t begun = add64(&header[WRITTEN], count)
        cdef uint64_t at = begun % TAIL_BYTES
        cdef uint64_t call = 0 if self.lane is None else self.lane.claimed_ns
        # A child that a call has forked knows none later than that call.
        if call > load64(&header[CALL]):
            store64(&header[BEGUN], begun)
            store64(&header[CALL], call)
        cdef uint64_t first = min(count, TAIL_BYTES - at)
        cdef char *ring = self.mapping.base + HEADER_BYTES
        memcpy(ring + at, PyBytes_AS_STRING(data), first)
        memcpy(ring, PyBytes_AS_STRING(data) + first, count - first)
        return 0


def echo_faults(int fd) -> None:
    """Have fatal signals copy what faulthandler recorded in `fd` to stderr; call it before `faulthandler.enable`."""
    if sp_echo_faults(fd, HEADER_BYTES + TAIL_BYTES):
        raise OSError("cannot set the handlers of fatal signals")
