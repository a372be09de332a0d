# cython: language_level=3
"""Things with an id that end when nobody has used them for a time: the sessions of a store.

To make, fetch and end one costs a fraction of the cheapest call, which a few lines of Python do not: so what these three
need is here, a dict, a mutex and a clock. All else is its subclass's, `snakepit.sessions.store`.

The names are the store's own, as these methods are; their docstrings begin as `inspect.signature` wants it of compiled ones.

Under the mutex no code of Python's runs, nor could: keys are plain strings, nothing is made there that the garbage
collector counts, and what is replaced is dropped after it. So a finaliser or signal handler never finds the mutex held by
the thread that it has interrupted.
"""
cimport cython
from libc.math cimport INFINITY

from time import monotonic

from snakepit._core.atomics cimport now_ns

cdef double ENDED = -INFINITY


cdef object plain(id):
    """A key that is a string and nothing else: code of a subclass must not run under the mutex. None if it cannot be."""
    return str.__str__(id) if isinstance(id, str) else None


@cython.no_gc_clear     # its table must be there for as long as anybody has it
cdef class Lease:
    @property
    def alive(self) -> bool:
        """Whether it was neither deleted nor has expired."""
        cdef double now = self.table.now()
        with self.table.mutex:
            return self.expires > now

    @property
    def _store(self):
        return self.table

    @property
    def _contents(self):
        return self.contents

    @property
    def _expires(self) -> float:
        with self.table.mutex:
            return self.expires

    cdef bint use(self) except -1:
        """Begin the time to live anew; False if it is over."""
        cdef double now = self.table.now()
        with self.table.mutex:
            if self.expires > now:
                self.expires = now + self.ttl
                return True
        return False

    def _used(self):
        """Use the session and return its contents. Raises SessionNotFoundError."""
        if not self.use():
            raise self.table._not_found(self.id)
        return self.contents if self.contents is not None else self.table._make_contents(self)

    def _keep_contents(self, contents):
        """Have these contents unless there are some, or it has ended; returns those that it has."""
        with self.table.mutex:
            if self.contents is None and self.expires > ENDED:
                self.contents = contents
        return self.contents

    def _used_metadata(self):
        """Use the session and return its metadata as they are kept. Raises SessionNotFoundError."""
        cdef double now = self.table.now()
        cdef object metadata = None
        cdef bint alive
        with self.table.mutex:
            alive = self.expires > now
            if alive:
                self.expires = now + self.ttl
                metadata = self._metadata
        if not alive:
            raise self.table._not_found(self.id)
        return metadata

    def _replace_metadata(self, seen, metadata) -> bool:
        """Put metadata in place of those that were seen; False if there are others, or it has ended."""
        # `seen` is held by the caller: what is replaced is not dropped under the mutex.
        with self.table.mutex:
            if self._metadata is not seen or self.expires == ENDED:
                return False
            self._metadata = metadata
            return True


