# cython: language_level=3
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "pthread.h" nogil:
    ctypedef struct mutex_t "pthread_mutex_t":
        pass
    int mutex_init "pthread_mutex_init"(mutex_t *mutex, void *attributes)
    int mutex_lock "pthread_mutex_lock"(mutex_t *mutex)
    int mutex_unlock "pthread_mutex_unlock"(mutex_t *mutex)
    int mutex_destroy "pthread_mutex_destroy"(mutex_t *mutex)


# What a task that a thread of this process runs has come to: `Task.slot` of such a task.
cdef enum:
    RUNS = 1
    ASKED = 2                           # the cooperative flag is up
    INTERRUPTED = 3                     # TaskInterrupt was sent to its thread
    LEFT_BEHIND = 4                     # given up; its thread has been replaced
    ENDED = 5


cdef class Runner:
    """A thread that runs tasks, seen from whoever interrupts it (see `interrupts.pyx`)."""
    cdef mutex_t mutex
    cdef unsigned long ident
    cdef size_t state                   # the address of its thread state, for `stacks.read_stack`
    cdef void *top                      # the innermost running task; linked through `Task.previous`, under the queue's
                                        # mutex
    cdef int holds                      # sections that must not be broken, under way
    cdef bint owed                      # an interrupt came during one
    cdef uint32_t *word                 # of a worker's thread: the stop word of the task that it runs, or NULL
    cdef uint64_t spin_ns               # how long the thread spins for its next task (`LocalQueue.take`)
    cdef readonly bint left_behind      # replaced by another thread: it ends with its task
    cdef public object replace          # starts the thread that takes its place

    cdef void send(self) noexcept
    cdef bint withdraw(self) noexcept


cdef void hold() noexcept
cdef int release() except -1
