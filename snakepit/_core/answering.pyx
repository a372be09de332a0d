# cython: language_level=3
"""The owner's side of `asking.pyx`.

From when a question is taken off the completion list until it is answered, its slot is the owner's: a burial leaves it
alone and only notes that nobody waits. So the slot's number is ticket enough for an answer that takes its time.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_SetInterrupt
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Segment
from snakepit._core.atomics cimport add64, cas64, load64, now_ns, swap32, wake
from snakepit._core.layout cimport (
    ANSWERED, IN_SEGMENT, IS_ERROR, NOTHING, POSTED, REVISIONS, Slot, claim_generation, claim_lane, claim_word,
)
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.points cimport ANSWER_BEGUN, ANSWER_FILLED, ANSWER_TOLD, point
from snakepit._core.scheduler cimport Scheduler
from snakepit._core.task cimport Message

from snakepit.errors import SessionNotFoundError

cdef enum:
    PATIENCE_NS = 50_000_000            # how long an answer waits for arena memory: others wait behind it


cdef class Later:
    def __repr__(self):
        return "LATER"


LATER = Later()                         # what `respond` returns when the answer comes by `reply`
cdef object later = LATER


cdef class Answerer:
    """`respond(slot, lane, session, question)` returns the answer to a question, a list of its topic and arguments.

    It may return LATER and have `reply` called. `explain(error)` returns what travels for an exception: (exception that
    can be pickled, traceback text).

    What is asked for all the time is answered without it: `quick[topic](known[session], *arguments)`, where both are
    there. Sessions that are found to have ended are taken out of `known`, and `respond` is asked after all.
    """

    def __init__(self, Scheduler scheduler, respond, explain, dict quick, dict known):
        self.scheduler = scheduler
        self.respond = respond
        self.explain = explain
        self.quick = quick
        self.known = known
        self.kept = {}

    def answer(self, uint32_t index) -> None:
        """Answer the question in a slot that was taken off the completion list."""
        cdef Slot *slot = &self.scheduler.control.slots[index]
        cdef bint failed = False
        try:
            question = self.read(index)
            point(ANSWER_BEGUN)
            value = self.answer_quickly(slot.session, question)
            if value is later:
                value = self.respond(index, claim_lane(load64(&slot.claim)), slot.session, question)
            if value is later:
                return
        except BaseException as error:
            # A Ctrl-C is not the asker's matter, and comes again; but nobody else will answer.
            if isinstance(error, KeyboardInterrupt):
                PyErr_SetInterrupt()
            failed = True
            value = self.explain(error)
        self.reply(index, value, failed)

    cdef object answer_quickly(self, uint64_t session, list question):
        """The answer to a question, or LATER if it is none of the quick ones."""
        topic = question[0]
        function = self.quick.get(topic)
        if function is None:
            return later
        key = session
        # As in `Definitions.get`: it borrows.
        with cython.critical_section(self.known):
            known = self.known.get(key)
        if known is None:
            return later
        try:
            if len(question) == 2:
                return function(known, question[1])
            return function(known, *question[1:])
        except SessionNotFoundError:
            # It has ended; another may begin under its id.
            self.known.pop(key, None)
            return later

    def reply(self, uint32_t index, value, bint failed=False) -> None:
        """Answer the question in a slot, once: with a value, or with what `explain` made of an exception."""
        cdef Message message = Message()
        cdef uint64_t until = now_ns() + PATIENCE_NS
        try:
            self.scheduler.channel.encode_value(message, value, until)
        except BaseException as problem:
            failed = True
            message = Message()
            try:
                self.scheduler.channel.encode_value(message, self.explain(problem), until)
            except BaseException:
                # Not even for that is there memory: the flag alone says so.
                message = Message()
                message.encoding = NOTHING
        if failed:
            message.flags |= IS_ERROR
        self.write(index, message)

    cdef object read(self, uint32_t index):
        cdef Scheduler scheduler = self.scheduler
        cdef Slot *slot = &scheduler.control.slots[index]
        cdef uint64_t length = slot.length
        cdef Segment segment = None
        if slot.flags & IN_SEGMENT:
            segment = scheduler.arena.adopt(slot.segment - 1, length)
            return scheduler.channel.decode(slot.encoding, <unsigned char *>segment.base, length, segment)
        return scheduler.channel.decode(slot.encoding, scheduler.control.payload(index, length), length, None)

    cdef int write(self, uint32_t index, Message message) except -1:
        cdef Scheduler scheduler = self.scheduler
        cdef Slot *slot = &scheduler.control.slots[index]
        # What remains of the word while the slot is ours, whether or not the asker has given up.
        cdef uint64_t generation = claim_generation(load64(&slot.claim))
        cdef uint64_t lane = claim_lane(load64(&slot.claim))
        cdef bint told
        if self.kept:
            self.drop_read_answers()
        if message.shared is not None:
            self.kept[index] = (generation, message.shared)
        slot.encoding = message.encoding
        slot.flags = message.flags
        slot.length = message.length
        slot.segment = 0
        if message.segment is not None:
            slot.segment = message.segment.index + 1
        elif message.length:
            memcpy(scheduler.control.payload(index, message.length), PyBytes_AS_STRING(message.inline), message.length)
        point(ANSWER_FILLED)
        # A burial comes either before this, and is seen, or after it, and finds an answered slot, and the segment among
        # those of the dead client.
        pthread_mutex_lock(&scheduler.mutex)
        told = scheduler.taken[index] != 2 and cas64(
            &slot.claim, claim_word(generation, lane, POSTED), claim_word(generation, lane, ANSWERED)
        )
        if told:
            scheduler.taken[index] = 0
            if message.segment is not None:
                # The asker may have adopted it in this instant; then this changes nothing.
                scheduler.arena.hand_over(message.segment, scheduler.control.lanes[lane].client)
        else:
            scheduler.free_slot(index)
        pthread_mutex_unlock(&scheduler.mutex)
        if told:
            point(ANSWER_TOLD)
            # By now the slot may carry another question: whoever waits there looks again.
            if swap32(&slot.cancel, 0):
                wake(&slot.cancel, 1)
        return 0

    cdef int drop_read_answers(self) except -1:
        for index, (generation, _) in list(self.kept.items()):
            word = load64(&self.scheduler.control.slots[<uint32_t>index].claim)
            if claim_generation(word) != generation or word & 0xF != ANSWERED:
                self.kept.pop(index, None)
        return 0

    def note_change(self, uint64_t session) -> None:
        """Make stale what workers know of a session's variables, after a change and before anybody hears of it."""
        add64(&self.scheduler.control.header.revisions[session % REVISIONS], 1)
