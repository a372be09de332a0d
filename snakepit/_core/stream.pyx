# cython: language_level=3
"""The owner's side of streams: a ring of chunks in shared memory, which the worker writes and the caller reads.

    next:   wait for a chunk -> decode -> `consumed` -> wake the writer if it sleeps and half of everything is free

The end of a stream, or its error, is the answer of its call, and comes like every answer: the ring only says, as soon
as it is known, that no chunk follows. So a deadline, a stop or a crash need nothing of their own here. What is there
when the call is settled is read first.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from snakepit._core.arena cimport Segment
from snakepit._core.atomics cimport (
    add64, cas32, fence, load32, load64, now_ns, pause, sleep_on, store32, store64, swap32,
)
from snakepit._core.forks cimport forks
from snakepit._core.layout cimport Header
from snakepit._core.mutex cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from snakepit._core.points cimport (
    BURIAL_ENTRUSTED, READ_ADOPTED, READ_BEDDED, READ_CHOSE, READ_COUNTED, READ_FOUND, READ_FREED, READ_MAILED,
    READ_TAKEN, READ_WOKE, STREAM_CLOSED, STREAM_CONCLUDED, STREAM_OPENED, point,
)
from snakepit._core.ring cimport (
    ASLEEP, AWAKE, BRIEF, BY_MAIL, RECORD, RING_BYTES, Record, RingHead, record_at, record_size,
    ring_bell,
)
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.spinning cimport first_sleep, may_spin, next_spin
from snakepit._core.task cimport Task

from snakepit.errors import DecodeError, ForkedPoolError, PoolShutdownError, StreamReadError, TaskInterrupt

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030d0000
    #define Py_IsFinalizing _Py_IsFinalizing
    #endif
    """

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    bint is_finalizing "Py_IsFinalizing"()


cdef class NotYet:
    """What `ChunkReader.poll` returns instead of waiting."""

    def __repr__(self):
        return "NOT_YET"


NOT_YET = NotYet()
cdef object not_yet = NOT_YET


cdef void shut_link(RingLink *link) noexcept nogil:
    """Let neither side wait any more; a reader by mail is the caller's to rouse."""
    store32(&link.head.closed, 1)
    fence()
    point(STREAM_CLOSED)
    if swap32(&link.head.writer_mode, AWAKE):
        ring_bell(&link.head.writer_bell)
    # Not by the reader's mode: a writer may have changed that, and have died before it rang.
    if load32(&link.resting):
        ring_bell(&link.head.reader_bell)


