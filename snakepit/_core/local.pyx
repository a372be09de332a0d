# cython: language_level=3
"""Queueing for threads of the caller's own process: the functions and arguments themselves, no codec.

A thread without a task spins, then dozes, then sleeps, and a caller that waits spins for its outcome (decision 0032);
where there is a GIL nobody spins, for what comes needs it anyway.
"""
from libc.stdint cimport uint32_t, uint64_t

from snakepit._core.atomics cimport (
    EINTR, ETIMEDOUT, WAKE_ALL, add32, add64, fence, load32, load64, now_ns, pause, sleep_on, store32, store64, wake,
)
from snakepit._core.counters cimport Histogram
from snakepit._core.forks cimport forks
from snakepit._core.interrupts cimport (
    ASKED, ENDED, INTERRUPTED, LEFT_BEHIND, RUNS, Runner, hold, release,
)
from snakepit._core.mutex cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from snakepit._core.layout cimport DROWSY_NS
from snakepit._core.queue cimport PendingList
from snakepit._core.refs cimport share
from snakepit._core.spinning cimport FREE_THREADED, MOST_DOZES, SHORT_NS, first_sleep, next_spin
from snakepit._core.task cimport Owner, Task, deadline_after, refuse_in_child
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject

from snakepit._core.forks import end_child
from snakepit.errors import PoolShutdownError, TaskInterrupt

cdef extern from "Python.h":
    object call_object "PyObject_Call"(object function, object args, PyObject *kwargs)


