# cython: language_level=3
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.task cimport Message


cdef class Channel:
    """Encodes values into messages and decodes them, for one process (see `channel.pyx`)."""
    cdef readonly Arena arena
    cdef uint64_t threshold             # most payload bytes that go inline
    cdef uint64_t patience_ns           # how long to wait for arena memory without a deadline
    cdef object careful_dumps           # (value, buffer_callback) -> bytes, for what plain pickle cannot do
    cdef object packer                  # msgpack.Packer
    cdef uint32_t packer_busy

    cdef int encode_call(self, Message message, object function, tuple args, dict kwargs, uint64_t deadline) except -1
    cdef int encode_value(self, Message message, object value, uint64_t deadline) except -1
    cdef object decode(self, uint8_t encoding, const uint8_t *payload, uint64_t length, Segment segment)
    cdef bytes pack(self, object value)
    cdef int pickle_into(self, Message message, object value, uint64_t deadline) except -1
    cdef int lay_out(self, Message message, bytes inband, list buffers, uint64_t deadline) except -1
    cdef object load_buffers(self, const uint8_t *payload, uint64_t length, Segment segment)
