# cython: language_level=3
"""Settling: what workers have done comes off the completion list, and each call gets its outcome.

    collect: completion list -> backlog, oldest first -> decode -> free the slot, refill it -> settle the task
                             -> mailbox

Any thread of the owner may come here, and several at once; who stays awake for it is the matter of `completions.pyx`.
What fails without an answer is settled here too, but in two steps where its callbacks must not run in the thread that
found it out: a *verdict* is left, and whoever collects next passes it.
"""
from collections import deque

from cpython.exc cimport PyErr_SetInterrupt
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from snakepit._core.arena cimport Arena, Segment
from snakepit._core.atomics cimport add32, add64, load32, now_ns, store32, swap32
from snakepit._core.bindings cimport WORKER_LOST
from snakepit._core.channel cimport Channel
from snakepit._core.completions cimport THREAD_BELL
from snakepit._core.control cimport Control
from snakepit._core.counters cimport Histogram
from snakepit._core.lane_cache cimport note_lane
from snakepit._core.layout cimport ENCLOSED, IN_SEGMENT, IS_ERROR, Slot, claim_lane
from snakepit._core.mailbox cimport Mailbox
from snakepit._core.mutex cimport pthread_mutex_lock, pthread_mutex_unlock
from snakepit._core.placement cimport Placement
from snakepit._core.points cimport (
    COLLECT_SWAPPED, COLLECT_TAKEN, FINISH_BEGUN, FINISH_DECODED, FINISH_FREED, point,
)
from snakepit._core.task cimport Task

from snakepit.errors import DecodeError, RemoteTraceback

cdef enum:
    BATCH = 128                         # completions handled between two looks at the shared list
    ENOUGH = 8 * BATCH                  # completions that a caller settles for others once it has its own


