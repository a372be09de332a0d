# cython: language_level=3
"""The codec: values to bytes in a slot, or to a segment of the arena, and back.

    nothing         a call without arguments, a result of None
    msgpack         exactly plain data: None, bool, 64-bit int, float, str, bytes, and one level of list or dict of
                    these, no container twice, together small enough to go inline. For these msgpack gives back what
                    it got; for all else it might not.
    pickle          protocol 5; by cloudpickle where the plain pickler fails or names the main module
    pickle+buffers  the same with its out-of-band buffers: u32 count, u64 pickle length, a `BufferEntry` each, the
                    pickle, then the buffers, aligned to 64 bytes

A payload of at most `threshold` bytes goes inline, a larger one into a segment: one copy in, and on the other side the
arrays are views of the segment, which returns to the arena when the last of them dies.
"""
import pickle

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.list cimport PyList_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport cas32, now_ns, store32
from snakepit._core.layout cimport (
    FUNCTION_INSIDE, IN_SEGMENT, MSGPACK, NOTHING, PICKLE, PICKLE_BUFFERS,
)
from snakepit._core.shared_segments cimport SharedSegment
from snakepit._core.task cimport Message

import msgpack

from snakepit.errors import EncodeError

cdef extern from * nogil:
    """
    #include <string.h>
    static int sp_contains(const char *text, size_t size, const char *word, size_t word_size) {
        return memmem(text, size, word, word_size) != 0;
    }
    """
    bint contains "sp_contains"(const char *text, size_t size, const char *word, size_t word_size)

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    Py_buffer *PyMemoryView_GET_BUFFER(object view)

cdef enum:
    MANY = 256                          # longest container that is looked through for msgpack
    ALIGNMENT = 64
    OWN = 0xFFFFFFFF                    # `BufferEntry.segment`: in this payload
    READ_ONLY = 1

cdef struct BufferTable:
    uint32_t count
    uint32_t _pad
    uint64_t inband                     # bytes of pickle

cdef struct BufferEntry:
    uint64_t offset                     # in the payload, or in the shared segment
    uint64_t length
    uint32_t segment                    # OWN, or the shared segment
    uint32_t flags

cdef object plain_dumps = pickle.dumps
cdef object loads = pickle.loads
cdef object unpackb = msgpack.unpackb


cdef inline uint64_t aligned(uint64_t offset) noexcept nogil:
    return (offset + ALIGNMENT - 1) & ~(<uint64_t>ALIGNMENT - 1)


cdef inline bint is_scalar(object value, int64_t *room):
    """Whether msgpack gives back exactly this scalar, and its text or bytes fit into `room`, which they are taken from.

    What will not go inline must not be packed first: it would be copied for nothing, the packer keeps its largest
    buffer for good, and at 4 GiB it fails.
    """
    cdef int overflow = 0
    kind = type(value)
    if value is None or kind is bool or kind is float:
        return True
    if kind is bytes:
        room[0] -= PyBytes_GET_SIZE(value)
        return room[0] >= 0
    if kind is int:
        PyLong_AsLongLongAndOverflow(value, &overflow)
        return overflow == 0
    # Only ASCII is certain to be free of lone surrogates, which UTF-8 cannot carry.
    if kind is not str or not PyUnicode_IS_ASCII(value):
        return False
    room[0] -= PyUnicode_GET_LENGTH(value)
    return room[0] >= 0


cdef bint is_plain(object value, int64_t *room):
    """Whether msgpack gives back exactly `value`: a scalar, or a short list or dict of scalars (see `is_scalar`)."""
    kind = type(value)
    if kind is list:
        if PyList_GET_SIZE(value) > MANY:
            return False
        for element in <list>value:
            if not is_scalar(element, room):
                return False
        return True
    if kind is dict:
        if len(<dict>value) > MANY:
            return False
        for name, element in (<dict>value).items():
            if type(name) is not str or not is_scalar(name, room) or not is_scalar(element, room):
                return False
        return True
    return is_scalar(value, room)


