# cython: language_level=3
"""Queueing for threads of the caller's own process: the functions and arguments themselves, no codec."""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport (
    EINTR, ETIMEDOUT, WAKE_ALL, add32, add64, fence, load32, now_ns, sleep_on, store32, wake,
)
from snakepit._core.counters cimport Histogram
from snakepit._core.queue cimport PendingList
from snakepit._core.scheduler cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from snakepit._core.task cimport Owner, Task, deadline_after
from cpython.exc cimport PyErr_CheckSignals

from snakepit.errors import PoolShutdownError

cdef enum:
    RUNS = 1                            # `Task.slot` of a task that a thread runs


cdef class LocalQueue(Owner):
    """`on_idle()` is called when the queue takes no more tasks and the last one is settled."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __init__(self, on_idle):
        self.pending = PendingList()
        self.latency = Histogram()
        self.running_time = Histogram()
        self.on_idle = on_idle
        self.open = True

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    def set_terms(self, Task task, timeout, int priority, uint64_t session) -> None:
        """Set what a call is run under: seconds or None, 0 (high) to 2 (low), session key or 0."""
        if timeout is not None:
            task.deadline_ns = deadline_after(timeout)
        task.priority = priority
        task.session = session

    def adopt(self, Task call) -> None:
        """Have callers wait for `call` as for a task of this queue, though only attempts at it are queued."""
        call.owner = self

    def submit(self, Task task, function, tuple args, dict kwargs) -> None:
        """Queue a call. Raises PoolShutdownError."""
        cdef bint open_
        task.owner = self
        task.function = function
        task.arguments = (args, kwargs)
        task.submitted_ns = now_ns()
        task.number = add64(&self.next_number, 1) + 1
        pthread_mutex_lock(&self.mutex)
        open_ = self.open
        if open_:
            self.pending.append(task)
            self.n_submitted += 1
        pthread_mutex_unlock(&self.mutex)
        if not open_:
            raise PoolShutdownError("cannot schedule new futures after shutdown")
        add32(&self.work, 1)
        fence()
        if load32(&self.sleeping):
            wake(&self.work, 1)

    cdef Task next_task(self):
        cdef Task task
        pthread_mutex_lock(&self.mutex)
        task = self.pending.pop()
        if task is not None:
            task.slot = RUNS
            self.n_running += 1
        pthread_mutex_unlock(&self.mutex)
        return task

    def take(self):
        """Wait for a task and return (task, function, args, kwargs); None when the queue is closed and empty."""
        cdef Task task
        cdef uint32_t seen
        while True:
            seen = load32(&self.work)
            task = self.next_task()
            if task is not None:
                function, arguments = task.function, task.arguments
                task.function = None
                task.arguments = None
                return task, function, arguments[0], arguments[1]
            if not self.open:
                return None
            add32(&self.sleeping, 1)
            with nogil:
                sleep_on(&self.work, seen, 0)
            add32(&self.sleeping, <uint32_t>-1)

    def finish(self, Task task, outcome, error, uint64_t started_ns) -> None:
        """Settle a task that `take` returned."""
        cdef uint64_t now = now_ns()
        cdef bint idle
        task.run_ns = now - started_ns
        self.running_time.add(task.run_ns)
        self.latency.add(now - task.submitted_ns)
        pthread_mutex_lock(&self.mutex)
        self.n_running -= 1
        if error is None:
            self.n_completed += 1
        else:
            self.n_failed += 1
        idle = not self.open and self.n_running == 0 and self.pending.length == 0
        pthread_mutex_unlock(&self.mutex)
        task.settle(outcome, error)
        if idle:
            self.on_idle()

    cdef int help(self, Task task, uint64_t deadline) except -1:
        # Running the task here would be faster, but on the wrong thread: thread-locals belong to the workers.
        cdef int reason = 0
        while not task.is_settled():
            store32(&task.parked, 1)
            fence()
            if task.is_settled():
                break
            with nogil:
                reason = sleep_on(&task.parked, 1, deadline)
            if reason == EINTR:
                PyErr_CheckSignals()
            elif reason == ETIMEDOUT:
                break
        return 0

    cdef void settled(self, Task task) noexcept:
        wake(&task.parked, WAKE_ALL)

    cdef bint is_running(self, Task task) noexcept:
        return task.slot == RUNS

    cdef bint withdraw(self, Task task) except -1:
        cdef bint withdrawn = False
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            self.pending.remove(task)
            self.n_cancelled += 1
            withdrawn = True
        pthread_mutex_unlock(&self.mutex)
        if withdrawn:
            task.function = None
            task.arguments = None
        return withdrawn

    def take_back(self, Task task):
        """Take a task that has not started, to run it on this thread: as `take` returns it; None when it started."""
        cdef bint taken = False
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            self.pending.remove(task)
            task.slot = RUNS
            self.n_running += 1
            taken = True
        pthread_mutex_unlock(&self.mutex)
        if not taken:
            return None
        function, arguments = task.function, task.arguments
        task.function = None
        task.arguments = None
        return task, function, arguments[0], arguments[1]

    @property
    def is_open(self) -> bool:
        """Whether new tasks are taken."""
        return self.open

    def cancel_queued(self, Task task) -> bool:
        """Take a task that has not started out of the queue; the caller settles it."""
        return self.withdraw(task)

    def fail(self, Task task, error) -> None:
        """Settle a task with an error before its function returns."""
        task.settle(None, error)

    def withdraw_all(self) -> list:
        """Take every task that has not started out of the queue and return them; the caller settles them."""
        cdef list found = []
        cdef Task task
        while True:
            pthread_mutex_lock(&self.mutex)
            task = self.pending.pop()
            if task is not None:
                self.n_cancelled += 1
            pthread_mutex_unlock(&self.mutex)
            if task is None:
                return found
            found.append(task)

    def close(self) -> None:
        """Take no more tasks; threads end when the queue is empty."""
        cdef bint idle
        pthread_mutex_lock(&self.mutex)
        self.open = False
        idle = self.n_running == 0 and self.pending.length == 0
        pthread_mutex_unlock(&self.mutex)
        add32(&self.work, 1)
        wake(&self.work, WAKE_ALL)
        if idle:
            self.on_idle()

    @property
    def unsettled(self) -> int:
        """Number of tasks that are queued or running."""
        return self.pending.length + self.n_running

    def counts(self) -> dict:
        """Read the counters: tasks by fate, queue length, running tasks."""
        return {
            "submitted": self.n_submitted, "completed": self.n_completed, "failed": self.n_failed,
            "cancelled": self.n_cancelled, "queued": self.pending.length, "running": self.n_running,
            "bytes_in": 0, "bytes_out": 0,
        }