@cython.no_gc_clear     # as its leases are: what refers to them is the dict, which is cleared
cdef class LeaseTable:
    def __cinit__(self, *_args, **_options):
        self.leases = {}
        self.earliest = INFINITY
        self.full_at = -1
        self.calm_below = -1
        self.closed = True

    def _open_table(self, type kind, Py_ssize_t most, double ttl, clock, bint plain):
        self.kind = kind
        self.ttl = ttl
        self.clock = None if clock is monotonic else clock
        self.plain = plain
        self.full_at = most
        self.closed = False

    cdef double now(self) except? -1.0:
        return now_ns() * 1e-9 if self.clock is None else self.clock()

    # -- the quick ways ------------------------------------------------------------------------------------------------

    def create_session(self, id=None, ttl=None, metadata=None):
        """create_session($self, /, id=None, ttl=None, metadata=None)
--

        Make a session and return it.

        `id`: by default a random one. `ttl`: seconds, or text; by default the store's. Raises SessionExistsError if
        there is one of this id, and SessionQuotaError if the store is full.
        """
        cdef Lease lease
        cdef int more
        if type(id) is not str or not id or ttl is not None or metadata is not None or not self.plain:
            return self._create(id, ttl, metadata)
        lease = self.make(<str>id, self.ttl)
        more = self.admit(lease)
        while more < 0:
            self._make_room(id)
            more = self.admit(lease)
        if more:
            self._made()
        return lease

    def get_session(self, id):
        """get_session($self, /, id)
--

        Return a session; its time to live begins anew. Raises SessionNotFoundError.
        """
        cdef Lease lease = self.find(id) if self.plain else self._find(id)
        if lease is None:
            raise self._not_found(id)
        return lease

    def delete_session(self, id) -> bool:
        """delete_session($self, /, id)
--

        End a session; return whether there was one.
        """
        cdef bint alive = False
        cdef Lease lease
        if not self.plain:
            return self._delete(id)
        lease = self.take(id, &alive)
        if lease is None:
            if self.closed:
                raise self._not_found(id)
            return False
        if lease.contents is not None or self.heard:
            self._finish([lease])
        return alive

    # -- their steps, also for the other ways --------------------------------------------------------------------------

    cdef Lease make(self, str id, double ttl):
        cdef Lease lease = Lease.__new__(self.kind)
        lease.id = id
        lease.ttl = ttl
        lease.table = self
        return lease

    cdef int admit(self, Lease lease) except -2:
        """Let a lease in: 0; 1 if there is more to do; -1 if its id or the last place is taken."""
        cdef Py_ssize_t count
        lease.expires = self.now() + lease.ttl
        with self.mutex:
            count = len(self.leases)
            if count >= self.full_at or lease.id in self.leases:
                return -1
            self.leases[lease.id] = lease
            if lease.expires < self.earliest:
                self.earliest = lease.expires
            return count >= self.warn_at

    cdef Lease find(self, object id):
        """The lease of an id, whose use this is, or None."""
        cdef double now = self.now()
        cdef Lease lease
        if type(id) is not str:
            id = plain(id)
        with self.mutex:
            lease = self.leases.get(id)
            if lease is not None and lease.expires > now:
                lease.expires = now + lease.ttl
                return lease
        return None

    cdef Lease take(self, object id, bint *alive):
        """End the lease of an id, which may have expired before, and return it; None if there is none."""
        cdef double now = self.now()
        cdef bint calm = False
        cdef Lease lease
        if type(id) is not str:
            id = plain(id)
        with self.mutex:
            lease = self.leases.pop(id, None)
            if lease is not None:
                alive[0] = lease.expires > now
                lease.expires = ENDED
                if alive[0]:
                    self.deleted += 1
                else:
                    self.expired += 1
                calm = len(self.leases) < self.calm_below
        if calm:
            self._calm()
        return lease

    def _new(self, str id, double ttl, metadata=None):
        """Return a lease that is in nobody's way yet."""
        cdef Lease lease = self.make(id, ttl)
        lease._metadata = metadata
        return lease

    def _admit(self, Lease lease) -> int:
        return self.admit(lease)

    def _adopt(self, Lease lease, double expires) -> None:
        """Let in a lease that was made before, whatever the quota."""
        lease.expires = lease._saved = expires
        with self.mutex:
            self.leases[lease.id] = lease
            if expires < self.earliest:
                self.earliest = expires

    def _fetch(self, id):
        return self.find(id)

    def _take(self, id):
        """Return the lease that has ended by this, or None, and whether it was alive."""
        cdef bint alive = False
        return self.take(id, &alive), alive

    # -- all of them ---------------------------------------------------------------------------------------------------

    def _count(self) -> int:
        with self.mutex:
            return len(self.leases)

    def _is_taken(self, id) -> bool:
        """Whether an id, a plain string, is that of a lease, alive or expired."""
        with self.mutex:
            return id in self.leases

    def _is_full(self) -> bool:
        with self.mutex:
            return len(self.leases) >= self.full_at

    def _is_alive(self, id) -> bool:
        """Whether there is such a lease; this is no use of it."""
        cdef double now = self.now()
        cdef Lease lease
        if type(id) is not str:
            id = plain(id)
        with self.mutex:
            lease = self.leases.get(id)
            return lease is not None and lease.expires > now

    def _living(self) -> list:
        """Return the leases that are alive, in the order in which they were made."""
        cdef double now = self.now()
        cdef list found = []
        cdef Lease lease
        with self.mutex:
            for lease in self.leases.values():
                if lease.expires > now:
                    found.append(lease)
        return found

    def _all(self) -> list:
        """Return the leases that are there, alive or not."""
        cdef list found = []
        cdef Lease lease
        with self.mutex:
            for lease in self.leases.values():
                found.append(lease)
        return found

    def _counts(self) -> tuple:
        """Return how many there are, were deleted, and have expired."""
        cdef Py_ssize_t count
        cdef long long deleted, expired
        with self.mutex:
            count = len(self.leases)
            deleted = self.deleted
            expired = self.expired
        return count, deleted, expired

    def _take_expired(self) -> list:
        """End the leases whose time is over, and return them."""
        cdef double now = self.now()
        cdef double earliest = INFINITY
        cdef bint calm
        cdef list ended = []
        cdef Lease lease
        with self.mutex:
            if now < self.earliest:
                return ended
            for lease in self.leases.values():
                if lease.expires <= now:
                    ended.append(lease)
                elif lease.expires < earliest:
                    earliest = lease.expires
            self.earliest = earliest
            for lease in ended:
                lease.expires = ENDED
                del self.leases[lease.id]
            self.expired += len(ended)
            calm = len(self.leases) < self.calm_below
        if calm:
            self._calm()
        return ended

    def _take_all(self) -> list:
        """End them all and let none in any more; returns those that there were, None if that was done before."""
        cdef list ended = []
        cdef Lease lease
        with self.mutex:
            if self.closed:
                return None
            self.closed = True
            self.full_at = -1
            for lease in self.leases.values():
                ended.append(lease)
            for lease in ended:
                lease.expires = ENDED
                del self.leases[lease.id]
        return ended

    # -- marks ---------------------------------------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        return self.closed

    @property
    def _warn_at(self) -> int:
        with self.mutex:
            return self.warn_at

    def _mark(self, Py_ssize_t warn_at, Py_ssize_t calm_below) -> None:
        """Say from which count on `_made` is called after a lease was let in, and below which `_calm` after one has left."""
        with self.mutex:
            self.warn_at = warn_at
            self.calm_below = calm_below

    def _hear(self, bint heard) -> None:
        """Say whether `_finish` is to be called for each lease that ends, or for those with contents alone."""
        self.heard = heard
