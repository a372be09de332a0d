# cython: language_level=3
"""Named points of the protocol, at which a test stops, kills or crashes a worker.

Only in the debug build: in the release build `point` is a macro for nothing and no module that passes a point loads
this one. The points' state lies in a file that the environment variable SNAKEPIT_POINTS names and every process of the
pool maps; `points.pyx` arms them.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <signal.h>
    #include <stdint.h>
    #include <unistd.h>

    #define SP_POINTS 128
    #define SP_KILL_OTHER 64            /* actions below are signals that the process sends itself */
    #define SP_WAIT 65
    #define SP_IN_WORKERS 0x100         /* who an armed point is for: the first bits above the action */
    #define SP_IN_OWNER 0x200
    #define SP_SIGNAL_SHIFT 16          /* ... and above them the signal that goes to another */

    /* Entry 0 is no point: its target is the owner's pid. */
    struct sp_entry {
        uint64_t passes;
        int64_t countdown;              /* the action is done when it is 1 on passing */
        uint32_t action;                /* 0: not armed */
        int32_t target;
        uint32_t fired;
        int32_t fired_pid;
    };

    #if SNAKEPIT_DEBUG
    #include <errno.h>
    #include <fcntl.h>
    #include <stdlib.h>
    #include <sys/mman.h>

    static struct sp_entry *sp_points;   /* one mapping for each module: nothing to link, nothing to lock */

    static void sp_attach_points(void) {
        const char *path = getenv("SNAKEPIT_POINTS");
        int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
        void *at;
        if (fd < 0) return;
        at = mmap(0, SP_POINTS * sizeof(struct sp_entry), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        if (at != MAP_FAILED) __atomic_store_n(&sp_points, (struct sp_entry *)at, __ATOMIC_RELEASE);
    }
    static void sp_point(int number) {
        struct sp_entry *entry;
        uint32_t action;
        int saved = errno, who;
        if (!sp_points) sp_attach_points();
        if (!sp_points) { errno = saved; return; }
        entry = &sp_points[number];
        __atomic_fetch_add(&entry->passes, 1, __ATOMIC_SEQ_CST);
        action = __atomic_load_n(&entry->action, __ATOMIC_ACQUIRE);
        who = getpid() == sp_points[0].target ? SP_IN_OWNER : SP_IN_WORKERS;
        if (action & who && __atomic_fetch_sub(&entry->countdown, 1, __ATOMIC_SEQ_CST) == 1) {
            entry->fired_pid = getpid();
            if ((action & 0xff) != SP_WAIT) __atomic_store_n(&entry->action, 0, __ATOMIC_RELEASE);
            __atomic_fetch_add(&entry->fired, 1, __ATOMIC_SEQ_CST);
            switch (action & 0xff) {
            case SP_KILL_OTHER:
                kill(entry->target, (int)(action >> SP_SIGNAL_SHIFT));
                usleep(1000);           /* long enough for the death to be seen from here */
                break;
            case SP_WAIT:
                while (__atomic_load_n(&entry->action, __ATOMIC_ACQUIRE)) usleep(200);
                break;
            default:
                raise((int)(action & 0xff));    /* kill() might choose another thread */
            }
        }
        errno = saved;
    }
    #else
    #define sp_point(number) ((void)0)
    #endif
    """
    void point "sp_point"(int number)
    enum: POINTS "SP_POINTS"
    enum: KILL_OTHER "SP_KILL_OTHER"
    enum: WAIT "SP_WAIT"
    enum: IN_WORKERS "SP_IN_WORKERS"
    enum: IN_OWNER "SP_IN_OWNER"
    enum: SIGNAL_SHIFT "SP_SIGNAL_SHIFT"
    enum: COMPILED_IN "SNAKEPIT_DEBUG"
    struct Entry "sp_entry":
        uint64_t passes
        int64_t countdown
        uint32_t action
        int32_t target
        uint32_t fired
        int32_t fired_pid


