# cython: language_level=3
"""The worker's side of a task: claim -> decode -> (run) -> encode -> publish.

Which task that is, and how the lane waits for one, is the matter of `claimant.pyx`. What the loop of a worker calls stands
in one class: the interpreter calls a method quickly only if the object is exactly of the class that defines it.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from snakepit._core.arena cimport Segment
from snakepit._core.atomics cimport WAKE_ALL, add32, cas32, cas64, fence, load32, load64, now_ns, sleep_on, store32, store64, wake
from snakepit._core.channel cimport Channel
from snakepit._core.claimant cimport EXAMINE, RETIRE, SIGNALLED, Claimant
from snakepit._core.control cimport Control
from snakepit._core.counters cimport set_bit
from snakepit._core.definitions cimport DefinitionReader
from snakepit._core.forks cimport forks
from snakepit._core.layout cimport (
    CALL, CALLED, DONE, ENCLOSED, FREE, FUNCTION_INSIDE, IN_SEGMENT, IS_ERROR, KEPT, LANE_READY, MAIL,
    MAIL_SUBMIT, ORDER_EXCHANGE, POSTED, RETURNED, STOP_INTERRUPT, STOP_MASK, Header, Slot, claim_generation, claim_state, claim_word,
)
from snakepit._core.points cimport (
    DECODE_ADOPTED, DECODE_BEGUN, DECODE_LOADED, ENCODE_BEGUN, ENCODE_DONE, MAIL_FILLED, MAIL_OPENED, MAIL_POSTED,
    PUBLISH_BEGUN, PUBLISH_COUNTED, PUBLISH_DONE, PUBLISH_FILLED, PUBLISH_LET_GO, PUSH_COUNTED, PUSH_DISARMED,
    PUSH_LINKED, PUSH_PUSHED, PUSH_RUNG, WORKER_ANNOUNCED, WORKER_JOINED, WORKER_RETIRING, point,
)
from snakepit._core.queue cimport NO_SLOT
from snakepit._core.task cimport Message

from snakepit._core.forks import end_child
from snakepit.errors import ArenaFullError, TaskInterrupt

cdef extern from "Python.h":
    object call_object "PyObject_Call"(object function, object args, object kwargs)
    unsigned long PyThread_get_thread_ident() nogil

cdef enum:
    PROMPTLY_NS = 50_000_000            # how long a signal that was announced may take


cdef class WorkerLane(Claimant):
    def __init__(self, Control control, Channel channel, DefinitionReader definitions, uint32_t index):
        Claimant.__init__(self, control, index)
        self.arena = channel.arena
        self.channel = channel
        self.definitions = definitions
        self.born = forks
        self.answer = Message()
        self.kept = []
        point(WORKER_JOINED)

    def announce(self, int pid) -> None:
        """Say that this lane is ready for work."""
        self.me.pid = pid
        self.thread = PyThread_get_thread_ident()
        self.me.heartbeat_ns = now_ns()
        store32(&self.me.state, LANE_READY)
        point(WORKER_ANNOUNCED)

    # -- claiming and decoding -----------------------------------------------------------------------------------------

    def claim(self):
        """Claim a task, waiting for one; returns its kind, or None when the worker shall end."""
        cdef uint32_t found
        if self.kept:
            self.drop_read_answers()
        while True:
            with nogil:
                found = self.take()
            if found == SIGNALLED:
                PyErr_CheckSignals()
                continue
            if found == EXAMINE:
                self.be_examined()
                continue
            if found == RETIRE:
                point(WORKER_RETIRING)
                return None
            self.slot = found
            self.heard = self.interrupted = self.owed = False
            return self.control.slots[found].kind

    cdef int be_examined(self) except -1:
        """Look at the worker's health. That may take time: like one that runs a task, the lane is not counted on."""
        with nogil:
            self.put_down()
            set_bit(self.control.header.running, self.index)
            self.running = True
            fence()
            if self.control.has_shared() or self.has_offer():
                self.wake_another()         # What came while we were counted as one that searches.
        try:
            if self.examiner is not None:
                self.examiner()
        finally:
            # Not before: until then the word says that this lane is busy, though it has no task.
            store32(&self.me.examine, 0)
        self.me.heartbeat_ns = now_ns()
        return 0

    def decode(self):
        """Return (function, arguments): (args, kwargs) of a call, (items,) of a chunk of map.

        Raises what loading the function or the arguments raises.
        """
        cdef Slot *slot = &self.control.slots[self.slot]
        cdef Segment segment = None
        cdef uint64_t length = slot.length
        cdef const uint8_t *payload
        point(DECODE_BEGUN)
        if slot.flags & IN_SEGMENT:
            if slot.flags & KEPT:
                segment = self.arena.copy_of(
                    slot.segment - 1, length, slot.deadline_ns or now_ns() + self.channel.patience_ns
                )
            else:
                segment = self.arena.adopt(slot.segment - 1, length)
            point(DECODE_ADOPTED)
            payload = <const uint8_t *>segment.base
        else:
            payload = self.control.payload(self.slot, length)
        if slot.flags & FUNCTION_INSIDE:
            function, args, kwargs = self.channel.decode(slot.encoding, payload, length, segment)
            return function, ((args, kwargs) if slot.kind == CALL else args)
        function = self.definitions.get(slot.definition, slot.definition_epoch)
        value = self.channel.decode(slot.encoding, payload, length, segment)
        point(DECODE_LOADED)
        if slot.kind != CALL:
            return function, (value,)
        if value is None:
            return function, ((), {})
        if type(value) is list:
            return function, (tuple(value), {})
        return function, value

    # -- running -------------------------------------------------------------------------------------------------------

    def call(self, function, tuple args, dict kwargs):
        """Call the function of the claimed task: the only place where TaskInterrupt is raised.

        Signal handlers run between bytecodes, so none runs from the function's end to where `inside` is lowered. The
        stop word is the handshake with the owner: either it announces its signal before RETURNED stands there, and the
        signal is waited for here, or it sends none. So no later task meets it, not even as an interrupted system call.
        """
        cdef uint32_t *word = &self.control.slots[self.slot].cancel
        cdef bint late = add32(word, CALLED) & STOP_MASK
        try:
            if late:
                self.interrupted = True
                raise TaskInterrupt("the task was asked to stop before its function was called")
            self.inside = True
            return call_object(function, args, kwargs)
        finally:
            self.inside = False
            if (add32(word, RETURNED) & STOP_MASK) >= STOP_INTERRUPT:
                self.await_signal()

    @property
    def alone(self) -> bool:
        """Whether this lane is its process's only one: what the process does, it does for its task."""
        return True

    def interrupt(self, _number, _frame):
        """The handler of the interrupting signal; raises TaskInterrupt once a task, and only inside its function."""
        self.heard = True
        if not self.inside or self.interrupted:
            return
        if (load32(&self.control.slots[self.slot].cancel) & STOP_MASK) < STOP_INTERRUPT:
            return
        if self.holds:
            self.owed = True
            return
        self.interrupted = True
        raise TaskInterrupt("the task was asked to stop")

    def hold_interrupts(self) -> None:
        """Put off an interrupt until `release_interrupts`: what follows must not be left half done."""
        if PyThread_get_thread_ident() == self.thread:
            self.holds += 1

    def release_interrupts(self) -> None:
        """End what `hold_interrupts` began; raises TaskInterrupt if one came meanwhile."""
        if PyThread_get_thread_ident() != self.thread:
            return
        self.holds -= 1
        if self.owed and not self.holds:
            self.owed = False
            if self.inside and not self.interrupted:
                self.interrupted = True
                raise TaskInterrupt("the task was asked to stop")

    cdef int await_signal(self) except -1:
        """Let the signal come that the owner has announced; not for ever, for the owner may be gone."""
        cdef uint64_t until = now_ns() + PROMPTLY_NS
        cdef uint32_t word = 0
        PyErr_CheckSignals()
        while not self.heard and now_ns() < until:
            with nogil:
                sleep_on(&word, 0, now_ns() + 1_000_000)
            PyErr_CheckSignals()
        return 0

    # -- answering -----------------------------------------------------------------------------------------------------

    def encode(self, value, bint is_error=False, int items=0):
        """Encode the answer of the claimed task. Raises EncodeError, ArenaFullError; then encode that instead."""
        cdef Message answer = self.answer
        cdef Slot *slot = &self.control.slots[self.slot]
        if self.born != forks:
            # A child that the task forked, and that came back from the task as its parent will: there is one worker.
            error, text = value[:2] if is_error else (None, None)
            end_child(error, text)
        answer.flags = IS_ERROR if is_error else 0
        answer.length = 0
        answer.clear()
        answer.items = items
        point(ENCODE_BEGUN)
        if self.enclosed is not None:
            self.encode_enclosed(answer, value, slot.deadline_ns)
        else:
            self.channel.encode_value(answer, value, slot.deadline_ns)
        point(ENCODE_DONE)

    cdef int encode_enclosed(self, Message answer, value, uint64_t deadline_ns) except -1:
        """Encode an answer together with what the owner is to know of the session, so that it has both or neither."""
        answer.flags |= ENCLOSED
        try:
            self.channel.encode_value(answer, [value, self.enclosed], deadline_ns)
        except ArenaFullError as error:
            # The answer is not to fail for want of room for the state. Let the owner know that it lacks that.
            self.enclosed = [*self.enclosed[:3], None, str(error)]
            answer.flags = (answer.flags & IS_ERROR) | ENCLOSED
            answer.length = 0
            answer.clear()
            self.channel.encode_value(answer, [value, self.enclosed], deadline_ns)
        self.enclosed = None
        return 0

    def publish(self):
        """Publish the encoded answer: from here on the task is done, whatever happens to this process."""
        cdef Message answer = self.answer
        cdef Slot *slot = &self.control.slots[self.slot]
        point(PUBLISH_BEGUN)
        slot.encoding = answer.encoding
        slot.flags = answer.flags
        slot.items = answer.items
        slot.length = answer.length
        if answer.segment is not None:
            slot.segment = answer.segment.index + 1
            # From now on the arena's table alone says that we hold it, until the owner adopts it or buries us.
            answer.segment.forget()
            point(PUBLISH_LET_GO)
        else:
            slot.segment = 0
            if answer.length:
                memcpy(self.control.payload(self.slot, answer.length), PyBytes_AS_STRING(answer.inline), answer.length)
        if answer.shared is not None:
            self.kept.append((self.slot, self.generation, answer.shared))
        answer.clear()
        point(PUBLISH_FILLED)
        with nogil:
            self.publish_slot()
        # The slot may carry another task by now, whose stop word is not ours to read.
        self.slot = NO_SLOT

    cdef void publish_slot(self) noexcept nogil:
        cdef Slot *slot = &self.control.slots[self.slot]
        cdef uint64_t ran = now_ns() - self.started_ns
        slot.run_ns = ran
        self.me.busy_ns += ran
        self.me.completed += 1
        store64(&self.me.claimed, 0)
        point(PUBLISH_COUNTED)
        store64(&slot.claim, claim_word(self.generation, self.index, DONE))
        point(PUBLISH_DONE)
        self.push(self.slot)

    cdef void push(self, uint32_t index) noexcept nogil:
        """Put a slot on the completion list and wake whoever asked to be woken for it."""
        cdef Header *header = self.control.header
        cdef Slot *slot = &self.control.slots[index]
        cdef uint32_t head, bell
        while True:
            head = load32(&header.done)
            slot.next = head
            point(PUSH_LINKED)
            if cas32(&header.done, head, index + 1):
                break
        point(PUSH_PUSHED)
        if head == 0:
            bell = load32(&header.armed)
            if bell and cas32(&header.armed, bell, 0):
                point(PUSH_DISARMED)
                add32(&header.bells[bell], 1)
                point(PUSH_COUNTED)
                wake(&header.bells[bell], WAKE_ALL)
        point(PUSH_RUNG)

    # -- mail ----------------------------------------------------------------------------------------------------------

    def post(self, int kind, uint64_t number, value=None, uint32_t definition=0, uint32_t epoch=0) -> None:
        """Send the owner a message of its own, whether or not a task runs. Thread-safe."""
        cdef Message message = Message()
        self.channel.encode_value(message, value, 0)
        self.post_message(kind, number, message, definition, epoch)

    def post_call(self, uint64_t number, function, args, kwargs, uint32_t definition=0, uint32_t epoch=0) -> None:
        """Send the owner a call to run somewhere in the pool; `function` is None when `definition` names it."""
        cdef Message message = Message()
        self.channel.encode_call(message, function, args, kwargs, 0)
        self.post_message(MAIL_SUBMIT, number, message, definition, epoch)

    cdef int post_message(
        self, int kind, uint64_t number, Message message, uint32_t definition, uint32_t epoch, uint64_t session=0
    ) except -1:
        """Returns which slot it is in."""
        cdef uint32_t index
        cdef Slot *slot
        with nogil:
            index = self.open_mail()
            point(MAIL_OPENED)
        slot = &self.control.slots[index]
        slot.kind = kind
        slot.parent = number
        slot.session = session
        slot.cancel = 0
        slot.definition = definition
        slot.definition_epoch = epoch
        slot.encoding = message.encoding
        slot.flags = message.flags
        slot.length = message.length
        slot.segment = 0
        if message.segment is not None:
            slot.segment = message.segment.index + 1
            message.segment.forget()
        elif message.length:
            memcpy(self.control.payload(index, message.length), PyBytes_AS_STRING(message.inline), message.length)
        if message.shared is not None:
            self.kept.append((index, claim_generation(slot.claim), message.shared))
        with nogil:
            point(MAIL_FILLED)
            store64(&slot.claim, claim_word(claim_generation(slot.claim), self.index, POSTED))
            point(MAIL_POSTED)
            self.push(index)
        return <int>index

    cdef uint32_t open_mail(self) noexcept nogil:
        """Claim a free mail slot; the owner empties them, so one comes free soon."""
        cdef uint32_t index, i
        cdef uint64_t word
        while True:
            for i in range(self.control.n_mail):
                index = self.control.n_slots + (i + self.index) % self.control.n_mail
                word = load64(&self.control.slots[index].claim)
                if claim_state(word) == FREE and cas64(
                    &self.control.slots[index].claim, word,
                    claim_word(claim_generation(word) + 1, self.index, MAIL)
                ):
                    return index
            # Rare, and nobody rings for it: look again in a moment.
            sleep_on(&self.control.header.bells[0], load32(&self.control.header.bells[0]), now_ns() + 200_000)

    def drop_read_answers(self):
        """Let go of shared arrays whose answers the owner has read."""
        cdef uint64_t done
        # In place, by steps that are whole each: other threads of a task post, and so add, at any time.
        for _ in range(len(self.kept)):
            entry = self.kept.pop(0)
            slot, generation, _shared = entry
            done = claim_word(generation, self.index, POSTED if slot >= self.control.n_slots else DONE)
            if load64(&self.control.slots[<uint32_t>slot].claim) == done:
                self.kept.append(entry)

    @property
    def asker(self):
        """What asks the owner; made when first wanted."""
        cdef object asks
        with cython.critical_section(self):
            asks = self.asks
        if asks is None:
            from snakepit._core.asking import Asker

            asks = Asker(self)
            # Once: another thread may be reading it.
            with cython.critical_section(self):
                if self.asks is None:
                    self.asks = asks
                asks = self.asks
        return asks

    def ask(self, topic, *args):
        """Ask the owner in the name of the running task's session (see `Asker.ask_for`)."""
        return self.asker.ask(topic, *args)

    # -- the running task, and the lane --------------------------------------------------------------------------------

    @property
    def session(self) -> int:
        """The key of the running task's session; 0 without one."""
        cdef uint32_t slot = self.slot
        return self.control.slots[slot].session if slot != NO_SLOT else 0

    @property
    def stop_requested(self) -> bool:
        """Whether the owner asked the running task to stop."""
        cdef uint32_t slot = self.slot
        return slot != NO_SLOT and (load32(&self.control.slots[slot].cancel) & STOP_MASK) != 0

    @property
    def claimed_ns(self) -> int:
        """When the running task was claimed, in monotonic nanoseconds."""
        return self.started_ns

    @property
    def deadline_ns(self) -> int:
        """The running task's deadline in monotonic nanoseconds, 0 for none."""
        return self.control.slots[self.slot].deadline_ns if self.slot != NO_SLOT else 0

    @property
    def tenure(self) -> int:
        """Which stay of its session in a worker the running task belongs to; 0: such are not told apart."""
        return self.control.slots[self.slot].tenure if self.slot != NO_SLOT else 0

    @property
    def dismissed(self) -> bool:
        """Whether this lane ends because its pool does."""
        return load32(&self.control.header.closing) != 0

    @property
    def replaced(self) -> bool:
        """Whether this lane ends because a spare has taken its place."""
        return load32(&self.me.retire) == ORDER_EXCHANGE

    @property
    def incarnation(self) -> int:
        """Which worker of this lane this one is; the owner counts them."""
        return self.me.incarnation

    @property
    def completed(self) -> int:
        """How many tasks this lane has completed."""
        return self.me.completed
