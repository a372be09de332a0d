"""How many threads BLAS and OpenMP libraries start in each worker.

A library decides it when it is loaded, from the environment, so the variables are set before a
worker imports anything. Workers together then run about as many threads as there are CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping

from snakepit.resources import usable_cpus

__all__ = ["SHARE", "blas_environment", "checked_blas_threads"]

SHARE = "share"

# OpenMP's own variable, which all of them heed where their own is not set, and then theirs.
_OPENMP = "OMP_NUM_THREADS"
_LIBRARIES = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def checked_blas_threads(value: object) -> int | str | None:
    """Return `value` if it is a number of threads above 0, "share" or None.

    Raises TypeError and ValueError, which name the option.
    """
    if value is None or value == SHARE:
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"blas_threads must be a whole number, 'share' or None, not {value!r}")
    if value < 1:
        raise ValueError(f"blas_threads must be at least 1, not {value}")
    return value


def blas_environment(
    threads: int | str | None, workers: int, given: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables to set in each of `workers` processes.

    `threads`: a number for each worker; "share": the usable CPUs divided among the workers, at
    least 1; None: 1. `given`: what the user has set, which wins. Who has set OMP_NUM_THREADS alone
    means all libraries, so theirs are not set against it.
    """
    if _OPENMP in given:
        return {}
    if threads == SHARE:
        threads = max(1, usable_cpus() // workers)
    number = str(1 if threads is None else threads)
    return {name: number for name in (_OPENMP, *_LIBRARIES) if name not in given}