@cython.no_gc_clear     # rings that die in the same collection give back what they hold through it
cdef class Rings:
    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __init__(self, Scheduler scheduler):
        self.scheduler = scheduler
        self.arena = scheduler.arena
        self.sleepers = {}

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    def open(self, Task task, kept, uint32_t max_chunks, uint64_t max_bytes) -> ChunkRing:
        """Take a ring for the stream of a call that is about to be submitted, which also keeps `kept` alive.

        At most so much of it is in flight. Raises ArenaFullError.
        """
        cdef ChunkRing ring = ChunkRing.__new__(ChunkRing)
        cdef RingHead *head
        ring.rings = self
        ring.born = forks
        ring.segment = self.arena.allocate(RING_BYTES, now_ns() + 1_000_000_000)
        head = ring.head = <RingHead *>ring.segment.base
        ring.records = ring.segment.base + sizeof(RingHead)
        memset(head, 0, sizeof(RingHead))
        head.number = add64(&self.numbers, 1) + 1
        head.capacity = (RING_BYTES - sizeof(RingHead)) // RECORD * RECORD
        head.max_chunks = max_chunks
        head.max_bytes = max_bytes
        ring.link.head = head
        ring.link.records = ring.records
        ring.link.reader = PyThread_get_thread_ident()
        pthread_mutex_lock(&self.mutex)
        ring.link.following = self.first
        if self.first != NULL:
            self.first.previous = &ring.link
        self.first = &ring.link
        pthread_mutex_unlock(&self.mutex)
        task.shared = [ring, kept]
        task.on_settled = ring.settled
        point(STREAM_OPENED)
        return ring

    def entrust(self, int client) -> None:
        """Make ours what a dead worker, the user `client` of the arena, has sent and nobody has read yet.

        Before its segments are reclaimed: a chunk that was complete arrives, whatever became of its worker, which may
        have ended long after the stream.
        """
        cdef RingLink *link
        cdef Record *record
        cdef uint64_t at, tail
        pthread_mutex_lock(&self.mutex)
        link = self.first
        while link != NULL:
            # The reader goes on meanwhile; what it has taken over by then has another state word. And the writer may
            # have moved the tail and not come to count the chunk: whoever discards the ring looks at the tail as well.
            at = load64(&link.head.head)
            tail = load64(&link.head.tail)
            while at < tail:
                record = record_at(link.head, link.records, &at)
                if record.segment:
                    self.arena.entrust_word(record.segment - 1, record.word, client)
                    point(BURIAL_ENTRUSTED)
                at += record_size(0 if record.segment else record.length)
            link = link.following
        pthread_mutex_unlock(&self.mutex)

    def abandon(self, list threads) -> None:
        """Close the streams that none of these threads could read on; whoever calls it will not, but wait for the end.

        A stream's reader is who read last.
        """
        cdef RingLink *link
        cdef Py_ssize_t i
        cdef Py_ssize_t count = len(threads)
        cdef bint orphaned
        cdef unsigned long *known = <unsigned long *>calloc(count + 1, sizeof(unsigned long))
        if known == NULL:
            raise MemoryError()
        try:
            for i in range(count):
                known[i] = threads[i]
            pthread_mutex_lock(&self.mutex)
            link = self.first
            while link != NULL:
                orphaned = not link.done and not load32(&link.head.ended)
                for i in range(count):
                    orphaned = orphaned and link.reader != known[i]
                if orphaned:
                    link.abandoned = True
                    shut_link(link)
                link = link.following
            pthread_mutex_unlock(&self.mutex)
        finally:
            free(known)

    def unread(self) -> int:
        """How many streams have a worker that waits at this moment until its reader makes room."""
        cdef RingLink *link
        cdef RingHead *head
        cdef uint64_t taken
        cdef int count = 0
        pthread_mutex_lock(&self.mutex)
        link = self.first
        while link != NULL:
            head = link.head
            if not (link.done or load32(&head.closed) or load32(&head.ended)):
                taken = load64(&head.consumed)
                # Who waits wakes now and then to see whether its task is to stop.
                if load64(&head.produced) - taken >= head.max_chunks or load32(&head.writer_mode) == ASLEEP:
                    count += 1
            link = link.following
        pthread_mutex_unlock(&self.mutex)
        return count

    def rouse(self, uint64_t number) -> None:
        """Have the reader that waits by mail look at its ring; nothing happens when it does not wait (any more)."""
        cdef ChunkRing ring = self.sleepers.pop(number, None)
        if ring is not None:
            waker, ring.waker = ring.waker, None
            if waker is not None:
                waker()


@cython.no_gc_clear     # its segment must be there as long as it stands in the list
cdef class ChunkRing:
    def __dealloc__(self):
        # A forked child has the object but not what it stands for.
        if self.rings is None or self.head == NULL or self.born != forks:
            return
        pthread_mutex_lock(&self.rings.mutex)
        if self.link.following != NULL:
            self.link.following.previous = self.link.previous
        if self.link.previous != NULL:
            self.link.previous.following = self.link.following
        else:
            self.rings.first = self.link.following
        pthread_mutex_unlock(&self.rings.mutex)
        self.discard()

    cdef int discard(self) except -1:
        """Give back the segments of chunks that nobody will read. The worker is done with the ring, or dead."""
        cdef uint64_t at = self.head.head
        cdef uint64_t tail = load64(&self.head.tail)
        cdef Record *record
        while at < tail:
            record = record_at(self.head, self.records, &at)
            if record.segment:
                self.rings.arena.take_over(record.segment - 1, record.word, record.length)
            at += record_size(0 if record.segment else record.length)
        return 0

    @property
    def place(self) -> int:
        """Where the worker finds it: the number of its segment."""
        return self.segment.index

    @property
    def ended(self) -> bool:
        """Whether the worker has said that no chunk follows."""
        return load32(&self.head.ended) != 0

    def settled(self, _task) -> None:
        """The call is settled: its worker shall write no more, its reader shall look."""
        if self.born == forks:
            self.link.done = True
            self.shut()
            self.rings.rouse(self.head.number)

    cdef void shut(self) noexcept nogil:
        shut_link(&self.link)