# The names are these in lower case, the first underscore a dot: LANE_CLAIMED is "lane.claimed". Each says what has just
# happened; the next step has not.
cpdef enum Point:
    # A worker starts, and ends.
    WORKER_WATCHED = 1                  # the lifeline holds
    WORKER_MAPPED                       # the arena is mapped
    WORKER_JOINED                       # it has a lane
    WORKER_ANNOUNCED                    # the lane's state says ready
    WORKER_RETIRING                     # told to end, nothing claimed
    # A lane looks for work.
    LANE_LOOKING
    LANE_SEARCHING                      # its bit says that it spins
    LANE_BEDDED                         # its bit says that it sleeps
    LANE_ROUSED                         # it slept, its bit still says so or somebody else cleared it
    RING_CLAIMED                        # the claim word is ours, the ring's head not yet moved
    LANE_CLAIMED
    LANE_STOLE                          # from another lane's private ring
    LANE_RUNNING                        # its bit says that it runs a task
    LANE_CHOSE                          # another lane's sleeping bit is cleared, that lane not yet woken
    LANE_COUNTED                        # that lane counts as searching, and is not yet woken
    LANE_NOTED                          # the lane's words name the task
    # The task's arguments and its answer.
    DECODE_BEGUN
    DECODE_ADOPTED
    DECODE_LOADED
    ENCODE_BEGUN
    ENCODE_DONE
    PUBLISH_BEGUN
    PUBLISH_LET_GO                      # the slot names the answer's segment, this process does not hold it any more
    PUBLISH_FILLED
    PUBLISH_COUNTED                     # the lane's words name no task
    PUBLISH_DONE                        # the claim word says done, the slot is on no list
    PUSH_LINKED
    PUSH_PUSHED                         # on the list, no bell rung
    PUSH_DISARMED                       # no bell is armed any more, and none rung
    PUSH_COUNTED                        # the bell's word has changed, nobody is woken
    PUSH_RUNG
    # Messages of a worker's own.
    MAIL_OPENED
    MAIL_FILLED
    MAIL_POSTED                         # its claim word says so, it is on no list
    # A worker asks, its owner answers.
    ASK_POSTED                          # the question is on the list
    ASK_BEDDED                          # its word says that who asked sleeps
    ASK_HEARD                           # the answer is seen, nothing of it is taken
    ASK_ADOPTED
    ASK_TAKEN                           # the answer is rebuilt, its slot not yet free
    # A worker writes the chunks of a stream.
    CHUNK_ENCODED                       # its segment, if any, is this process's; nobody has looked for room
    CHUNK_BEDDED                        # no room: the ring says that the writer sleeps
    CHUNK_ROUSED                        # it slept, the ring still says so or somebody else cleared it
    CHUNK_FILLED                        # the record is written, the tail not moved
    CHUNK_TAILED                        # the tail is moved, the chunk does not count
    CHUNK_COMMITTED                     # it counts, nobody has looked whether the reader sleeps
    CHUNK_CHOSE                         # the reader's word says awake, the reader not yet woken
    CHUNK_WOKE
    CHUNK_ENDED                         # the ring says that no chunk follows, the reader not yet woken
    CHUNK_TOLD
    # The arena.
    ARENA_TOOK
    ARENA_LOCKED
    ARENA_BACKED                        # a segment has memory, the table does not say so
    ARENA_COMMITTED
    ARENA_TOPPED                        # a slab is reserved, nothing carved from it
    ARENA_SLABBED                       # ... and half entered
    ARENA_CUT                           # a range is carved, no entry made
    ARENA_ENTERED
    ARENA_COUNTED                       # the entry counts, and is on no list
    ARENA_LISTED
    ARENA_ADOPTING
    ARENA_ADOPTED
    ARENA_RELEASING
    ARENA_RELEASED                      # free, and nobody told
    ARENA_EMPTYING                      # busy, its memory not yet returned
    ARENA_EMPTIED                       # its memory is returned, the table does not say so
    ARENA_WAITING
    # The owner.
    PLACE_CHOSEN                        # a slot is off the free list
    PLACE_FILLED
    PLACE_QUEUED                        # its claim word says queued, it is on no ring
    PLACE_PUSHED
    PLACE_OFFERED                       # on a lane's private ring
    WAKE_CHOSE                          # a lane's sleeping bit is cleared, the lane not yet woken
    WAKE_COUNTED
    COLLECT_SWAPPED                     # the list of completions is taken, its slots are not marked
    COLLECT_TAKEN
    FINISH_BEGUN
    FINISH_DECODED
    FINISH_FREED
    MAIL_DELIVERING
    MAIL_DELIVERED
    ANSWER_BEGUN                        # the question is read, nobody has looked at it
    ANSWER_FILLED                       # the answer lies in the slot, its claim word does not say so
    ANSWER_TOLD                         # it does; who asked is not woken
    STREAM_OPENED                       # a ring is made and listed, its call not submitted
    STREAM_CLOSED                       # the ring says that nobody reads, neither side is woken
    STREAM_CONCLUDED                    # the reader has seen that nothing follows, the outcome is not known
    READ_BEDDED                         # the ring says that the reader sleeps
    READ_MAILED                         # ... that it waits by mail
    READ_FOUND                          # a chunk is seen, nothing of it is taken
    READ_ADOPTED                        # its segment is ours
    READ_TAKEN                          # it is rebuilt, its room not given back
    READ_FREED                          # the head is moved, the chunk does not count as read
    READ_COUNTED                        # it does, nobody has looked whether the writer sleeps
    READ_CHOSE                          # the writer's word says awake, the writer not yet woken
    READ_WOKE
    BURIAL_BEGUN
    BURIAL_COLLECTED
    BURIAL_SWEPT
    BURIAL_ENTRUSTED                    # a chunk's segment is ours, the dead worker's others are not yet reclaimed
    BURIAL_RECLAIMING
    LAST_POINT
