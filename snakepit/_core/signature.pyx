# cython: language_level=3
"""The quick half of checking a call's arguments: what is right goes through, what is not is explained elsewhere.

Arguments travel by position, which is what the codec is quickest with. So they are put in order here, and looked at on
the way: one pass, and nothing is made but the tuple that is sent.
"""

REQUIRED = object()                     # stands for the default of a parameter that has none ...
UNSENT = object()                       # ... and of one whose default exists only where the function does


cdef class Binder:
    """`bind(arguments)` returns the values in order, or None when that is not all there is to say.

    `kinds`: for each name what `isinstance` takes, None for anything. `defaults`: for each a value to send when the
    argument is left out and a later one is given, or REQUIRED, or UNSENT.
    """

    def __init__(self, tuple names, tuple kinds, tuple defaults):
        self.names = names
        self.kinds = kinds
        self.defaults = defaults

    def bind(self, dict arguments not None) -> tuple | None:
        """Return the values in the order of the parameters, without those that are left out at the end.

        None: an argument is missing, unknown or not of its kind, or the default of one that was left out cannot be
        sent.
        """
        cdef Py_ssize_t i, count = len(self.names)
        cdef Py_ssize_t left = len(arguments)
        cdef list values
        if left == 0 and (count == 0 or self.defaults[0] is not REQUIRED):
            return ()
        values = []
        for i in range(count):
            if left == 0:
                # What is left out at the end gets its default where it is called.
                if self.defaults[i] is REQUIRED:
                    return None
                break
            value = arguments.get(self.names[i], REQUIRED)
            if value is REQUIRED:
                value = self.defaults[i]
                if value is REQUIRED or value is UNSENT:
                    return None
            else:
                left -= 1
                kind = self.kinds[i]
                if kind is not None and not isinstance(value, kind):
                    return None
            values.append(value)
        return tuple(values) if left == 0 else None