cdef class ChunkReader:
    def __cinit__(self, ChunkRing ring, Task task):
        self.ring = ring
        self.born = forks
        self.rings = ring.rings
        self.task = task
        self.channel = ring.rings.scheduler.channel
        self.spin_ns = ring.rings.scheduler.control.header.spin_limit_ns

    @property
    def future(self) -> Task:
        """The future of the call."""
        return self.task

    def __del__(self):
        # Here and not in the class that derives from it: most streams that die were read to their end. When the
        # interpreter ends, the pool has, and names that `close` needs are gone.
        if not load32(&self.over) and not is_finalizing():
            self.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def __next__(self):
        cdef bint first = True
        self.begin()
        try:
            while True:
                chunk = self.take()
                if chunk is not not_yet:
                    return chunk
                if self.is_waiting_over():
                    # Whatever came before the word that nothing comes is there by now.
                    chunk = self.take()
                    if chunk is not not_yet:
                        return chunk
                    return self.conclude()
                if first and self.spin_briefly():
                    continue
                with nogil:
                    self.rest(first)
                PyErr_CheckSignals()
                first = False
        finally:
            store32(&self.reading, 0)

    def poll(self):
        """Return the next chunk, or NOT_YET instead of waiting. Raises as `__next__` does at the end."""
        cdef bint settled
        self.begin()
        try:
            settled = self.task.is_settled() or load32(&self.over)
            chunk = self.take()
            return self.conclude() if chunk is not_yet and settled else chunk
        finally:
            store32(&self.reading, 0)

    def call_when_ready(self, waker) -> bool:
        """Have `waker()` called once, by any thread, when `poll` shall look again; False when it shall do so now."""
        cdef ChunkRing ring
        cdef RingHead *head
        self.begin()
        try:
            ring = self.ring
            if ring is None:
                return False
            # Nobody helps here: the thread of the pool has to bring the message, and the outcome.
            self.rings.scheduler.watch()
            head = ring.head
            ring.waker = waker
            self.rings.sleepers[head.number] = ring
            swap32(&head.reader_mode, BY_MAIL)
            fence()
            point(READ_MAILED)
            if (load64(&head.produced) == load64(&head.consumed) and not self.task.is_settled()
                    and not load32(&self.over)):
                return True
            swap32(&head.reader_mode, AWAKE)
            # Else somebody is calling it.
            return self.rings.sleepers.pop(head.number, None) is None
        finally:
            store32(&self.reading, 0)

    cdef int begin(self) except -1:
        if not cas32(&self.reading, 0, 1):
            raise StreamReadError.busy(*self._subject())
        if self.born != forks:
            store32(&self.reading, 0)
            raise ForkedPoolError("this process forked from the one that made the stream, which alone can read it")
        if self.ring is not None:
            self.ring.link.reader = PyThread_get_thread_ident()
        return 0

    cdef object take(self):
        """The next chunk, or NOT_YET."""
        cdef RingHead *head
        cdef Record *record
        cdef uint64_t number, at, size, length
        if self.ring is None or load32(&self.over):
            return not_yet
        head = self.ring.head
        number = head.consumed
        if number == self.seen:
            self.seen = load64(&head.produced)
            if number == self.seen:
                return not_yet
        point(READ_FOUND)
        at = head.head
        record = record_at(head, self.ring.records, &at)
        length = record.length
        size = record_size(0 if record.segment else length)
        try:
            chunk = self.decode(record, number)
            point(READ_TAKEN)
        except Exception:
            store32(&self.over, 1)
            self.ring.shut()
            raise
        finally:
            # Its payload is copied, or taken over.
            store64(&head.head, at + size)
            point(READ_FREED)
            self.advance(size, length)
        return chunk

    cdef object decode(self, Record *record, uint64_t number):
        cdef Segment segment = None
        cdef const unsigned char *payload = <const unsigned char *>record + RECORD
        if record.segment:
            segment = self.rings.arena.take_over(record.segment - 1, record.word, record.length)
            if segment is None:
                raise RuntimeError(f"segment {record.segment - 1} changed hands while a chunk named it")
            point(READ_ADOPTED)
            payload = <const unsigned char *>segment.base
        try:
            return self.channel.decode(record.encoding, payload, record.length, segment)
        except (KeyboardInterrupt, TaskInterrupt):
            raise
        except BaseException as problem:
            raise DecodeError(
                f"chunk {number} of the stream cannot be rebuilt: {type(problem).__name__}: {problem}",
                details={"task": self.task.number, "chunk": number},
            ) from problem

    cdef int advance(self, uint64_t size, uint64_t length) except -1:
        """Say that a chunk is read, and wake a writer that waits once half of everything is free again.

        Not earlier: else each chunk of a full ring would cost a wake-up.
        """
        cdef RingHead *head = self.ring.head
        store64(&head.bytes_out, head.bytes_out + length)
        store64(&head.consumed, head.consumed + 1)
        fence()
        point(READ_COUNTED)
        if load32(&head.writer_mode):
            if (load64(&head.produced) - head.consumed <= head.max_chunks // 2
                    and load64(&head.bytes_in) - head.bytes_out <= head.max_bytes // 2
                    and load64(&head.tail) - head.head <= head.capacity // 2
                    and swap32(&head.writer_mode, AWAKE)):
                point(READ_CHOSE)
                ring_bell(&head.writer_bell)
                point(READ_WOKE)
        return 0

    cdef bint is_waiting_over(self) noexcept nogil:
        return self.ring is None or load32(&self.ring.head.ended) or load32(&self.over) or self.task.is_settled()

    cdef bint spin_briefly(self) noexcept nogil:
        """Whether a chunk comes within less than it would cost to let other threads run and to come back."""
        cdef int _turn
        if may_spin(self.rings.scheduler.control.header):
            for _turn in range(BRIEF):
                if load64(&self.ring.head.produced) != self.seen:
                    return True
                pause()
        return False

    cdef void rest(self, bint first) noexcept nogil:
        """Wait until there may be a chunk, or no more to come, or signals are to be looked for.

        `first`: they have not been looked for since the wait began.
        """
        cdef RingHead *head = self.ring.head
        cdef Header *header = self.rings.scheduler.control.header
        cdef uint64_t began = now_ns()
        cdef uint32_t bell
        cdef int _turn
        if first and may_spin(header):
            while now_ns() - began < self.spin_ns:
                for _turn in range(32):
                    if load64(&head.produced) != self.seen or self.is_waiting_over():
                        return
                    pause()
        bell = load32(&head.reader_bell)
        store32(&self.ring.link.resting, 1)
        swap32(&head.reader_mode, ASLEEP)
        fence()
        point(READ_BEDDED)
        if load64(&head.produced) == self.seen and not self.is_waiting_over():
            sleep_on(&head.reader_bell, bell, first_sleep(0) if first else 0)
            self.spin_ns = next_spin(self.spin_ns, now_ns() - began, header.spin_limit_ns)
        swap32(&head.reader_mode, AWAKE)
        store32(&self.ring.link.resting, 0)

    # -- the end -------------------------------------------------------------------------------------------------------

    cdef object conclude(self):
        """Raise what the stream ends with: StopIteration, or the error of its call; the latter once."""
        cdef ChunkRing ring = self.ring
        if ring is None or load32(&self.over):
            self.drop_ring()
            raise StopIteration
        point(STREAM_CONCLUDED)
        # It may be on its way still: who waits for it helps to settle it.
        self.task.wait_settled(None)
        self.drop_ring()
        if swap32(&self.over, 1):
            # Closed by another thread meanwhile.
            raise StopIteration
        if ring.link.abandoned:
            raise PoolShutdownError(
                "the stream was closed before its end: its pool was shut down by the thread that was reading it, or "
                "after that had ended; read the stream to its end before, or in another thread"
            )
        error = self.task.exception()
        if error is not None:
            raise error
        raise StopIteration

    cdef ChunkRing drop_ring(self):
        """Let go of the ring; by who reads. Its memory goes back once the call is over."""
        cdef ChunkRing ring = self.ring
        pthread_mutex_lock(&self.rings.mutex)
        # `ring` keeps it alive, so that nothing dies under the mutex.
        self.ring = None
        pthread_mutex_unlock(&self.rings.mutex)
        return ring

    def end_reading(self) -> ChunkRing | None:
        """Give out nothing more, and let the worker end; any thread may call it.

        Returns the ring if this call was the first to do so, and the stream had not ended.
        """
        cdef ChunkRing ring
        cdef bint first
        if self.born != forks:
            return None
        first = not swap32(&self.over, 1)
        pthread_mutex_lock(&self.rings.mutex)
        # Only whoever reads lets go of the ring, and under this mutex.
        ring = self.ring
        pthread_mutex_unlock(&self.rings.mutex)
        if ring is not None:
            ring.shut()
            self.rings.rouse(ring.head.number)
        if cas32(&self.reading, 0, 1):
            self.drop_ring()
            store32(&self.reading, 0)
        return ring if first else None
