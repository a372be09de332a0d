# cython: language_level=3
"""The worker's side of streams.

    put:    encode -> wait for room -> record -> `produced` -> wake the reader if it sleeps
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Segment
from snakepit._core.atomics cimport (
    cas32, fence, load32, load64, now_ns, pause, sleep_on, store32, store64, swap32,
)
from snakepit._core.forks cimport forks
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport CHUNK, STOP_MASK
from snakepit._core.points cimport (
    CHUNK_BEDDED, CHUNK_CHOSE, CHUNK_COMMITTED, CHUNK_ENCODED, CHUNK_ENDED, CHUNK_FILLED, CHUNK_ROUSED, CHUNK_TAILED,
    CHUNK_TOLD, CHUNK_WOKE, point,
)
from snakepit._core.queue cimport NO_SLOT
from snakepit._core.ring cimport (
    ASLEEP, AWAKE, BRIEF, BY_MAIL, INLINE_SHARE, RECORD, SKIP, Record, RingHead, record_size,
    ring_bell,
)
from snakepit._core.spinning cimport may_spin, next_spin
from snakepit._core.task cimport Message

from snakepit.errors import EncodeError, TaskStoppedError


cdef class ChunkWriter:
    """`place`: the ring's segment."""

    def __init__(self, WorkerLane lane, uint32_t place):
        self.lane = lane
        self.channel = lane.channel
        self.control = lane.control.header
        self.head = <RingHead *>lane.arena.address_of(place)
        self.records = <char *>self.head + sizeof(RingHead)
        self.born = forks
        if lane.slot != NO_SLOT:
            self.deadline_ns = lane.control.slots[lane.slot].deadline_ns
        self.message = Message()
        self.spin_ns = self.control.spin_limit_ns
        self.kept = []

    def send(self, chunks) -> None:
        """Write what an iterator gives, to its end or until nobody reads any more. Raises as `put` does."""
        for chunk in chunks:
            if not self.put(chunk):
                return

    cdef bint put(self, object chunk) except -1:
        """Write a chunk, waiting for room; False when nobody reads any more.

        Raises EncodeError, ArenaFullError, and TaskStoppedError when the task is to stop while it waits.
        """
        cdef RingHead *head = self.head
        cdef Message message = self.message
        cdef uint64_t size
        # Of a process that forked in the midst of a stream, one writes.
        if self.born != forks or load32(&head.closed):
            return False
        self.encode(chunk)
        point(CHUNK_ENCODED)
        size = record_size(0 if message.segment is not None else message.length)
        if not self.has_room(size, message.length) and not self.await_reader(size, message.length, 0):
            message.clear()
            return False
        self.write(size)
        if message.shared is not None:
            self.drop_read()
            self.kept.append((head.produced, message.shared))
        message.clear()
        if load32(&head.reader_mode):
            self.rouse_reader()
        return True

    cdef int encode(self, object chunk) except -1:
        cdef Message message = self.message
        cdef Segment segment
        message.clear()
        message.flags = 0
        message.length = 0
        try:
            self.channel.encode_value(message, chunk, self.deadline_ns)
        except EncodeError as problem:
            raise EncodeError(
                f"chunk {self.head.produced} of the stream: {problem}", details={"chunk": self.head.produced}
            ) from problem.__cause__
        if message.segment is None and record_size(message.length) > self.head.capacity // INLINE_SHARE:
            # A generous threshold; the ring is not.
            segment = self.channel.arena.allocate(
                message.length, self.deadline_ns or now_ns() + self.channel.patience_ns
            )
            memcpy(segment.base, PyBytes_AS_STRING(message.inline), message.length)
            message.segment = segment
        return 0

    cdef bint has_room(self, uint64_t size, uint64_t length) noexcept nogil:
        """Whether a record fits, by what the reader is known to have done, and then by what it has done."""
        cdef RingHead *head = self.head
        cdef uint64_t rest = head.capacity - head.tail % head.capacity
        cdef bint fresh = False
        cdef uint64_t flying
        if rest < size:
            size += rest
        while True:
            flying = head.produced - self.consumed
            if flying == 0 or (
                flying < head.max_chunks
                and head.bytes_in - self.bytes_out + length <= head.max_bytes
                and head.tail - self.freed + size <= head.capacity
            ):
                return True
            if fresh:
                return False
            # The count first: what the other two say is at least as new.
            self.consumed = load64(&head.consumed)
            self.freed = load64(&head.head)
            self.bytes_out = load64(&head.bytes_out)
            fresh = True

    cdef bint is_read(self, uint64_t number) noexcept nogil:
        self.consumed = load64(&self.head.consumed)
        return self.consumed >= number

    cdef bint may_go_on(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil:
        if load32(&self.head.closed):
            return True
        return self.is_read(number) if number else self.has_room(size, length)

    cdef bint await_reader(self, uint64_t size, uint64_t length, uint64_t number) except -1:
        """Wait for room, or, if `number` is not 0, until so many chunks are read; False when nobody reads any more."""
        cdef uint32_t slot = self.lane.slot
        cdef int _turn
        if may_spin(self.control):
            for _turn in range(BRIEF):
                if self.may_go_on(size, length, number):
                    return load32(&self.head.closed) == 0
                pause()
        while True:
            with nogil:
                self.rest(size, length, number)
            # The signal of the ladder raises its TaskInterrupt here.
            PyErr_CheckSignals()
            if load32(&self.head.closed):
                return False
            if self.may_go_on(size, length, number):
                return True
            if slot != NO_SLOT and load32(&self.lane.control.slots[slot].cancel) & STOP_MASK:
                raise TaskStoppedError("the task was stopped on request, while its stream waited for its reader")

    cdef int rest(self, uint64_t size, uint64_t length, uint64_t number) noexcept nogil:
        cdef RingHead *head = self.head
        cdef uint64_t began = now_ns()
        cdef uint32_t bell
        cdef int _turn
        cdef int reason = 0
        if may_spin(self.control):
            while now_ns() - began < self.spin_ns:
                for _turn in range(32):
                    if self.may_go_on(size, length, number):
                        return 0
                    pause()
        bell = load32(&head.writer_bell)
        swap32(&head.writer_mode, ASLEEP)
        fence()
        point(CHUNK_BEDDED)
        if not self.may_go_on(size, length, number):
            reason = sleep_on(&head.writer_bell, bell, now_ns() + SLICE_NS)
            self.spin_ns = next_spin(self.spin_ns, now_ns() - began, self.control.spin_limit_ns)
        point(CHUNK_ROUSED)
        swap32(&head.writer_mode, AWAKE)
        return reason

    cdef void write(self, uint64_t size) noexcept:
        """Write the encoded chunk; there is room for it."""
        cdef RingHead *head = self.head
        cdef Message message = self.message
        cdef uint64_t at = head.tail % head.capacity
        cdef uint64_t tail = head.tail
        cdef Record *record = <Record *>(self.records + at)
        if head.capacity - at < size:
            record.flags = SKIP
            tail += head.capacity - at
            record = <Record *>self.records
        record.length = message.length
        record.encoding = message.encoding
        record.flags = 0
        if message.segment is not None:
            record.segment = message.segment.index + 1
            record.word = message.segment.word
            # The arena's table still says that we hold it: the owner takes it over, or whoever buries us frees it.
            message.segment.forget()
        else:
            record.segment = 0
            if message.length:
                memcpy(<char *>record + RECORD, PyBytes_AS_STRING(message.inline), message.length)
        point(CHUNK_FILLED)
        store64(&head.tail, tail + size)
        store64(&head.bytes_in, head.bytes_in + message.length)
        point(CHUNK_TAILED)
        store64(&head.produced, head.produced + 1)
        fence()
        point(CHUNK_COMMITTED)

    cdef int rouse_reader(self) except -1:
        cdef uint32_t mode = swap32(&self.head.reader_mode, AWAKE)
        if mode != AWAKE:
            point(CHUNK_CHOSE)
        if mode == ASLEEP:
            ring_bell(&self.head.reader_bell)
        elif mode == BY_MAIL:
            self.lane.post(CHUNK, self.head.number)
        if mode != AWAKE:
            point(CHUNK_WOKE)
        return 0

    cdef int drop_read(self) except -1:
        """Let go of shared arrays that the reader has seen."""
        cdef uint64_t consumed = load64(&self.head.consumed)
        if self.kept:
            self.kept = [entry for entry in self.kept if entry[0] > consumed]
        return 0

    def end(self) -> None:
        """Say that no chunk follows; what the call still has to do, the reader need not wait for."""
        if self.born != forks:
            return
        store32(&self.head.ended, 1)
        fence()
        point(CHUNK_ENDED)
        # A reader by mail hears of the answer.
        if cas32(&self.head.reader_mode, ASLEEP, AWAKE):
            ring_bell(&self.head.reader_bell)
        point(CHUNK_TOLD)

    def finish(self) -> int:
        """Wait until arrays that are shared were read, which live as long as we do; returns how many chunks there were.

        Raises TaskStoppedError when the task is to stop meanwhile.
        """
        cdef uint64_t last
        if self.kept and self.born == forks:
            last = self.kept[len(self.kept) - 1][0]
            if not self.is_read(last):
                self.await_reader(0, 0, last)
        return self.head.produced
