# cython: language_level=3
"""A worker asks its owner and waits for the answer.

    worker: a mail slot, POSTED, on the completion list     like other mail
    owner:  reads the question, writes the answer in its place, ANSWERED, wakes who sleeps on the slot
    worker: reads the answer, FREE

The slot's claim word decides every race: between the answer and an asker that gives up (TaskInterrupt), one compare-and-
swap from POSTED wins, and whoever loses frees the slot. Any thread of a worker may ask; each has a slot of its own.
"""
import pickle

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.arena cimport Segment
from snakepit._core.atomics cimport (
    cas64, fence, load64, now_ns, pause, sleep_on, store32, store64,
)
from snakepit._core.forks cimport forks
from snakepit._core.lane cimport WorkerLane
from snakepit._core.layout cimport (
    FREE, GIVEN_UP, IN_SEGMENT, IS_ERROR, MAIL_ASK, MSGPACK, NOBODY, POSTED, REVISIONS, Slot, claim_generation,
    claim_word,
)
from snakepit._core.points cimport ASK_ADOPTED, ASK_BEDDED, ASK_HEARD, ASK_POSTED, ASK_TAKEN, point
from snakepit._core.spinning cimport LOOK_NS, may_spin, next_spin
from snakepit._core.task cimport Message

from snakepit.errors import ArenaFullError, ForkedPoolError, RemoteTraceback

cdef enum:
    MOST_ENTRIES = 4096                 # of a cache
    LARGEST_PICKLE = 1 << 20            # that a cache keeps

cdef object loads = pickle.loads
cdef object dumps = pickle.dumps


cdef class Missing:
    def __repr__(self):
        return "MISSING"


MISSING = Missing()                     # what a cache does not know, or not any more
cdef object missing = MISSING


cdef class Asker:
    def __init__(self, WorkerLane lane):
        self.lane = lane
        self.born = forks
        self.spin_ns = lane.control.header.spin_limit_ns

    def ask(self, topic, *args):
        """Ask the owner in the name of the running task's session (see `ask_for`)."""
        return self.question(self.lane.session, [topic, *args])

    def ask_for(self, uint64_t session, topic, *args):
        """Ask the owner in the name of a session, 0 for none; returns its answer, raises its exception.

        Whatever interrupts the wait loses the answer alone: the owner may have done what it was asked for. Raises
        EncodeError, ArenaFullError; ForkedPoolError in a process that a task forked.
        """
        return self.question(session, [topic, *args])

    cdef object question(self, uint64_t session, list question):
        cdef Message message = Message()
        self.lane.channel.encode_value(message, question, 0)
        return self.send(session, message)

    cdef object send(self, uint64_t session, Message message):
        """Ask an encoded question."""
        cdef WorkerLane lane = self.lane
        cdef Slot *slot
        cdef uint32_t index
        cdef uint64_t posted
        if self.born != forks:
            raise ForkedPoolError(
                "this process was forked by a task, and only the worker itself can ask the pool's owner; "
                "ask before you fork"
            )
        # From here to the wait no code of Python's runs, and so no interrupt: the slot cannot be forgotten.
        index = <uint32_t>lane.post_message(MAIL_ASK, 0, message, 0, 0, session)
        slot = &lane.control.slots[index]
        posted = claim_word(claim_generation(load64(&slot.claim)), lane.index, POSTED)
        point(ASK_POSTED)
        try:
            self.await_answer(slot, posted)
        except BaseException:
            self.give_up(index, posted)
            raise
        return self.take_answer(index)

    cdef int await_answer(self, Slot *slot, uint64_t posted) except -1:
        cdef uint64_t began = now_ns()
        cdef uint64_t limit = self.lane.control.header.spin_limit_ns
        if may_spin(self.lane.control.header):
            with nogil:
                self.spin(slot, posted, began + load64(&self.spin_ns))
        if load64(&slot.claim) != posted:
            return 0
        while True:
            # Before each sleep: a signal that came while we span ends no system call.
            PyErr_CheckSignals()
            if load64(&slot.claim) != posted:
                break
            with nogil:
                self.sleep(slot, posted)
        store64(&self.spin_ns, next_spin(load64(&self.spin_ns), now_ns() - began, limit))
        return 0

    cdef void spin(self, Slot *slot, uint64_t posted, uint64_t until) noexcept nogil:
        cdef int _turn
        while True:
            for _turn in range(32):
                if load64(&slot.claim) != posted:
                    return
                pause()
            if now_ns() >= until:
                return

    cdef int sleep(self, Slot *slot, uint64_t posted) noexcept nogil:
        """Sleep until the slot is answered, a signal comes, or for a moment."""
        store32(&slot.cancel, 1)
        # The owner writes the claim word first and reads this one after it: one of us sees the other.
        fence()
        point(ASK_BEDDED)
        if load64(&slot.claim) != posted:
            return 0
        return sleep_on(&slot.cancel, 1, now_ns() + LOOK_NS)

    cdef int give_up(self, uint32_t index, uint64_t posted) except -1:
        """Leave a question to the owner, who frees its slot; if it is answered already, do so here."""
        cdef Slot *slot = &self.lane.control.slots[index]
        if cas64(&slot.claim, posted, claim_word(claim_generation(posted), self.lane.index, GIVEN_UP)):
            return 0
        try:
            if slot.flags & IN_SEGMENT:
                self.lane.arena.adopt(slot.segment - 1, slot.length)
        finally:
            store64(&slot.claim, claim_word(claim_generation(posted), NOBODY, FREE))
        return 0

    cdef object take_answer(self, uint32_t index):
        cdef WorkerLane lane = self.lane
        cdef Slot *slot = &lane.control.slots[index]
        cdef uint64_t length = slot.length
        cdef bint failed = slot.flags & IS_ERROR
        cdef Segment segment = None
        cdef const uint8_t *payload
        point(ASK_HEARD)
        try:
            if slot.flags & IN_SEGMENT:
                segment = lane.arena.adopt(slot.segment - 1, length)
                point(ASK_ADOPTED)
                payload = <const uint8_t *>segment.base
            else:
                payload = lane.control.payload(index, length)
            value = lane.channel.decode(slot.encoding, payload, length, segment)
            point(ASK_TAKEN)
        finally:
            # Also when rebuilding the answer was interrupted.
            store64(&slot.claim, claim_word(claim_generation(load64(&slot.claim)), NOBODY, FREE))
        if not failed:
            return value
        if value is None:
            raise ArenaFullError("the pool's owner had no shared memory left for its answer; drop arrays there")
        error, text = value
        error.__cause__ = RemoteTraceback(text)
        raise error


