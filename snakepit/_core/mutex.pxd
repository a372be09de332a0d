# cython: language_level=3
"""The mutex of POSIX threads: for what is short and never runs Python code while it is held.

It knows nothing of the GIL, and so holds on builds without one; and a signal handler, which runs between bytecodes, never
meets it held by its own thread.
"""

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