cdef class Settlement(Placement):
    """`on_idle()` is called when the pool takes no more tasks and the last one is settled."""

    def __init__(self, Control control, Arena arena, Channel channel, on_mail, on_idle):
        Placement.__init__(self, control)
        self.arena = arena
        self.channel = channel
        self.mailbox = Mailbox(arena, on_mail)
        self.on_idle = on_idle
        self.verdicts = deque()
        self.latency = Histogram()
        self.running_time = Histogram()

    # -- collecting ----------------------------------------------------------------------------------------------------

    cdef bint has_completed(self) noexcept nogil:
        return (load32(&self.control.header.done) != 0 or load32(&self.backlog) != 0 or load32(&self.n_verdicts) != 0
                or self.mailbox.waits())

    cdef int collect(self, Task wanted=None) except -1:
        cdef uint32_t batch[BATCH]
        cdef uint32_t count, i
        cdef int total = 0
        cdef bint delivered
        problem = None
        while True:
            count = self.take_completed(batch, BATCH)
            delivered = False
            try:
                if load32(&self.n_verdicts):
                    delivered = self.pass_verdicts()
                delivered = self.mailbox.deliver(self) or delivered
            except BaseException as error:
                # KeyboardInterrupt, for instance: what was taken is settled first.
                delivered = True
                problem = error
            if count == 0 and not delivered:
                # Mail that another thread is delivering is its matter: to wait for it here would keep it from the GIL.
                if problem is not None:
                    raise problem
                return total
            for i in range(count):
                try:
                    self.finish(batch[i])
                except BaseException as error:
                    problem = error
            total += count
            self.wake_lanes()
            if self.outstanding() == 0:
                # Whoever starts to observe in between says so after it has submitted: we see one or the other.
                swap32(&self.observers, 0)
                if self.outstanding():
                    store32(&self.observers, 1)
                elif not self.open:
                    self.on_idle()
            if total >= ENOUGH and wanted is not None and wanted.is_settled() and problem is None:
                return total

    cdef uint32_t take_completed(self, uint32_t *batch, uint32_t most) noexcept nogil:
        """Take up to `most` completed slots, oldest first."""
        cdef uint32_t head, count = 0
        cdef Slot *slots = self.control.slots
        if load32(&self.control.header.done) == 0 and load32(&self.backlog) == 0:
            return 0
        pthread_mutex_lock(&self.mutex)
        if self.backlog == 0:
            self.sweep()
        while self.backlog and count < most:
            head = self.backlog
            self.backlog = slots[head - 1].next
            if head > self.n_slots:
                self.mailbox.append(slots, head)
            else:
                batch[count] = head - 1
                count += 1
        pthread_mutex_unlock(&self.mutex)
        point(COLLECT_TAKEN)
        return count

    cdef void sweep(self) noexcept nogil:
        """Move the completion list to the end of the backlog. Under the mutex.

        The list is a stack: reversed, it is in the order of completion. Slots in it are marked, so that nobody who cleans
        up after a dead worker handles them a second time.
        """
        cdef Slot *slots = self.control.slots
        cdef uint32_t head = swap32(&self.control.header.done, 0)
        cdef uint32_t following, last
        cdef uint32_t first = 0
        point(COLLECT_SWAPPED)
        while head:
            following = slots[head - 1].next
            slots[head - 1].next = first
            self.taken[head - 1] = 1
            first = head
            head = following
        if self.backlog == 0:
            self.backlog = first
        elif first:
            last = self.backlog
            while slots[last - 1].next:
                last = slots[last - 1].next
            slots[last - 1].next = first

    cdef int finish(self, uint32_t index) except -1:
        """Settle the task of a completed slot and free the slot."""
        cdef Slot *slot = &self.control.slots[index]
        cdef Task task = <Task>self.tasks[index]
        cdef uint8_t flags = slot.flags
        cdef uint64_t lane = claim_lane(slot.claim)
        cdef uint64_t now
        task.run_ns = slot.run_ns
        self.note_running_time(slot.run_ns)
        task.items = slot.items
        error = None
        point(FINISH_BEGUN)
        try:
            outcome = self.take_outcome(index)
            if flags & ENCLOSED:
                outcome, enclosed = outcome
                # Before the call counts as settled: from then on its session may begin elsewhere.
                self.on_enclosed(enclosed)
        except BaseException as problem:
            # Whatever a result does while it is rebuilt, even SystemExit, is the matter of its task alone; only a
            # Ctrl-C that came just now is not, and comes again.
            if isinstance(problem, KeyboardInterrupt):
                PyErr_SetInterrupt()
            outcome = None
            error = DecodeError(
                f"the result of the task cannot be rebuilt: {type(problem).__name__}: {problem}",
                details={"task": task.number},
            )
            error.__cause__ = problem
        else:
            if flags & IS_ERROR:
                # (exception, its traceback as text, what a chunk of map had done before)
                error, text, outcome = outcome
                error.__cause__ = RemoteTraceback(text)
        point(FINISH_DECODED)
        now = now_ns()
        self.latency.add(now - task.submitted_ns)
        pthread_mutex_lock(&self.mutex)
        self.answered_last = <uint32_t>lane
        if task.affinity:
            self.bindings.finished(task, <uint32_t>lane)
        elif task.session:
            note_lane(self.lanes_used, task.session, <uint32_t>lane)
        self.tasks[index] = NULL
        self.free_slot(index)
        pthread_mutex_unlock(&self.mutex)
        point(FINISH_FREED)
        if not task.is_settled():
            add64(&self.n_completed if error is None else &self.n_failed, 1)
        Py_DECREF(task)
        task.clear()
        if task.affinity:
            self.fail_doomed()
        task.settle(outcome, error)
        return 0

    cdef void note_running_time(self, uint64_t ran) noexcept nogil:
        cdef uint32_t *typical = &self.control.header.typical_ns
        self.running_time.add(ran)
        # One long task counts at once; it takes many short ones to forget it.
        if ran > 1_000_000_000:
            ran = 1_000_000_000
        typical[0] = <uint32_t>max(ran, (<uint64_t>typical[0] * 7 + ran) // 8)

    cdef object take_outcome(self, uint32_t index):
        cdef Slot *slot = &self.control.slots[index]
        cdef Segment segment
        cdef uint64_t length = slot.length
        add64(&self.bytes_out, length)
        if slot.flags & IN_SEGMENT:
            segment = self.arena.adopt(slot.segment - 1, length)
            return self.channel.decode(slot.encoding, <const uint8_t *>segment.base, length, segment)
        return self.channel.decode(slot.encoding, self.control.payload(index, length), length, None)

    # -- failing -------------------------------------------------------------------------------------------------------

    cdef int refuse(self, Task task, int verdict) except -1:
        """Fail a strict call that was not queued. The error is the future's, as it is of what cannot be encoded."""
        error = self.explain(task, verdict, <int>task.home - 1)
        task.clear()
        if task.on_settled is not None:
            # Who submitted it may hold a lock that the pool's own hook wants.
            self.fail_elsewhere(task, error)
        else:
            self.fail(task, error)
        # Where a session is found lost, calls that came before may have waited for it.
        return self.fail_doomed()

    cdef int fail_doomed(self) except -1:
        """Fail the calls whose worker is gone."""
        cdef Task task
        while self.bindings is not None and self.bindings.n_doomed:
            task = None                 # Not under the mutex: it may be the last reference to a result.
            pthread_mutex_lock(&self.mutex)
            task = self.bindings.next_doomed()
            pthread_mutex_unlock(&self.mutex)
            if task is None:
                break                   # Another thread has it.
            try:
                error = self.explain(task, WORKER_LOST, <int>task.home - 1)
            except BaseException as problem:
                error = problem
            task.clear()
            self.fail_elsewhere(task, error)
            pthread_mutex_lock(&self.mutex)
            # Not before its verdict counts: at every instant something says that the task is not settled.
            self.bindings.n_doomed -= 1
            pthread_mutex_unlock(&self.mutex)
        return 0

    def fail(self, Task task, error) -> None:
        """Settle a task with an error before its worker answers (or because it never will)."""
        if not task.is_settled():
            add64(&self.n_failed, 1)
        task.settle(None, error)

    def conclude(self, Task task, outcome, error) -> None:
        """Settle a task that was taken back and has run elsewhere; callbacks run in this thread."""
        if not task.is_settled():
            add64(&self.n_completed if error is None else &self.n_failed, 1)
        task.clear()
        task.settle(outcome, error)

    def fail_elsewhere(self, Task task, error) -> None:
        """Have whoever settles completions settle the task with an error: its callbacks may take their time there."""
        self.verdicts.append((task, error))
        add32(&self.n_verdicts, 1)
        self.nudge(THREAD_BELL)

    cdef bint pass_verdicts(self) except -1:
        cdef bint some = False
        while load32(&self.n_verdicts):
            try:
                task, error = self.verdicts.popleft()
            except IndexError:
                # Another thread has it, and counts it down once it is settled: nothing to wait for.
                break
            some = True
            try:
                self.fail(<Task?>task, error)
            finally:
                add32(&self.n_verdicts, <uint32_t>-1)
        return some

    cdef uint64_t outstanding(self) noexcept nogil:
        cdef uint64_t strict = 0
        if self.bindings is not None:
            strict = self.bindings.length + self.bindings.n_doomed
        return self.pending.length + strict + (self.control.n_slots - self.n_free) + load32(&self.n_verdicts)

    @property
    def unsettled(self) -> int:
        """Number of tasks that are queued, running, or completed but not collected."""
        return self.outstanding()
