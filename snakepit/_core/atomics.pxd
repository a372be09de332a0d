# cython: language_level=3
"""The machine's words: atomic access, pausing, clocks and sleeping.

Every function maps to one compiler builtin or one system call. All loads that are not marked otherwise acquire, all
stores release, all read-modify-write operations are sequentially consistent; `fence` is a full barrier. They act on
memory that several processes share, so nothing here may depend on the interpreter.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <limits.h>
    #include <stdint.h>
    #include <time.h>
    #include <unistd.h>

    #define sp_load32(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define sp_load64(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define sp_store32(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define sp_store64(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define sp_swap32(p, v)     __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
    #define sp_add32(p, v)      __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
    #define sp_add64(p, v)      __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
    #define sp_or64(p, v)       __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
    #define sp_and64(p, v)      __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)
    #define sp_fence()          __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define sp_popcount64(v)    __builtin_popcountll(v)
    #define sp_lowest_bit64(v)  __builtin_ctzll(v)

    static inline int sp_cas32(uint32_t *p, uint32_t expected, uint32_t desired) {
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
    }
    static inline int sp_cas64(uint64_t *p, uint64_t expected, uint64_t desired) {
        return __atomic_compare_exchange_n(p, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
    }
    static inline void sp_pause(void) {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ __volatile__("isb" ::: "memory");
    #endif
    }
    static inline uint64_t sp_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
    }

    /* Sleep while *word == seen, at most until `deadline` (monotonic ns, 0: for ever). Returns 0 when woken or when the
       word had changed, EINTR when a signal came, ETIMEDOUT. Spurious returns of 0 are allowed. */
    #if defined(__linux__)
    #include <linux/futex.h>
    #include <sys/syscall.h>
    static inline int sp_sleep(uint32_t *word, uint32_t seen, uint64_t deadline) {
        struct timespec t, *until = 0;
        if (deadline) {
            t.tv_sec = (time_t)(deadline / 1000000000ull);
            t.tv_nsec = (long)(deadline % 1000000000ull);
            until = &t;
        }
        /* WAIT_BITSET takes an absolute time on the monotonic clock, so that a retry after EINTR cannot lengthen it. */
        if (syscall(SYS_futex, word, FUTEX_WAIT_BITSET, seen, until, 0, FUTEX_BITSET_MATCH_ANY) == 0) return 0;
        return errno == EAGAIN ? 0 : errno;
    }
    static inline void sp_wake(uint32_t *word, int how_many) {
        syscall(SYS_futex, word, FUTEX_WAKE, how_many, 0, 0, 0);
    }
    #else
    /* No futex that crosses processes: look again every half millisecond. Correct anywhere, prompt nowhere. */
    static inline int sp_sleep(uint32_t *word, uint32_t seen, uint64_t deadline) {
        struct timespec nap = {0, 500000};
        while (sp_load32(word) == seen) {
            if (deadline && sp_now_ns() >= deadline) return ETIMEDOUT;
            if (nanosleep(&nap, 0) != 0) return EINTR;
        }
        return 0;
    }
    static inline void sp_wake(uint32_t *word, int how_many) { (void)word; (void)how_many; }
    #endif
    """
    uint32_t load32 "sp_load32"(uint32_t *word)
    uint64_t load64 "sp_load64"(uint64_t *word)
    void store32 "sp_store32"(uint32_t *word, uint32_t value)
    void store64 "sp_store64"(uint64_t *word, uint64_t value)
    uint32_t swap32 "sp_swap32"(uint32_t *word, uint32_t value)
    uint32_t add32 "sp_add32"(uint32_t *word, uint32_t value)
    uint64_t add64 "sp_add64"(uint64_t *word, uint64_t value)
    uint64_t or64 "sp_or64"(uint64_t *word, uint64_t value)
    uint64_t and64 "sp_and64"(uint64_t *word, uint64_t value)
    bint cas32 "sp_cas32"(uint32_t *word, uint32_t expected, uint32_t desired)
    bint cas64 "sp_cas64"(uint64_t *word, uint64_t expected, uint64_t desired)
    void fence "sp_fence"()
    int popcount64 "sp_popcount64"(uint64_t value)
    int lowest_bit64 "sp_lowest_bit64"(uint64_t value)
    void pause "sp_pause"()
    void prefetch "__builtin_prefetch"(const void *address)
    uint64_t now_ns "sp_now_ns"()
    int sleep_on "sp_sleep"(uint32_t *word, uint32_t seen, uint64_t deadline)
    void wake "sp_wake"(uint32_t *word, int how_many)
    enum: EINTR
    enum: ETIMEDOUT
    enum: WAKE_ALL "INT_MAX"
