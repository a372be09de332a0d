# cython: language_level=3
"""Mail: what workers say on their own, in slots that travel on the completion list like those of finished calls."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport cas32, fence, load32, store32
from snakepit._core.layout cimport IN_SEGMENT, MAIL_ASK, Slot, claim_lane
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.placement cimport Placement
from snakepit._core.points cimport MAIL_DELIVERED, MAIL_DELIVERING, point


cdef class Mailbox:
    """`on_mail(kind, lane, number, definition, epoch, encoding, flags, payload, segment, length)` hears each message.

    But for questions: `on_ask(slot)`, set by who answers, takes the slot over.
    """

    def __init__(self, Arena arena, on_mail):
        self.arena = arena
        self.on_mail = on_mail

    cdef bint waits(self) noexcept nogil:
        """Whether there is mail that nobody delivers."""
        return load32(&self.first) != 0 and load32(&self.delivering) == 0

    cdef void append(self, Slot *slots, uint32_t number) noexcept nogil:
        """Take a slot, by index + 1, off the completion list. Under the mutex."""
        slots[number - 1].next = 0
        if self.first:
            slots[self.last - 1].next = number
        else:
            store32(&self.first, number)
        self.last = number

    cdef int deliver(self, Placement placement) except -1:
        """Hand over what there is, by one thread at a time, so that it stays in order.

        Returns how many messages this thread delivered.
        """
        cdef uint32_t number
        cdef int count = 0
        while load32(&self.first):
            if not cas32(&self.delivering, 0, 1):
                return count
            try:
                while True:
                    pthread_mutex_lock(&placement.mutex)
                    number = self.first
                    if number:
                        store32(&self.first, placement.control.slots[number - 1].next)
                    pthread_mutex_unlock(&placement.mutex)
                    if number == 0:
                        break
                    count += 1
                    self.hand_over(placement, number - 1)
            finally:
                store32(&self.delivering, 0)
                fence()
        return count

    cdef int hand_over(self, Placement placement, uint32_t index) except -1:
        cdef Slot *slot = &placement.control.slots[index]
        cdef uint64_t length = slot.length
        cdef Segment segment = None
        cdef bytes payload = None
        point(MAIL_DELIVERING)
        if slot.kind == MAIL_ASK:
            self.on_ask(index)
            point(MAIL_DELIVERED)
            return 0
        try:
            if slot.flags & IN_SEGMENT:
                segment = self.arena.adopt(slot.segment - 1, length)
            elif length:
                payload = (<char *>placement.control.payload(index, length))[:length]
            self.on_mail(slot.kind, claim_lane(slot.claim), slot.parent, slot.definition, slot.definition_epoch,
                         slot.encoding, slot.flags, payload, segment, length)
        finally:
            pthread_mutex_lock(&placement.mutex)
            placement.free_slot(index)
            pthread_mutex_unlock(&placement.mutex)
        point(MAIL_DELIVERED)
        return 0
