# cython: language_level=3
"""The lifeline: a worker that ends when its owner does, whatever it is doing.

The worker reads a pipe whose only writer is the owner. A native thread, with no interpreter state, sleeps on it, so
that even a task that never gives the GIL back cannot outlive the owner; the whole process group ends with the worker.
(PR_SET_PDEATHSIG alone would not do: it is bound to the thread that forked, and is lost when that thread ends.)
"""
from snakepit._core.points cimport WORKER_WATCHED, point

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <unistd.h>

    static void *sp_watch(void *argument) {
        struct pollfd watched = {(int)(intptr_t)argument, POLLIN, 0};
        char byte;
        for (;;) {
            if (poll(&watched, 1, -1) < 0 && errno == EINTR) continue;
            if (read(watched.fd, &byte, 1) > 0) continue;
            if (getpgrp() == getpid()) kill(0, SIGKILL);
            _exit(1);
        }
        return 0;
    }
    static int sp_start_watch(int fd) {
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
        status = pthread_create(&thread, &attributes, sp_watch, (void *)(intptr_t)fd);
        pthread_sigmask(SIG_SETMASK, &before, 0);
        pthread_attr_destroy(&attributes);
        return status;
    }
    """
    int start_watch "sp_start_watch"(int fd)


def hold_lifeline(int fd) -> None:
    """End this process, and its process group if it leads one, when the other end of the pipe `fd` is closed."""
    status = start_watch(fd)
    if status:
        raise OSError(status, "cannot start the lifeline thread")
    point(WORKER_WATCHED)