cdef bint are_plain(tuple args, int64_t room):
    """Whether msgpack gives back exactly these arguments, of at most `room` bytes of text and bytes."""
    cdef Py_ssize_t i, j, count = PyTuple_GET_SIZE(args)
    if count > 16:
        return False
    for i in range(count):
        value = <object>PyTuple_GET_ITEM(args, i)
        if not is_plain(value, &room):
            return False
        if type(value) is list or type(value) is dict:
            # The same container twice has to arrive as one.
            for j in range(i):
                if <object>PyTuple_GET_ITEM(args, j) is value:
                    return False
    return True


cdef class Channel:
    """`careful_dumps(value, buffer_callback)` pickles what the plain pickler cannot, or what names the main module."""

    def __init__(self, Arena arena, uint64_t threshold, double patience, careful_dumps):
        self.arena = arena
        self.threshold = threshold
        self.patience_ns = <uint64_t>(patience * 1e9)
        self.careful_dumps = careful_dumps
        self.packer = msgpack.Packer()

    # -- encoding ------------------------------------------------------------------------------------------------------

    cdef int encode_call(self, Message message, object function, tuple args, dict kwargs, uint64_t deadline) except -1:
        """Encode the arguments of a call, and the function with them unless it is None (it has a number)."""
        cdef dict known
        if function is not None:
            message.flags |= FUNCTION_INSIDE
        elif not kwargs:
            if PyTuple_GET_SIZE(args) == 0:
                message.encoding = NOTHING
                return 0
            if are_plain(args, self.threshold):
                packed = self.pack(args)
                if packed is not None:
                    message.encoding = MSGPACK
                    message.inline = packed
                    message.length = PyBytes_GET_SIZE(packed)
                    return 0
        known = {}
        args = arguments_outside(args, self.threshold, known)
        kwargs = keywords_outside(kwargs, self.threshold, known)
        return self.pickle_into(message, (args, kwargs) if function is None else (function, args, kwargs), deadline)

    cdef int encode_value(self, Message message, object value, uint64_t deadline) except -1:
        """Encode one value, for instance a result."""
        if value is None:
            message.encoding = NOTHING
            return 0
        cdef int64_t room = self.threshold
        if is_plain(value, &room):
            packed = self.pack(value)
            if packed is not None:
                message.encoding = MSGPACK
                message.inline = packed
                message.length = PyBytes_GET_SIZE(packed)
                return 0
        if is_large_bytes(value, self.threshold):
            value = outside_of(value, self.threshold, {})
        return self.pickle_into(message, value, deadline)

    cdef bytes pack(self, object value):
        """The msgpack form, or None when it is too large for a slot or another thread is packing."""
        cdef bytes packed
        if not cas32(&self.packer_busy, 0, 1):
            return None
        try:
            packed = self.packer.pack(value)
        finally:
            store32(&self.packer_busy, 0)
        return packed if <uint64_t>PyBytes_GET_SIZE(packed) <= self.threshold else None

    cdef int pickle_into(self, Message message, object value, uint64_t deadline) except -1:
        cdef list buffers = []
        cdef bytes inband
        try:
            inband = plain_dumps(value, 5, buffer_callback=buffers.append)
            careful = must_be_careful(inband, buffers, self.arena.has_shared())
        except Exception:
            careful = True
        if careful:
            buffers = []
            try:
                inband = self.careful_dumps(value, buffers.append)
            except Exception as error:
                raise EncodeError(f"cannot pickle {describe(value)}: {type(error).__name__}: {error}") from error
        if not buffers and <uint64_t>PyBytes_GET_SIZE(inband) <= self.threshold:
            message.encoding = PICKLE
            message.inline = inband
            message.length = PyBytes_GET_SIZE(inband)
            return 0
        return self.lay_out(message, inband, buffers, deadline)

    cdef int lay_out(self, Message message, bytes inband, list buffers, uint64_t deadline) except -1:
        """Write pickle and buffers into one payload, inline or in a segment; shared arrays go by reference."""
        cdef Py_ssize_t i, count = len(buffers)
        cdef uint64_t inband_size = PyBytes_GET_SIZE(inband)
        cdef uint64_t offset = sizeof(BufferTable) + count * sizeof(BufferEntry)
        cdef list views = [None] * count
        cdef list found = [None] * count
        cdef SharedSegment shared
        cdef Py_buffer *view
        cdef uint64_t total = aligned(offset + inband_size)
        for i in range(count):
            views[i] = buffers[i].raw()
            view = PyMemoryView_GET_BUFFER(views[i])
            if view.len:
                shared = self.arena.find_shared(<char *>view.buf, view.len)
                if shared is not None:
                    found[i] = shared
                    continue
            total = aligned(total) + view.len
        if count == 0:
            total = inband_size
        cdef char *target
        cdef Segment segment = None
        if total <= self.threshold:
            message.inline = PyBytes_FromStringAndSize(NULL, total)
            target = PyBytes_AS_STRING(message.inline)
        else:
            segment = self.arena.allocate(total, deadline or now_ns() + self.patience_ns)
            message.segment = segment
            message.flags |= IN_SEGMENT
            target = segment.base
        message.length = total
        if count == 0:
            message.encoding = PICKLE
            copy(target, PyBytes_AS_STRING(inband), inband_size)
            return 0
        message.encoding = PICKLE_BUFFERS
        cdef BufferTable *table = <BufferTable *>target
        cdef BufferEntry *entries = <BufferEntry *>(target + sizeof(BufferTable))
        table.count = count
        table.inband = inband_size
        copy(target + offset, PyBytes_AS_STRING(inband), inband_size)
        cdef uint64_t at = aligned(offset + inband_size)
        for i in range(count):
            view = PyMemoryView_GET_BUFFER(views[i])
            entries[i].length = view.len
            entries[i].flags = 0
            if found[i] is not None:
                shared = found[i]
                entries[i].segment = shared.index
                entries[i].offset = <uint64_t>(<char *>view.buf - shared.base)
                if message.shared is None:
                    message.shared = []
                message.shared.append(shared)
                continue
            at = aligned(at)
            entries[i].segment = OWN
            entries[i].offset = at
            copy(target + at, <const char *>view.buf, view.len)
            at += view.len
        return 0

    # -- decoding ------------------------------------------------------------------------------------------------------

    cdef object decode(self, uint8_t encoding, const uint8_t *payload, uint64_t length, Segment segment):
        """Rebuild a value. `payload` may be reused as soon as this returns, unless it lies in `segment`."""
        if encoding == NOTHING:
            return None
        if encoding == MSGPACK:
            return unpackb(PyBytes_FromStringAndSize(<const char *>payload, length))
        if encoding == PICKLE:
            if segment is not None:
                return loads(memoryview(segment)[:length])
            return loads(PyBytes_FromStringAndSize(<const char *>payload, length))
        return self.load_buffers(payload, length, segment)

    def decode_bytes(self, int encoding, bytes payload, Segment segment, uint64_t length):
        """Rebuild a value from a payload that was taken out of its slot."""
        cdef const uint8_t *start = NULL
        if segment is not None:
            start = <const uint8_t *>segment.base
        elif payload is not None:
            start = <const uint8_t *>PyBytes_AS_STRING(payload)
        return self.decode(encoding, start, length, segment)

    def encode_message(self, value) -> tuple:
        """Encode a value: (encoding, flags, payload or None, segment or None, length)."""
        cdef Message message = Message()
        self.encode_value(message, value, 0)
        return message.encoding, message.flags, message.inline, message.segment, message.length

    def pass_on(self, Segment segment, int client) -> int:
        """Make a segment the process `client`'s, which adopts it by its number, or dies and leaves it; returns that."""
        self.arena.hand_over(segment, client)
        return segment.index

    def receive(self, uint32_t index, uint64_t length) -> Segment:
        """Adopt a segment that was passed on."""
        return self.arena.adopt(index, length)

    cdef object load_buffers(self, const uint8_t *payload, uint64_t length, Segment segment):
        cdef BufferTable *table = <BufferTable *>payload
        cdef BufferEntry *entries = <BufferEntry *>(payload + sizeof(BufferTable))
        cdef uint64_t offset = sizeof(BufferTable) + table.count * sizeof(BufferEntry)
        cdef uint32_t i
        cdef list buffers = []
        # Views of a segment pin it. When the arena runs short, private copies are the lesser evil.
        cdef bint keep = segment is not None and not self.arena.under_pressure()
        whole = memoryview(segment) if keep else None
        for i in range(table.count):
            if entries[i].segment != OWN:
                view = memoryview(self.arena.open_shared(entries[i].segment))
                buffers.append(view[entries[i].offset:entries[i].offset + entries[i].length])
            elif keep:
                buffers.append(whole[entries[i].offset:entries[i].offset + entries[i].length])
            else:
                buffers.append(PyByteArray_FromStringAndSize(
                    <const char *>payload + entries[i].offset, entries[i].length))
        return loads(PyBytes_FromStringAndSize(<const char *>payload + offset, table.inband), buffers=buffers)