cdef class VariableCache:
    """Knows a variable until any of the session's changes, or for `ttl` seconds. Any thread may use it.

    The revision is noted before a variable is read, so a change in between makes the entry stale, never fresh: `get`
    gives nothing that was changed before `get` began.
    """

    def __init__(self, Asker asker, uint64_t session, double ttl):
        self.asker = asker
        self.session = session
        self.control = asker.lane.control
        self.word = &self.control.header.revisions[session % REVISIONS]
        self.ttl = ttl
        self.entries = {}
        self.questions = {}

    @property
    def ttl(self) -> float:
        """Seconds for which a variable is known at most; 0.0: nothing is kept."""
        return self.ttl_ns * 1e-9

    @ttl.setter
    def ttl(self, double seconds):
        self.ttl_ns = <uint64_t>(min(max(seconds, 0.0), 1e9) * 1e9)

    @property
    def revision(self) -> int:
        """What moves with every change of the session's variables."""
        return load64(self.word)

    def get(self, name):
        """Return the variable, a copy if it can be changed; MISSING if it has to be read."""
        cdef Entry entry
        # Without the GIL another thread could let go of what is found here, before it is ours.
        with cython.critical_section(self):
            entry = self.entries.get(name)
        if entry is None or entry.revision != load64(self.word) or now_ns() >= entry.until:
            return missing
        return loads(entry.value) if entry.pickled else entry.value

    def fetch(self, name):
        """Ask for the variable, remember it, and return it. Raises what the owner raises for it (see `Asker.ask_for`)."""
        cdef uint64_t revision = load64(self.word)
        cdef Message message = Message()
        with cython.critical_section(self):
            packed = self.questions.get(name)
        if packed is not None:
            message.encoding = MSGPACK
            message.inline = packed
            message.length = PyBytes_GET_SIZE(packed)
        else:
            self.asker.lane.channel.encode_value(message, ["get", name], 0)
            with cython.critical_section(self):
                if message.encoding == MSGPACK and len(self.questions) < MOST_ENTRIES:
                    self.questions[name] = message.inline
        value = self.asker.send(self.session, message)
        if self.ttl_ns:
            self.remember(name, value, revision)
        return value

    cdef int remember(self, name, value, uint64_t revision) except -1:
        """Know a variable that was read after `revision` was."""
        cdef Entry entry = Entry.__new__(Entry)
        kind = type(value)
        entry.value = value
        entry.revision = revision
        entry.until = now_ns() + self.ttl_ns
        if not (value is None or kind is str or kind is int or kind is float or kind is bool or kind is bytes):
            # What the task does to its copy must not be seen by the next.
            try:
                entry.value = dumps(value, 5)
            except Exception:
                return 0
            if len(<bytes>entry.value) > LARGEST_PICKLE:
                return 0
            entry.pickled = True
        with cython.critical_section(self):
            if len(self.entries) >= MOST_ENTRIES:
                self.entries = {}
            self.entries[name] = entry
        return 0

    def forget(self) -> None:
        """Forget everything."""
        with cython.critical_section(self):
            self.entries = {}


cdef class Entry:
    pass
