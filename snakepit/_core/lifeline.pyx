# cython: language_level=3
"""The lifeline: a worker that ends when its owner does, whatever it is doing, with all that it started.

The worker reads a pipe whose only writer is the owner. A native thread, with no interpreter state, sleeps on it, so
that even a task that never gives the GIL back cannot outlive the owner; its descendants and its process group end with
the worker. (PR_SET_PDEATHSIG alone would not do: it is bound to the thread that forked, and is lost when that ends.)

Descendants are found in /proc by their parents' pids: also those in sessions of their own. They are stopped first,
until a look finds no new ones, so that none can fork away from the kill. Each is signalled through a pidfd that is
opened before its parent is compared again: a pid that passes to somebody else between the look and the signal is spared.
"""
from snakepit._core.points cimport WORKER_WATCHED, point

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    #ifdef __linux__
    #include <stdio.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #ifndef SYS_pidfd_open
    #define SYS_pidfd_send_signal 424
    #define SYS_pidfd_open 434
    #endif

    enum { SP_FIRST = 4096, SP_ROUNDS = 64 };

    struct sp_process { int pid, parent; char state; int member; };

    /* Static: a native thread's stack is small, and memory may be short. One sweep at a time. A host with more processes
       gets a table of its own; our descendants are the newest, and stand last in /proc. Column `member` is an array
       apart: the pids of the family that are known so far. */
    static struct sp_process sp_first[SP_FIRST], *sp_table = sp_first;
    static int sp_most = SP_FIRST;
    static pthread_mutex_t sp_sweeping = PTHREAD_MUTEX_INITIALIZER;

    static int sp_grow(void) {
        size_t size = sp_most * sizeof *sp_table;
        struct sp_process *table = mmap(0, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (table == MAP_FAILED) return 0;
        memcpy(table, sp_table, size);
        if (sp_table != sp_first) munmap(sp_table, size);
        sp_table = table;
        sp_most *= 2;
        return 1;
    }

    /* No malloc and no stdio streams: the thread that holds their locks may be stuck. */
    static int sp_look(int pid, struct sp_process *out) {
        char path[32], text[512], *end;
        int fd;
        ssize_t got;
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return 0;
        got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got <= 0) return 0;
        text[got] = 0;
        end = strrchr(text, ')');  /* the name before it may hold anything */
        if (!end || end[1] != ' ' || !end[2]) return 0;
        out->pid = pid;
        out->state = end[2];
        out->parent = atoi(end + 3);
        return 1;
    }

    static int sp_snapshot(void) {
        struct sp_entry { uint64_t ino; int64_t off; unsigned short length; unsigned char type; char name[]; };
        char buffer[8192];
        long got, at;
        int count = 0, fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) return 0;
        while ((got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
            for (at = 0; at < got;) {
                struct sp_entry *entry = (struct sp_entry *)(buffer + at);
                int pid = atoi(entry->name);
                at += entry->length;
                if (pid > 1 && (count < sp_most || sp_grow()) && sp_look(pid, &sp_table[count])) count++;
            }
        close(fd);
        return count;
    }

    static int sp_hit(const struct sp_process *who, int sig) {
        struct sp_process now;
        int done, pidfd = (int)syscall(SYS_pidfd_open, who->pid, 0);
        if (pidfd < 0) {
            if (errno != ENOSYS) return 0;
            return kill(who->pid, sig) == 0;
        }
        done = sp_look(who->pid, &now) && now.parent == who->parent
               && syscall(SYS_pidfd_send_signal, pidfd, sig, 0, 0) == 0;
        close(pidfd);
        return done;
    }

    static int sp_in_family(int pid, int members) {
        int i;
        for (i = 0; i < members; i++) if (sp_table[i].member == pid) return 1;
        return 0;
    }

    /* Send a signal to every living descendant; returns how many there were. */
    static int sp_signal_descendants(int sig, char skip) {
        int count = sp_snapshot(), members = 1, hit = 0, grew = 1, i;
        sp_table[0].member = getpid();
        while (grew) {
            grew = 0;
            for (i = 0; i < count; i++)
                if (sp_table[i].parent > 1 && sp_in_family(sp_table[i].parent, members)
                        && !sp_in_family(sp_table[i].pid, members) && members < sp_most) {
                    sp_table[members++].member = sp_table[i].pid;
                    if (sp_table[i].state != 'Z' && sp_table[i].state != 'X' && sp_table[i].state != skip)
                        hit += sp_hit(&sp_table[i], sig);
                    grew = 1;
                }
        }
        return hit;
    }

    static int sp_end_descendants(void) {
        int round, ended;
        /* Whoever is stopped must be killed: nothing may end this process in between. An owner's end orphans the group
           of a worker that it forked itself, and the kernel sends SIGHUP to an orphaned group with a stopped member. */
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        pthread_mutex_lock(&sp_sweeping);
        for (round = 0; round < SP_ROUNDS && sp_signal_descendants(SIGSTOP, 'T'); round++) ;
        ended = sp_signal_descendants(SIGKILL, 0);
        pthread_mutex_unlock(&sp_sweeping);
        return ended;
    }

    static int sp_become_subreaper(void) {
        return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) ? errno : 0;
    }
    #else
    static int sp_end_descendants(void) { return 0; }
    static int sp_become_subreaper(void) { return ENOSYS; }
    #endif

    static void sp_end(void) {
        sp_end_descendants();
        if (getpgrp() == getpid()) kill(0, SIGKILL);
        _exit(1);
    }

    static int sp_start(void *(*body)(void *), void *argument) {
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

    #define SP_NOTICE_MS 20
    static int sp_grace, sp_notice;  /* of a process's one lifeline: milliseconds, a signal */

    static void *sp_watch(void *argument) {
        struct pollfd watched = {(int)(intptr_t)argument, POLLIN, 0};
        char byte;
        for (;;) {
            if (poll(&watched, 1, -1) < 0 && errno == EINTR) continue;
            if (read(watched.fd, &byte, 1) > 0) continue;
            /* More than once: one that comes while the main thread is about to sleep would be seen when it wakes.
               Whatever becomes of the signals, the sleep has an end: every signal is blocked here. */
            for (int left = sp_grace; left > 0; left -= SP_NOTICE_MS) {
    #ifdef __linux__
                syscall(SYS_tgkill, getpid(), getpid(), sp_notice);
    #else
                kill(getpid(), sp_notice);
    #endif
                poll(0, 0, left < SP_NOTICE_MS ? left : SP_NOTICE_MS);
            }
            sp_end();
        }
        return 0;
    }
    static int sp_start_watch(int fd, int grace, int notice) {
        sp_grace = grace;
        sp_notice = notice;
        return sp_start(sp_watch, (void *)(intptr_t)fd);
    }

    /* A guard watches a socket without reading it, and goes when its own end of a pipe is closed. */
    static void *sp_guard(void *argument) {
        int socket = (int)((intptr_t)argument >> 32), pipe = (int)((intptr_t)argument & 0x7fffffff);
        struct pollfd watched[2] = {{socket, 0, 0}, {pipe, POLLIN, 0}};
        while (poll(watched, 2, -1) < 0 && errno == EINTR) ;
        if (!watched[1].revents && watched[0].revents) sp_end();
        close(pipe);
        return 0;
    }
    static int sp_start_guard(int socket, int pipe) {
        return sp_start(sp_guard, (void *)(((intptr_t)socket << 32) | pipe));
    }
    """
    int start_watch "sp_start_watch"(int fd, int grace, int notice)
    int start_guard "sp_start_guard"(int socket, int pipe)
    int c_end_descendants "sp_end_descendants"()
    int c_become_subreaper "sp_become_subreaper"()


def hold_lifeline(int fd, int grace=0, int notice=0) -> None:
    """End this process, its descendants and the process group it leads when the pipe `fd` has no writer any more.

    `grace`: milliseconds between that and the end, in which the main thread gets the signal `notice` again and again.
    """
    status = start_watch(fd, grace, notice)
    if status:
        raise OSError(status, "cannot start the lifeline thread")
    point(WORKER_WATCHED)


def guard(int socket, int pipe) -> None:
    """Do as `hold_lifeline` when the peer of `socket` goes, until the writing end of `pipe` is closed.

    The guard owns the reading end `pipe`, and closes it as the last that it does.
    """
    status = start_guard(socket, pipe)
    if status:
        raise OSError(status, "cannot start the guard's thread")


def end_descendants() -> int:
    """Kill every process that descends from this one, which is about to end itself; return how many. Only on Linux."""
    cdef int ended
    with nogil:
        ended = c_end_descendants()
    return ended


def become_subreaper() -> bool:
    """Make this process the parent of its descendants whose own parents end; False where that is not possible."""
    return c_become_subreaper() == 0
