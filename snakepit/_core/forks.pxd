# cython: language_level=3
cdef int forks                          # how often this process is a fork of the one that imported us

cdef int refuse() except -1             # raises ForkedPoolError