cdef inline void copy(char *target, const char *source, uint64_t size):
    if size > 65536:
        with nogil:
            memcpy(target, source, size)
    else:
        memcpy(target, source, size)


cdef bint must_be_careful(bytes inband, list buffers, bint sharing):
    """Whether the plain pickle would be wrong on the other side.

    It names the main module, which is another one there; or an object of multiprocessing, whose descriptors only its
    own pickler passes on; or it holds a read-only buffer, which would arrive read-only though the copy is the task's
    own; or, `sharing` arrays, a copy of a strided array, which may be a view of a shared one.
    """
    cdef const char *text = PyBytes_AS_STRING(inband)
    cdef size_t size = PyBytes_GET_SIZE(inband)
    if contains(text, size, b"__main__", 8) or contains(text, size, b"multiprocessing", 15):
        return True
    if sharing and contains(text, size, b"_reconstruct", 12):
        return True
    for buffer in buffers:
        view = buffer.raw()
        # What is read-only because it is bytes becomes bytes again (see `BytesOutside`).
        if view.readonly and type(view.obj) is not bytes:
            return True
    return False


@cython.final
cdef class BytesOutside:
    """Pickles as the bytes that it holds, which then go from there to a segment without a copy in between."""
    cdef bytes held

    def __reduce__(self):
        return bytes, (pickle.PickleBuffer(self.held),)


