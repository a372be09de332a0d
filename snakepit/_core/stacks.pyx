# cython: language_level=3
"""Python stacks on request: of a thread of this process, and of a worker, asked through its pool's control block.

    reader                            worker's native thread
    asked += 1, rung += 1, wake  --->  copy the frames of the thread that runs the lane's tasks (stacks.h)
                                       sequence odd, text, sequence even
    copy text           <-- futex ---  answered = asked

The native thread has no interpreter state and takes no signal, so it answers while the task holds the GIL in C, and the
task notices nothing: no signal, no interrupted system call. A worker that is stopped does not answer; the reader gives
up. Without a request the thread sleeps for good, in a stack of 64 KB. It answers for all lanes of its worker, each with
a page of its own: who asks rings the word of the first (`StackPage.server`).
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pystate cimport PyThreadState_Get
from libc.stdint cimport uint32_t, uintptr_t
from libc.stdlib cimport calloc

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

# Of the process, which is one worker: whose stacks it shows, and where.
cdef uintptr_t *shown = NULL
cdef StackPage *pages = NULL
cdef uint32_t n_pages = 0
cdef Control held = None                # keeps the pages mapped


cdef void *answer_requests(void *argument) noexcept nogil:
    cdef uint32_t rung, asked, flags, i
    cdef bint some
    cdef StackPage *page
    while True:
        rung = load32(&pages[0].rung)
        some = False
        for i in range(n_pages):
            page = &pages[i]
            asked = load32(&page.asked)
            if asked == page.answered:
                continue
            some = True
            page.sequence += 1
            fence()
            page.length = <uint32_t>sp_stack(shown[i], page.text, STACK_BYTES - 64, &flags)
            page.flags = flags
            store32(&page.sequence, page.sequence + 1)
            store32(&page.answered, asked)
            wake(&page.answered, WAKE_ALL)
        if not some:
            sleep_on(&pages[0].rung, rung, 0)
    return NULL


def serve_stacks(Control control, uint32_t lane, int pid, uint32_t threads=1) -> None:
    """Answer, from a native thread, who asks for the stacks of a worker's threads, whose lanes begin with `lane`.

    A worker's only thread is the calling one; of several, each says `show_stack` before it runs tasks.
    """
    global shown, pages, n_pages, held
    cdef uint32_t i
    held = control
    # For the life of the process, like the thread that reads it.
    shown = <uintptr_t *>calloc(threads, sizeof(uintptr_t))
    if shown == NULL:
        raise MemoryError
    pages = &control.stacks[lane]
    n_pages = threads
    for i in range(threads):
        # One who died in the middle of an answer leaves it odd.
        pages[i].sequence = (pages[i].sequence + 1) & ~(<uint32_t>1)
        pages[i].server = lane
        store32(&pages[i].answered, load32(&pages[i].asked))
    if threads == 1:
        shown[0] = <uintptr_t>PyThreadState_Get()
    status = start_thread(answer_requests, NULL)
    if status:
        raise OSError(status, "cannot start the thread that shows this worker's stack")
    if threads == 1:
        pages[0].pid = pid


def show_stack(uint32_t lane, int pid) -> None:
    """Show the calling thread to who asks for the stack of this worker's `lane`."""
    cdef uint32_t at = lane - pages[0].server
    shown[at] = <uintptr_t>PyThreadState_Get()
    pages[at].pid = pid


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
