# cython: language_level=3
"""Raising TaskInterrupt in a thread of this process, and never outside the task that it is meant for.

PyThreadState_SetAsyncExc leaves an exception with a thread, which raises it when it next looks between two bytecodes.
Three rules make that safe:

* It is left only under the queue's mutex and only while the task runs; the task's end is noted under the same mutex and
  takes back what was not raised yet. Between the function's last bytecode and that point only C runs (`LocalQueue.run`),
  so nothing looks.
* Where this package does something for a task that must not be left half done, or does something for other tasks on its
  thread, the interrupt is held (`hold`, `release`, `HELD`) and comes right after.
* A task that runs on the thread of another which waits for it shares its fate: interrupted is what runs, and then, when
  control is back, the one that waits (`LocalQueue.run_queued`).
"""
from cpython.exc cimport PyErr_SetFromErrno
from cpython.pystate cimport PyThreadState_Get

from snakepit._core.atomics cimport load32
from snakepit._core.forks cimport forks
from snakepit._core.layout cimport STOP_MASK
from snakepit._core.task cimport Task

from snakepit.errors import TaskInterrupt

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030d0000 && !defined(Py_CPYTHON_PYSTATE_H)
    #include "pystate.h"
    #endif
    static __thread void *sp_runner;
    static void *sp_get_runner(void) { return sp_runner; }
    static void sp_set_runner(void *runner) { sp_runner = runner; }
    #if PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
    #include <signal.h>
    /* _PY_SIGNALS_PENDING_BIT in CPython 3.13's pycore_ceval.h. */
    #define SP_SIGNALS_PENDING ((uintptr_t)1 << 1)
    static PyThreadState *sp_heeder;
    static int *sp_forks, sp_heeder_forks;
    static void (*sp_handler)(int);
    static void sp_handle(int number) {
        sp_handler(number);
        /* A child that another thread of this process forks has the state no more. */
        if (*sp_forks == sp_heeder_forks)
            __atomic_fetch_or(&sp_heeder->eval_breaker, SP_SIGNALS_PENDING, __ATOMIC_RELEASE);
    }
    static int sp_heed(int number, int *forks) {
        struct sigaction action;
        if (sigaction(number, NULL, &action)) return -1;
        if (action.sa_handler == sp_handle) return 0;
        sp_forks = forks;
        sp_heeder_forks = *forks;
        sp_heeder = PyThreadState_Get();
        sp_handler = action.sa_handler;
        action.sa_handler = sp_handle;
        return sigaction(number, &action, NULL);
    }
    #else
    static int sp_heed(int number, int *forks) { (void)number; (void)forks; return 0; }
    #endif
    /* Whether an exception that another thread left is still to be raised in this one. */
    static int sp_is_pending(void) { return __atomic_load_n(&PyThreadState_Get()->async_exc, __ATOMIC_ACQUIRE) != NULL; }
    """
    void *get_runner "sp_get_runner"() nogil
    void set_runner "sp_set_runner"(void *runner) nogil
    bint is_pending "sp_is_pending"()
    int sp_heed(int number, int *forks)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil
    int PyThreadState_SetAsyncExc(unsigned long ident, void *exception)

# For the life of the process, so that no decrement is ever the last.
cdef object interrupt = TaskInterrupt


cdef class Runner:
    """The running thread, as one that runs tasks. Make it there, and keep it until the thread ends."""

    def __cinit__(self):
        mutex_init(&self.mutex, NULL)
        self.ident = PyThread_get_thread_ident()
        self.state = <size_t>PyThreadState_Get()
        self.top = NULL
        self.word = NULL
        set_runner(<void *>self)

    def __dealloc__(self):
        if get_runner() == <void *>self:
            set_runner(NULL)
        mutex_destroy(&self.mutex)

    @property
    def thread(self) -> int:
        """The thread's `threading.get_ident()`."""
        return self.ident

    cdef void send(self) noexcept:
        """Have TaskInterrupt raised in the thread; by the queue, under its mutex, while the task runs."""
        mutex_lock(&self.mutex)
        if self.holds:
            self.owed = True
        else:
            PyThreadState_SetAsyncExc(self.ident, <void *>interrupt)
        mutex_unlock(&self.mutex)

    cdef bint withdraw(self) noexcept:
        """Take back what was sent and not raised yet, in the thread itself; False when it was raised."""
        cdef bint pending
        mutex_lock(&self.mutex)
        pending = self.owed or is_pending()
        self.owed = False
        PyThreadState_SetAsyncExc(self.ident, NULL)
        mutex_unlock(&self.mutex)
        return pending


cdef void hold() noexcept:
    """Put off an interrupt of this thread until `release`."""
    cdef Runner runner
    if get_runner() == NULL:
        return
    runner = <Runner>get_runner()
    mutex_lock(&runner.mutex)
    runner.holds += 1
    if is_pending():
        PyThreadState_SetAsyncExc(runner.ident, NULL)
        runner.owed = True
    mutex_unlock(&runner.mutex)


cdef int release() except -1:
    """End what `hold` began; raises TaskInterrupt if one came meanwhile."""
    cdef Runner runner
    cdef bint due
    if get_runner() == NULL:
        return 0
    runner = <Runner>get_runner()
    mutex_lock(&runner.mutex)
    runner.holds -= 1
    due = runner.owed and runner.holds == 0
    if due:
        runner.owed = False
    mutex_unlock(&runner.mutex)
    if due:
        raise TaskInterrupt("the task was asked to stop")
    return 0


cdef class Held:
    """A context in which no interrupt is raised in this thread; it comes at the end."""

    def __enter__(self):
        hold()

    def __exit__(self, *_error):
        release()


HELD = Held()


def heed(int number) -> None:
    """Have the running thread, a forked child's only one, meet the handler of a signal between any two bytecodes.

    To be called when the handler is set. CPython does so by itself, but not 3.13 in a child that was forked by another
    thread than the main one: there a signal marks the state of the parent's main thread, which is no more, and a loop
    in pure Python never looks. So the handler in C, CPython's own, is followed by a mark on the state of this thread.
    """
    if sp_heed(number, &forks) < 0:
        PyErr_SetFromErrno(OSError)


def session_of_task() -> int:
    """The key of the session of the task that this thread runs; 0 without one."""
    cdef Runner runner
    if get_runner() == NULL:
        return 0
    runner = <Runner>get_runner()
    # Only this thread changes it.
    return (<Task>runner.top).session if runner.top != NULL else 0


def interrupt_owed() -> bool:
    """Whether an interrupt of this thread waits for the end of what holds it."""
    return get_runner() != NULL and (<Runner>get_runner()).owed


def stop_requested() -> bool:
    """Whether the task that this thread runs, or one that waits for it here, was asked to stop."""
    cdef Runner runner
    cdef void *at
    if get_runner() == NULL:
        return False
    runner = <Runner>get_runner()
    if runner.word != NULL and load32(runner.word) & STOP_MASK:
        return True
    # Only this thread changes the chain, so it may read it without the mutex.
    at = runner.top
    while at != NULL:
        if ASKED <= (<Task>at).slot <= LEFT_BEHIND:
            return True
        at = (<Task>at).previous
    return False
