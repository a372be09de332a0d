# cython: language_level=3
cdef class Binder:
    """Puts the named arguments of a call in the order of a function's parameters; all of it is set when it is made."""
    cdef readonly tuple names           # of the parameters, in their order
    cdef tuple kinds                    # of each: what `isinstance` takes, or None for anything
    cdef tuple defaults                 # of each: a value to send in its place, or `REQUIRED`, or `UNSENT`