cdef tuple arguments_outside(tuple args, uint64_t threshold, dict known):
    """`args` with a `BytesOutside` for each `bytes` above the threshold.

    Those deeper in an argument stay where they are: to look for them would cost every call, and to replace them a copy
    of what they are in, which may occur twice.
    """
    cdef Py_ssize_t i
    for i in range(PyTuple_GET_SIZE(args)):
        if is_large_bytes(<object>PyTuple_GET_ITEM(args, i), threshold):
            return tuple([outside_of(value, threshold, known) for value in args])
    return args


cdef dict keywords_outside(dict kwargs, uint64_t threshold, dict known):
    for value in kwargs.values():
        if is_large_bytes(value, threshold):
            return {name: outside_of(value, threshold, known) for name, value in kwargs.items()}
    return kwargs


cdef inline bint is_large_bytes(object value, uint64_t threshold):
    return type(value) is bytes and <uint64_t>PyBytes_GET_SIZE(value) > threshold


cdef object outside_of(object value, uint64_t threshold, dict known):
    """The one that stands for these bytes: as an argument twice, they arrive as one."""
    cdef BytesOutside outside
    if not is_large_bytes(value, threshold):
        return value
    outside = known.get(id(value))
    if outside is None:
        outside = BytesOutside.__new__(BytesOutside)
        outside.held = value
        known[id(value)] = outside
    return outside


cdef str describe(object value):
    """Name what was to be sent, without calling its code."""
    if type(value) is tuple and len(value) == 3 and callable(value[0]):
        return f"the call of {getattr(value[0], '__qualname__', type(value[0]).__name__)!r}"
    if type(value) is tuple and len(value) == 2 and type(value[0]) is tuple and type(value[1]) is dict:
        kinds = [kind_of(item) for item in value[0]]
        kinds += [f"{name}={kind_of(item)}" for name, item in value[1].items()]
        return f"the arguments ({', '.join(kinds)})"
    return f"a {kind_of(value)}"


cdef str kind_of(object value):
    return "bytes" if type(value) is BytesOutside else type(value).__qualname__
