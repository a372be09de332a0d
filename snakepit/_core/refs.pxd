# cython: language_level=3
"""References that another thread may drop, on free-threaded Python.

There a thread counts its references to the objects that it made without atomics, and all others count theirs in a
second, shared counter (PEP 703). Who drops a reference that is in neither place of its own, the owner's, has to queue
the object for the owner, under a mutex, and interrupts it: a microsecond for both. What one thread makes and another
lets go of is therefore counted in the shared counter from the start.
"""

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    static inline void sp_share(PyObject *object) {
        uint32_t local = __atomic_load_n(&object->ob_ref_local, __ATOMIC_RELAXED);
        if (!_Py_IsImmortal(object) && _Py_IsOwnedByCurrentThread(object) && local > 1) {
            __atomic_fetch_add(&object->ob_ref_shared, (Py_ssize_t)1 << _Py_REF_SHARED_SHIFT, __ATOMIC_RELAXED);
            __atomic_store_n(&object->ob_ref_local, local - 1, __ATOMIC_RELAXED);
        }
    }
    #else
    static inline void sp_share(PyObject *object) { (void)object; }
    #endif
    """
    # Count one of the references that this thread has to an object, and not its last, as one that any thread may drop.
    void share "sp_share"(object object) noexcept
