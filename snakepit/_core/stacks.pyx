# cython: language_level=3
"""Python stacks on request: of a thread of this process, and of a worker, asked through its pool's control block.

    reader                            worker's native thread
    asked += 1, wake    --- futex -->  copy the frames of the thread that runs tasks (stacks.h)
                                       sequence odd, text, sequence even
    copy text           <-- futex ---  answered = asked

The native thread has no interpreter state and takes no signal, so it answers while the task holds the GIL in C, and the
task notices nothing: no signal, no interrupted system call. A worker that is stopped does not answer; the reader gives
up. Without a request the thread sleeps for good, in a stack of 64 KB.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pystate cimport PyThreadState_Get
from libc.stdint cimport uint32_t, uintptr_t

from snakepit._core.atomics cimport WAKE_ALL, fence, load32, sleep_on, store32, wake
from snakepit._core.control cimport Control
from snakepit._core.layout cimport STACK_BYTES, StackPage

cdef extern from "stacks.h" nogil:
    size_t sp_stack(uintptr_t tstate, char *text, size_t room, uint32_t *flags)
    enum: SP_STACK_WHOLE
    enum: SP_STACK_MOVED
    enum: SP_STACK_REFUSED
    enum: SP_STACK_UNKNOWN

cdef extern from * nogil:
    """
    #include <pthread.h>
    #include <signal.h>

    static int sp_start_thread(void *(*body)(void *), void *argument) {
        pthread_t thread;
        pthread_attr_t attributes;
        sigset_t all, before;
        int status;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 65536);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        /* Signals belong to the thread that runs Python. */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        status = pthread_create(&thread, &attributes, body, argument);
        pthread_sigmask(SIG_SETMASK, &before, 0);
        pthread_attr_destroy(&attributes);
        return status;
    }
    """
    int start_thread "sp_start_thread"(void *(*body)(void *) noexcept nogil, void *argument)

WHOLE = SP_STACK_WHOLE
MOVED = SP_STACK_MOVED
REFUSED = SP_STACK_REFUSED
UNKNOWN = SP_STACK_UNKNOWN

# Of the process, which is one worker: whose stack it shows, and where.
cdef uintptr_t shown = 0
cdef StackPage *page = NULL
cdef Control held = None                # keeps the page mapped


cdef void *answer_requests(void *argument) noexcept nogil:
    cdef uint32_t asked, flags, answered = load32(&page.answered)
    while True:
        asked = load32(&page.asked)
        if asked == answered:
            sleep_on(&page.asked, asked, 0)
            continue
        page.sequence += 1
        fence()
        page.length = <uint32_t>sp_stack(shown, page.text, STACK_BYTES - 64, &flags)
        page.flags = flags
        store32(&page.sequence, page.sequence + 1)
        answered = asked
        store32(&page.answered, asked)
        wake(&page.answered, WAKE_ALL)
    return NULL


def serve_stacks(Control control, uint32_t lane, int pid) -> None:
    """Answer, from a native thread, who asks for the stack of the calling thread, which runs the tasks of `lane`."""
    global shown, page, held
    held = control
    shown = <uintptr_t>PyThreadState_Get()
    page = &control.stacks[lane]
    # One who died in the middle of an answer leaves it odd.
    page.sequence = (page.sequence + 1) & ~(<uint32_t>1)
    store32(&page.answered, load32(&page.asked))
    status = start_thread(answer_requests, NULL)
    if status:
        raise OSError(status, "cannot start the thread that shows this worker's stack")
    page.pid = pid


def this_thread() -> int:
    """Return what `read_stack` takes for the calling thread."""
    return <uintptr_t>PyThreadState_Get()


def read_stack(uintptr_t thread) -> tuple[int, bytes]:
    """Return (flags, text) of a thread of this process, whether or not it still exists.

    The text is a sequence of file, line and function, innermost first, each ended by a zero byte. `flags`: WHOLE if no
    frame is missing at its end, MOVED if the thread was too fast for an exact copy, REFUSED if the system does not let
    this process read its own memory so, UNKNOWN if there is nothing to read or this Python is not known.
    """
    cdef char text[STACK_BYTES - 64]
    cdef uint32_t flags
    cdef size_t length
    with nogil:
        length = sp_stack(thread, text, sizeof(text), &flags)
    return flags, PyBytes_FromStringAndSize(text, length)
