# cython: language_level=3
"""What lies in the shared control block of a pool, word by word.

    Header | Lane x n_lanes | Ring cells (3 priorities) | Ring cells (one private ring a lane)
           | Ring cells (bound rings, 3 priorities a lane)
           | Slot x (n_slots + n_mail) | payload area x (n_slots + n_mail) | Definition x n_definitions
           | name x n_definitions | StackPage x n_lanes

The owner (the process that made the pool) and its workers map the same block. Whoever may be killed at any instruction
changes it only by single atomic words, so the survivor can always read what happened.

The life of a slot, and who makes each step:

    FREE --owner--> FILLING --owner--> QUEUED --worker, CAS--> RUNNING --worker--> DONE --owner--> FREE
                                         +-----owner, CAS (cancelled)-------------------------------^
    mail slots:     FREE --worker, CAS--> MAIL --worker--> POSTED --owner--> FREE
    of kind ASK:    POSTED --owner, CAS--> ANSWERED --worker--> FREE
                      +----worker, CAS---> GIVEN_UP --owner--> FREE
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MAGIC = 0x534E414B45504954          # "SNAKEPIT"
    LAYOUT_VERSION = 5
    MAX_LANES = 1024                    # bits of the bitmaps below
    BITMAP_WORDS = MAX_LANES // 64
    PRIORITIES = 3                      # 0 high, 1 normal, 2 low
    NORMAL = 1
    PRIVATE_CELLS = 16                  # cells of a lane's private ring
    BOUND_CELLS = 32                    # cells of a bound ring, of which half are for calls that were not cancelled
    DROWSY_NS = 200_000                 # how long a lane dozes before it looks for work again
    MICRO = 160                         # payload bytes that lie beside the slot's header
    NAME_BYTES = 96                     # of a name, its final zero included
    STACK_BYTES = 8192                  # of a `StackPage`: room for some 80 frames
    NOBODY = 0xFFF                      # lane number of a claim that names no lane
    REVISIONS = 256                     # words of `Header.revisions`

# State of a slot, the low 4 bits of its claim word.
cdef enum:
    FREE = 0
    FILLING = 1
    QUEUED = 2
    RUNNING = 3
    DONE = 4
    MAIL = 5
    POSTED = 6
    ANSWERED = 7                        # the owner's answer lies where the question lay
    GIVEN_UP = 8                        # who asked does not wait any more

# What a slot carries.
cdef enum:
    CALL = 0                            # call one function with args, kwargs
    CALL_EACH = 1                       # map: call a function with each item
    CALL_STAR = 2                       # map: call a function with each tuple of items
    MAIL_READY = 3                      # a worker is ready for work
    MAIL_FAILED = 4                     # a worker cannot start: (exception, traceback text)
    MAIL_SUBMIT = 5                     # a task that a worker submits
    MAIL_WANT = 6                       # a worker waits for a task that it submitted
    MAIL_CANCEL = 7                     # a worker gives up a task that it submitted
    CHUNK = 8                           # a stream has a chunk for a reader that must not block
    MAIL_WORN = 9                       # a worker has run as many tasks as it should before it is replaced
    MAIL_ASK = 10                       # a worker asks its owner, and waits for the answer in the slot
    MAIL_TOOL = 11                      # a worker calls a function of its owner's; the answer comes by the link
    MAIL_RAN = 12                       # how a task ended that was lent to a worker which waits
    MAIL_UNFIT = 13                     # a worker's adapter is not fit for more: why

# How a payload is encoded.
cdef enum:
    NOTHING = 0                         # a call without arguments, a result of None: no payload
    MSGPACK = 1
    PICKLE = 2
    PICKLE_BUFFERS = 3                  # a table of buffers, the pickle, the buffers

# Flags of a payload.
cdef enum:
    IN_SEGMENT = 1                      # the payload lies in an arena segment
    IS_ERROR = 2                        # the result is an exception
    FUNCTION_INSIDE = 4                 # the payload carries the function as well
    KEPT = 8                            # the owner keeps the segment for another attempt: the worker takes a copy
    ENCLOSED = 16                       # [the answer, what its worker says of the call's session beside]

# What is asked of a task, and how far its worker is with it: the parts of `Slot.cancel`.
cdef enum:
    STOP_FLAG = 1                       # the owner asks it to stop
    STOP_INTERRUPT = 2                  # the owner sends the worker its interrupting signal
    STOP_MASK = 0xFF
    CALLED = 0x100                      # the worker has called the task's function
    RETURNED = 0x200                    # and that is over: no interrupt is sent from here on

# What a lane's process is doing, for readers of the state; nothing is decided by it.
cdef enum:
    LANE_VACANT = 0
    LANE_STARTING = 1
    LANE_READY = 2
    LANE_RETIRING = 3

# What a lane is told, `Lane.retire`. A spare is held until a worker that leaves hands over to it (or the owner lets it
# in), so that as many lanes serve as the pool has workers: never fewer, and never more.
cdef enum:
    ORDER_SERVE = 0
    ORDER_RETIRE = 1                    # end after the running task
    ORDER_EXCHANGE = 2                  # end after the running task, if a spare takes over; else go on serving
    ORDER_HOLD = 3                      # a spare: claim nothing yet


cdef struct Ring:
    uint64_t head                       # ticket of the next cell to claim; only a hint, the claim word decides
    uint64_t _pad1[7]
    uint64_t tail                       # ticket of the next cell to fill; written by the owner under its lock
    uint64_t cells                      # byte offset of the cells in the block
    uint64_t mask                       # number of cells - 1
    uint64_t seen                       # what the owner last saw of the head, which others' writes take from its cache
    uint64_t _pad2[4]


cdef struct Header:
    uint64_t magic
    uint32_t version
    uint32_t size_of_slot
    uint64_t size                       # bytes of the whole block
    uint32_t n_lanes
    uint32_t n_slots
    uint32_t n_mail
    uint32_t n_definitions
    uint32_t payload_stride             # bytes of payload area a slot; also the most that goes inline
    uint32_t owner_pid
    uint64_t lanes, private_cells, slots, payloads, definitions    # byte offsets
    uint32_t cpus                       # CPUs that the owner may use
    uint32_t spin_limit_ns              # the longest that a side spins before it sleeps
    uint32_t closing                    # 1: workers end when nothing is queued
    uint32_t typical_ns                 # how long tasks run lately; a moving average of the owner's
    # The completion list: a stack of slots that workers push and the owner takes whole.
    uint32_t done                       # 0, or slot index + 1 of the newest
    uint32_t armed                      # 0, or which bell a worker has to ring when it makes the list non-empty
    uint32_t bells[3]                   # [1] the collector thread sleeps on, [2] a waiting caller sleeps on
    uint32_t threads                    # lanes of one worker: it owns a block of so many, from a multiple of it on
    uint32_t _pad2[10]
    uint64_t searching[BITMAP_WORDS]    # lanes that spin for work or are being woken for it
    uint64_t sleeping[BITMAP_WORDS]     # lanes that sleep and must be woken
    uint64_t drowsy[BITMAP_WORDS]       # of these, lanes that look up by themselves within `DROWSY_NS`
    uint64_t running[BITMAP_WORDS]      # lanes that run a task
    Ring queues[PRIORITIES]
    # For readers of the state; nothing is decided by it.
    uint64_t names, stacks              # byte offsets
    uint64_t created_ns
    char pool_name[NAME_BYTES]
    # By the session's key: grows after every change of a variable, before the change is acknowledged. Sessions that
    # share a word only cost each other a look at the owner's.
    uint64_t revisions[REVISIONS]


cdef struct Lane:
    # One thread of a worker that claims tasks. The first line is written by its owner side and by wakers ...
    uint32_t wake                       # futex word: the lane sleeps on it
    uint32_t state                      # LANE_*
    int32_t pid
    uint32_t client                     # the worker's number as a user of the arena
    uint32_t retire                     # ORDER_*; only by compare-and-swap, except that RETIRE holds for good
    uint32_t inbox                      # 0, or mail slot index + 1: answers for the worker
    uint32_t inbox_bell                 # futex word beside it
    uint32_t incarnation
    uint32_t examine                    # 1: the lane shall have its worker's health looked at when it has no work
    uint32_t bound_used                 # 1: the bound rings may have something, now or later
    uint32_t _pad1[6]
    # ... the second by the worker alone ...
    uint64_t completed
    uint64_t busy_ns
    uint64_t heartbeat_ns               # when the loop last came round
    uint64_t claimed                    # slot index + 1 while a task runs, else 0
    uint64_t started_ns                 # when that task started
    uint64_t _pad2[3]
    # ... and the third by the owner, twice a strict call, so that no lane may poll it: each write would wait until the
    # lane's CPU had let go of the line.
    uint32_t owed                       # strict calls that are this worker's and not settled
    uint32_t _pad3[15]
    Ring private
    Ring bound[PRIORITIES]              # strict calls: nobody else claims from these


cdef struct Slot:
    uint64_t claim                      # generation << 16 | lane << 4 | state
    uint32_t next                       # link of the completion list (slot index + 1)
    uint32_t definition                 # number of the function
    uint8_t kind
    uint8_t encoding
    uint8_t flags
    uint8_t priority
    uint32_t definition_epoch
    uint32_t segment                    # arena segment + 1, or 0
    uint32_t cancel                     # STOP_* set by the owner, CALLED and RETURNED added by the worker;
                                        # of kind ASK a futex word: 1 while who asked sleeps
    uint64_t task                       # the owner's number of the task
    uint64_t deadline_ns                # monotonic; 0: none
    uint64_t session                    # the session's key; 0: none
    uint64_t parent                     # of a nested task: lane << 48 | the submitting worker's number of it
    uint64_t run_ns                     # how long the task ran
    uint64_t tenure                     # strict: which stay of its session in a worker this is; 0: sessions do not move
    uint64_t length                     # bytes of payload
    uint32_t items                      # map: how many items the payload holds / were done
    uint32_t attempt                    # which attempt at its call this is; 0: nobody counts
    uint8_t micro[MICRO]


cdef struct Definition:
    # A function (or class) that calls name by its number; its pickle lies in an arena segment.
    uint32_t epoch                      # grows with every reuse of the number; even while it can be read
    uint32_t segment
    uint64_t length


cdef struct StackPage:
    # Where a worker writes its Python stack when somebody asks for it (see `stacks.pyx`).
    uint32_t asked                      # futex word: grows with every request
    uint32_t answered                   # futex word: the request that `text` answers
    uint32_t sequence                   # odd while `text` changes
    uint32_t length                     # bytes of text
    uint32_t flags                      # SP_STACK_* of stacks.h
    int32_t pid                         # of the worker that answers; 0: none does
    uint32_t server                     # the lane on whose page's word that worker sleeps ...
    uint32_t rung                       # ... futex word: grows with every request to any of its lanes
    uint64_t _pad[4]
    char text[STACK_BYTES - 64]


cdef inline uint64_t claim_word(uint64_t generation, uint64_t lane, uint64_t state) noexcept nogil:
    return (generation << 16) | (lane << 4) | state

cdef inline uint64_t claim_state(uint64_t word) noexcept nogil:
    return word & 0xF

cdef inline uint64_t claim_lane(uint64_t word) noexcept nogil:
    return (word >> 4) & 0xFFF

cdef inline uint64_t claim_generation(uint64_t word) noexcept nogil:
    return word >> 16

# A ring cell names a slot and the generation it was queued with: a stale cell matches no claim word.
cdef inline uint64_t cell_word(uint64_t generation, uint64_t slot) noexcept nogil:
    return (generation << 16) | slot

cdef inline uint32_t cell_slot(uint64_t word) noexcept nogil:
    return <uint32_t>(word & 0xFFFF)

cdef inline uint64_t cell_generation(uint64_t word) noexcept nogil:
    return word >> 16