cdef class LocalQueue(Owner):
    """`on_idle()` is called when the queue takes no more tasks and the last one is settled.

    `judge(task, function, outcome, error, asked)` gives the outcome and error of a task that failed or was asked to stop.
    """

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)

    def __init__(self, on_idle, judge, uint32_t cpus, uint64_t spin_limit_ns):
        self.cpus = cpus
        self.spin_limit_ns = self.call_spin_ns = spin_limit_ns
        self.pending = PendingList()
        self.latency = Histogram()
        self.running_time = Histogram()
        self.on_idle = on_idle
        self.judge = judge
        self.runners = []
        self.open = True

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    def set_terms(self, Task task, timeout, int priority, session) -> None:
        """Set what a call is run under: seconds or None, 0 (high) to 2 (low), session key or 0."""
        if timeout is not None:
            task.deadline_ns = deadline_after(timeout)
            task.timeout_ns = <uint64_t>(min(timeout, 1e9) * 1e9)
        task.priority = priority
        task.session = session
        task.session_key = session

    def adopt(self, Task call) -> None:
        """Have callers wait for `call` as for a task of this queue, though only attempts at it are queued."""
        call.owner = self

    def limit(self, uint64_t most_queued) -> None:
        """Refuse limited calls while `most_queued` wait for a thread; 0: never."""
        self.most_queued = most_queued

    def submit(self, Task task, function, tuple args, dict kwargs, bint limited=False) -> bool:
        """Queue a call. Raises PoolShutdownError, ForkedPoolError, what a pool that gave up raises.

        `limited`: False is returned, and nothing done, when as many calls wait as may.
        """
        cdef bint open_, given_up
        cdef bint full
        refuse_in_child(self)
        task.owner = self
        task.function = function
        task.arguments = args
        if kwargs:
            task.keywords = kwargs
            share(kwargs)
        share(function)
        share(args)
        task.submitted_ns = now_ns()
        task.number = add64(&self.next_number, 1) + 1
        pthread_mutex_lock(&self.mutex)
        open_ = self.open
        given_up = self.why_broken is not None
        # What a thread without a task is about to take does not wait.
        full = (limited and open_ and self.most_queued
                and self.pending.length + self.n_running >= self.most_queued + len(self.runners))
        if open_ and not given_up and not full:
            self.pending.append(task)
            share(task)
            self.n_submitted += 1
        pthread_mutex_unlock(&self.mutex)
        if given_up:
            raise self.why_broken()
        if not open_:
            raise PoolShutdownError("cannot schedule new futures after shutdown")
        if full:
            return False
        add32(&self.work, 1)
        self.call_thread()
        return True

    cdef void call_thread(self) noexcept:
        """See to it that a task which was queued is taken: by a thread that is about to look, or one that is woken."""
        fence()
        # Who searches looks at the queue after it has said that it does so no more, and calls for the next.
        if not load32(&self.sleeping) or load32(&self.searching):
            return
        # Waking costs more than a short task takes.
        if load32(&self.drowsy) and load64(&self.n_running) and load64(&self.typical_ns) < SHORT_NS:
            return
        wake(&self.work, 1)

    # -- running -------------------------------------------------------------------------------------------------------

    def enlist(self, Runner runner) -> None:
        """Know a thread that runs tasks, until `dismiss`."""
        runner.spin_ns = self.spin_limit_ns
        pthread_mutex_lock(&self.mutex)
        self.runners.append(runner)
        pthread_mutex_unlock(&self.mutex)

    def dismiss(self, Runner runner) -> None:
        """Forget a thread that runs no more tasks."""
        pthread_mutex_lock(&self.mutex)
        self.runners.remove(runner)
        pthread_mutex_unlock(&self.mutex)

    def look(self) -> list[tuple[int, int, list[tuple[int, object, int, int, int, bool]]]]:
        """Return what the threads do, for who looks at the pool: (ident, what `read_stack` takes, tasks) of each.

        Its tasks, innermost first, are (number, function, started, deadline, attempt, asked to stop); times are
        monotonic ns, a deadline of 0 is none.
        """
        cdef Runner runner
        cdef Task task
        cdef void *at
        cdef uint64_t started
        cdef list seen = [], found = []
        pthread_mutex_lock(&self.mutex)
        try:
            # Nothing is made here that the garbage collector counts: it could run code that needs the mutex.
            for runner in self.runners:
                seen.append(runner)
                at = runner.top
                while at != NULL:
                    seen.append(<Task>at)
                    seen.append((<Task>at).function)
                    at = (<Task>at).previous
        finally:
            pthread_mutex_unlock(&self.mutex)
        after = iter(seen)
        for item in after:
            if isinstance(item, Runner):
                runner = item
                tasks = []
                found.append((runner.ident, runner.state, tasks))
                continue
            task = item
            function = next(after)
            started = task.run_ns
            fence()
            # Once it has ended, that is not the time of its start any more.
            if load32(&task.slot) != ENDED:
                tasks.append(
                    (task.number, function, started, task.deadline_ns, task.attempt, load32(&task.slot) != RUNS)
                )
        return found

    def function_of(self, Task task) -> object:
        """What a task calls; None once it has ended."""
        pthread_mutex_lock(&self.mutex)
        function = task.function
        pthread_mutex_unlock(&self.mutex)
        return function

    cdef void start(self, Task task, Runner runner) noexcept:
        """Note that a thread runs the task now. Under the mutex, on that thread.

        An interrupt is held off from here to where the function is called (`run_started`).
        """
        hold()
        task.slot = RUNS
        task.previous = runner.top
        task.following = <void *>runner
        runner.top = <void *>task
        self.n_running += 1
        # Until it has run, the time is kept where it will be.
        task.run_ns = now_ns()

    def take(self, Runner runner not None) -> Task | None:
        """Wait for a task and start it on the calling thread; None when the queue is closed and empty."""
        cdef Task task
        cdef uint32_t seen
        cdef uint64_t idle_since = 0
        cdef int dozes = 0
        cdef bint more, over
        while True:
            seen = load32(&self.work)
            pthread_mutex_lock(&self.mutex)
            task = self.pending.pop()
            if task is not None:
                self.start(task, runner)
            more = self.pending.length > 0
            over = not self.open
            pthread_mutex_unlock(&self.mutex)
            if task is not None:
                if idle_since:
                    runner.spin_ns = next_spin(runner.spin_ns, task.run_ns - idle_since, self.spin_limit_ns)
                    if more:
                        self.call_thread()
                return task
            if over:
                return None
            if not idle_since:
                idle_since = now_ns()
                if FREE_THREADED:
                    with nogil:
                        self.search(seen, idle_since + runner.spin_ns)
                    continue
            with nogil:
                self.rest(seen, dozes)
            dozes += 1

    cdef void search(self, uint32_t seen, uint64_t until) noexcept nogil:
        """Spin until something is queued, if a CPU is left for it."""
        cdef int _turn
        # Beside the threads that run or search, and whoever brings the next call.
        if load64(&self.n_running) + add32(&self.searching, 1) + 2 <= self.cpus:
            while load32(&self.work) == seen and now_ns() < until:
                for _turn in range(16):
                    pause()
        add32(&self.searching, <uint32_t>-1)

    cdef void rest(self, uint32_t seen, int dozes) noexcept nogil:
        """Doze, or after some dozes sleep, until something is queued."""
        cdef bint drowsy = dozes < MOST_DOZES
        if drowsy:
            add32(&self.drowsy, 1)
        add32(&self.sleeping, 1)
        sleep_on(&self.work, seen, now_ns() + DROWSY_NS if drowsy else 0)
        add32(&self.sleeping, <uint32_t>-1)
        if drowsy:
            add32(&self.drowsy, <uint32_t>-1)

    cpdef bint take_back(self, Runner runner, Task task) except -1:
        """Start a task on the calling thread if no thread has started it; returns whether."""
        cdef bint taken = False
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            self.pending.remove(task)
            self.start(task, runner)
            taken = True
        pthread_mutex_unlock(&self.mutex)
        return taken

    def run(self, Runner runner not None, Task task) -> None:
        """Run a task that `take` returned, and settle it."""
        self.run_started(runner, task)

    def run_queued(self, Runner runner not None, Task task) -> None:
        """Run a task on the calling thread, which waits for it, if none has started it.

        Raises TaskInterrupt when the task that waits was interrupted meanwhile.
        """
        if self.take_back(runner, task) and self.run_started(runner, task):
            raise TaskInterrupt("the task was asked to stop while it ran another that it waited for")

    cdef bint run_started(self, Runner runner, Task task) except -1:
        """Returns whether a task that waits for this one on the same thread was interrupted."""
        cdef uint64_t started = task.run_ns
        cdef uint32_t state
        cdef bint idle = False, others
        function, arguments, keywords = task.function, task.arguments, task.keywords
        task.arguments = task.keywords = None
        outcome = error = None
        try:
            # What `start` held.
            release()
            outcome = call_object(function, arguments, NULL if keywords is None else <PyObject *>keywords)
        except BaseException as raised:
            error = raised
        if self.made_in != forks:
            # The task forked and this is the child: the queue and the calls that follow are its parent's.
            end_child(error)
        # Only C from the function's end to here, and so no interrupt (see `interrupts.pyx`).
        pthread_mutex_lock(&self.mutex)
        state = task.slot
        runner.top = task.previous
        others = is_interrupted(runner.top)
        if others or state == INTERRUPTED or state == LEFT_BEHIND:
            runner.withdraw()
        task.slot = ENDED
        task.previous = NULL
        task.following = NULL
        # Never the last reference, which is this function's: dropping that may run any code.
        task.function = None
        if state != LEFT_BEHIND:
            idle = self.count_end(error is not None)
        pthread_mutex_unlock(&self.mutex)
        # Only now: `look` may have read it until here.
        task.run_ns = now_ns() - started
        store64(&self.typical_ns, (7 * load64(&self.typical_ns) + task.run_ns) // 8)
        self.running_time.add(task.run_ns)
        self.latency.add(started + task.run_ns - task.submitted_ns)
        # What follows belongs to no task on this thread but those that wait for this one.
        hold()
        try:
            if error is not None or state != RUNS or others:
                outcome, error = self.judge(task, function, outcome, error, state != RUNS or others)
            del function, arguments, keywords
            task.settle(outcome, error)
        finally:
            if idle:
                self.on_idle()
            release()
        return others

    cdef bint count_end(self, bint failed) noexcept:
        """Count a task that is over; returns whether the queue is idle for good. Under the mutex."""
        self.n_running -= 1
        if failed:
            self.n_failed += 1
        else:
            self.n_completed += 1
        return not self.open and self.n_running == 0 and self.pending.length == 0

    # -- stopping ------------------------------------------------------------------------------------------------------

    def ask_to_stop(self, Task task) -> int:
        """Raise the cooperative flag of a running task: 1; 2 when it was up; 0 when the task does not run."""
        cdef int before = 0
        pthread_mutex_lock(&self.mutex)
        if task.slot == RUNS:
            task.slot = ASKED
            before = 1
        elif task.slot == ASKED or task.slot == INTERRUPTED:
            before = 2
        pthread_mutex_unlock(&self.mutex)
        return before

    def interrupt(self, Task task) -> bool:
        """Have TaskInterrupt raised in a task that was asked to stop; False when it is over."""
        cdef bint runs
        pthread_mutex_lock(&self.mutex)
        runs = task.slot == ASKED
        if runs:
            task.slot = INTERRUPTED
            (<Runner>task.following).send()
        pthread_mutex_unlock(&self.mutex)
        return runs

    def leave_behind(self, Task task) -> Runner | None:
        """Give up a task that does not stop, for its thread to end with it; the caller settles it.

        Returns the thread that runs it, None when it is over. A thread whose other task waits for this one is not
        given up (`Runner.left_behind`).
        """
        cdef Runner runner = None
        cdef bint idle = False
        pthread_mutex_lock(&self.mutex)
        if task.slot == ASKED or task.slot == INTERRUPTED:
            runner = <Runner>task.following
            task.slot = LEFT_BEHIND
            if task.previous == NULL:
                runner.left_behind = True
            idle = self.count_end(True)
        pthread_mutex_unlock(&self.mutex)
        if idle:
            self.on_idle()
        return runner

    def seconds_since_start(self, Task task) -> float:
        """For how long a task has run, or did."""
        cdef uint64_t ran = task.run_ns
        return (now_ns() - ran if task.slot < ENDED else ran) * 1e-9

    def is_queued(self, Task task) -> bool:
        """Whether no thread has started the task, and one still may."""
        return task.listed and self.made_in == forks

    def tasks_of_session(self, uint64_t session) -> list:
        """The unsettled tasks of a session, queued and running; 0: all that run."""
        cdef list found = []
        cdef void *at
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        try:
            if session:
                self.pending.add_session(session, found)
            for runner in self.runners:
                at = (<Runner>runner).top
                while at != NULL:
                    if not session or (<Task>at).session == session:
                        found.append(<Task>at)
                    at = (<Task>at).previous
        finally:
            pthread_mutex_unlock(&self.mutex)
        return [task for task in found if not task.done()]

    cdef int help(self, Task task, uint64_t deadline) except -1:
        # Running the task here would be faster, but on the wrong thread: thread-locals belong to the workers.
        cdef int reason = 0
        cdef uint64_t began, until
        refuse_in_child(self)
        began = now_ns()
        if FREE_THREADED:
            until = began + load64(&self.call_spin_ns)
            with nogil:
                self.watch(task, min(until, deadline) if deadline else until)
        until = first_sleep(deadline)
        while not task.is_settled():
            store32(&task.parked, 1)
            fence()
            if task.is_settled():
                break
            with nogil:
                reason = sleep_on(&task.parked, 1, until)
            if reason == EINTR or until != deadline:
                PyErr_CheckSignals()
            elif reason == ETIMEDOUT:
                break
            until = deadline
        store64(&self.call_spin_ns, next_spin(load64(&self.call_spin_ns), now_ns() - began, self.spin_limit_ns))
        return 0

    cdef void watch(self, Task task, uint64_t until) noexcept nogil:
        """Spin until the task is settled, if a CPU is left for it."""
        cdef int _turn
        # Beside whoever runs it, or is about to.
        if max(1, load64(&self.n_running) + load32(&self.searching)) + add32(&self.watching, 1) + 1 <= self.cpus:
            while not task.is_settled() and now_ns() < until:
                for _turn in range(16):
                    pause()
        add32(&self.watching, <uint32_t>-1)

    cdef void settled(self, Task task) noexcept:
        wake(&task.parked, WAKE_ALL)

    cdef bint is_running(self, Task task) noexcept:
        return RUNS <= task.slot <= INTERRUPTED

    cdef bint withdraw(self, Task task) except -1:
        cdef bint withdrawn = False
        cdef object _function = None  # dropped at the end, without the mutex
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        if task.listed:
            self.pending.remove(task)
            self.n_cancelled += 1
            _function, task.function = task.function, None
            withdrawn = True
        pthread_mutex_unlock(&self.mutex)
        if withdrawn:
            task.arguments = task.keywords = None
        return withdrawn

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

    def give_up(self, why_broken) -> None:
        """Queue nothing more: the error `why_broken()` is raised instead; `withdraw_all` after it overlooks no call."""
        refuse_in_child(self)
        pthread_mutex_lock(&self.mutex)
        self.why_broken = why_broken
        pthread_mutex_unlock(&self.mutex)

    def withdraw_all(self, bint failed=False) -> list:
        """Take every task that has not started out of the queue and return them; the caller settles them.

        They count as cancelled, or as failed.
        """
        cdef list found = []
        cdef Task task
        refuse_in_child(self)
        while True:
            pthread_mutex_lock(&self.mutex)
            task = self.pending.pop()
            if task is not None:
                self.n_failed += failed
                self.n_cancelled += not failed
            pthread_mutex_unlock(&self.mutex)
            if task is None:
                return found
            found.append(task)

    def close(self) -> None:
        """Take no more tasks; threads end when the queue is empty."""
        cdef bint idle
        refuse_in_child(self)
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


cdef bint is_interrupted(void *at) noexcept:
    """Whether this task, or one that waits for it on the same thread, was interrupted."""
    while at != NULL:
        if (<Task>at).slot == INTERRUPTED or (<Task>at).slot == LEFT_BEHIND:
            return True
        at = (<Task>at).previous
    return False
