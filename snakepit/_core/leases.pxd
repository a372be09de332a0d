# cython: language_level=3
cimport cython


cdef class Lease:
    """Something with an id that ends when it was not used for `ttl` seconds (see `leases.pyx`)."""
    cdef readonly str id
    cdef readonly double ttl
    cdef LeaseTable table
    # What follows changes under the table's mutex alone, or before anybody else knows the lease.
    cdef double expires                 # on the table's clock; -inf once it has ended
    cdef object contents                # None at first; set once, while it lives
    cdef public object _metadata        # replaced by `_replace_metadata`
    # Of a lease in a file: its row there, and what `expires` was when that was written.
    cdef public long long _number
    cdef public double _saved

    cdef bint use(self) except -1


cdef class LeaseTable:
    """Leases by id, up to a number (see `leases.pyx`)."""
    cdef type kind                      # of the leases: a class that derives from `Lease`, with nothing to initialise
    cdef object clock                   # returns seconds; None: the machine's monotonic clock
    cdef double ttl                     # seconds, of leases that are made without saying so
    cdef bint plain                     # nothing is written down, so that the quick ways are open
    cdef bint heard                     # somebody hears of each end
    cdef bint closed
    cdef cython.pymutex mutex           # of all that follows, and of the leases' own words
    cdef dict leases
    cdef double earliest                # no lease expires before: it lies too early once a lease was used
    # Above and below which count there is more to do than to let one in or out, and the count of no more.
    cdef Py_ssize_t warn_at, calm_below, full_at
    cdef long long deleted, expired     # how many have ended, by what

    cdef double now(self) except? -1.0
    cdef Lease make(self, str id, double ttl)
    cdef int admit(self, Lease lease) except -2
    cdef Lease find(self, object id)
    cdef Lease take(self, object id, bint *alive)
