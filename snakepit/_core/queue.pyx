# cython: language_level=3
"""The pending list; the rings are inline in `queue.pxd`."""
from cpython.ref cimport Py_DECREF, Py_INCREF

from libc.stdint cimport uint64_t

from snakepit._core.layout cimport PRIORITIES
from snakepit._core.task cimport Task


cdef class PendingList:
    def __len__(self) -> int:
        return self.length

    cdef void append(self, Task task) noexcept:
        cdef int priority = task.priority
        Py_INCREF(task)
        task.previous = self.last[priority]
        task.following = NULL
        if self.last[priority] != NULL:
            (<Task>self.last[priority]).following = <void *>task
        else:
            self.first[priority] = <void *>task
        self.last[priority] = <void *>task
        task.listed = True
        self.length += 1

    cdef void put_back(self, Task task) noexcept:
        """Return a task that was just popped to the head of its list."""
        cdef int priority = task.priority
        Py_INCREF(task)
        task.previous = NULL
        task.following = self.first[priority]
        if task.following != NULL:
            (<Task>task.following).previous = <void *>task
        else:
            self.last[priority] = <void *>task
        self.first[priority] = <void *>task
        task.listed = True
        self.length += 1

    cdef void remove(self, Task task) noexcept:
        cdef int priority = task.priority
        if task.previous != NULL:
            (<Task>task.previous).following = task.following
        else:
            self.first[priority] = task.following
        if task.following != NULL:
            (<Task>task.following).previous = task.previous
        else:
            self.last[priority] = task.previous
        task.previous = NULL
        task.following = NULL
        task.listed = False
        self.length -= 1
        # Never the last reference: the caller holds one.
        Py_DECREF(task)

    cdef Task pop(self):
        """The next task, highest priority first except every `LOW_TURN`th time; None when there is none."""
        cdef int i, priority
        cdef Task task
        if self.length == 0:
            return None
        self.turns += 1
        for i in range(PRIORITIES):
            priority = PRIORITIES - 1 - i if self.turns % LOW_TURN == 0 else i
            if self.first[priority] != NULL:
                task = <Task>self.first[priority]
                self.remove(task)
                return task
        return None

    cdef int add_session(self, uint64_t session, list found) except -1:
        """Add to `found` the listed tasks of a session."""
        cdef int priority
        cdef void *at
        for priority in range(PRIORITIES):
            at = self.first[priority]
            while at != NULL:
                if (<Task>at).session == session:
                    found.append(<Task>at)
                at = (<Task>at).following
        return 0

    def __dealloc__(self):
        while self.length:
            self.pop()
