"""Variables that hold arrays: tensors of any shape, and embeddings.

What is kept is a copy that nobody can write to, so that it may be handed to any number of readers:
an array that its giver goes on to change would change the variable without a new version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from snakepit.sessions.kinds import Kind, UnfitError, shortened, switch, whole_bound

if TYPE_CHECKING:
    import numpy as np

__all__ = ["EmbeddingKind", "TensorKind"]

# Of float32 vectors with thousands of components, normalised by any common way.
UNIT_TOLERANCE = 1e-3


def _checked_dtype(constraints: Mapping[str, Any]) -> Any:
    given = constraints.get("dtype")
    if given is None:
        return None
    import numpy as np

    try:
        dtype = np.dtype(given)
    except TypeError:
        raise UnfitError(f"dtype is none of numpy's: {shortened(given)}", "dtype") from None
    if dtype.kind not in "biufc":
        raise UnfitError(f"dtype must be one of numbers or booleans, not {dtype}", "dtype")
    return dtype


def _frozen_copy(value: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Return a read-only copy of an array, or of nested lists of numbers, as an array."""
    import numpy as np

    try:
        array = np.array(value, order="C")
    except (ValueError, TypeError, OverflowError) as error:
        raise UnfitError(f"it cannot be made an array: {error}") from None
    if array.dtype.kind not in "biufc":
        raise UnfitError(f"it is no array of numbers, but of {array.dtype}")
    if dtype is not None and array.dtype != dtype:
        # What an array holds keeps its type, unless that loses nothing; lists have none of theirs.
        rule = "safe" if isinstance(value, (np.ndarray, np.generic)) else "same_kind"
        if not np.can_cast(array.dtype, dtype, rule):  # type: ignore[arg-type]
            raise UnfitError(f"its dtype {array.dtype} cannot become {dtype}", "dtype")
        array = array.astype(dtype)
    array.setflags(write=False)
    return array


class ArrayKind(Kind):
    """What tensors and embeddings have in common."""

    def adopt(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        value.setflags(write=False)
        return value


class TensorKind(ArrayKind):
    """An array of numbers or booleans; nested lists become one.

    `shape`: its lengths, with None or -1 for those that do not matter. `dimensions`: how many
    there are. `dtype`: what the elements are; arrays are converted only where nothing can be lost.
    """

    name = "tensor"
    known = ("shape", "dimensions", "dtype")

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._dtype = _checked_dtype(constraints)
        self._axes = whole_bound(constraints, "dimensions")
        self._shape: tuple[int | None, ...] | None = None
        shape = constraints.get("shape")
        if shape is None:
            return
        if isinstance(shape, int) and not isinstance(shape, bool):
            shape = (shape,)
        if isinstance(shape, (str, bytes)) or not isinstance(shape, Iterable):
            raise UnfitError(f"shape must be a tuple of lengths, not {shortened(shape)}", "shape")
        lengths = []
        for length in shape:
            anything = length is None or (isinstance(length, int) and length == -1)
            if not anything and (isinstance(length, bool) or not isinstance(length, int)):
                raise UnfitError(f"shape has lengths and None, not {shortened(length)}", "shape")
            if not anything and length < 0:
                raise UnfitError(f"shape has the negative length {length}", "shape")
            lengths.append(None if anything else length)
        self._shape = tuple(lengths)
        if self._axes is not None and self._axes != len(self._shape):
            raise UnfitError(
                f"dimensions ({self._axes}) contradicts shape, which has {len(self._shape)}",
                "dimensions",
            )

    def accept(self, value: Any) -> np.ndarray[Any, Any]:
        array = _frozen_copy(value, self._dtype)
        if self._axes is not None and array.ndim != self._axes:
            raise UnfitError(f"it has {array.ndim} dimensions, not {self._axes}", "dimensions")
        if self._shape is not None and (
            len(self._shape) != array.ndim
            or any(
                wanted is not None and wanted != length
                for wanted, length in zip(self._shape, array.shape, strict=True)
            )
        ):
            raise UnfitError(f"its shape is {array.shape}, not {self._shape}", "shape")
        return array


class EmbeddingKind(ArrayKind):
    """A vector of floats; a list becomes one of float64, arrays of floats keep their dtype.

    `dimensions`: how many components. `normalised`: its length must be 1. `normalise`: it is made
    so. `dtype`: float16, float32 or float64. Both spellings, with s and with z, are known.
    """

    name = "embedding"
    known = ("dimensions", "normalised", "normalized", "normalise", "normalize", "dtype")

    def __init__(self, constraints: Mapping[str, Any]) -> None:
        self._dtype = _checked_dtype(constraints)
        if self._dtype is not None and self._dtype.kind != "f":
            raise UnfitError(f"dtype must be one of floats, not {self._dtype}", "dtype")
        self._dimensions = whole_bound(constraints, "dimensions")
        self._normalised = switch(constraints, "normalised", "normalized")
        self._normalise = switch(constraints, "normalise", "normalize")

    def accept(self, value: Any) -> np.ndarray[Any, Any]:
        import numpy as np

        array = _frozen_copy(value, self._dtype)
        if array.ndim != 1:
            raise UnfitError(f"it has {array.ndim} dimensions; an embedding has one")
        if array.dtype.kind in "iu" or (array.size == 0 and array.dtype.kind != "f"):
            array = array.astype(np.float64)
        elif array.dtype.kind != "f":
            raise UnfitError(f"it has elements of {array.dtype}, not floats")
        if self._dimensions is not None and array.size != self._dimensions:
            raise UnfitError(
                f"it has {array.size} dimensions, not {self._dimensions}", "dimensions"
            )
        if self._normalise or self._normalised:
            length = float(np.linalg.norm(array.astype(np.float64)))
            if self._normalise:
                if not 0.0 < length < float("inf"):
                    raise UnfitError(f"a vector of length {length} has no direction", "normalise")
                array = (array / length).astype(array.dtype)
            elif not abs(length - 1.0) <= UNIT_TOLERANCE:
                raise UnfitError(f"its length is {length:.6g}, not 1", "normalised")
        array.setflags(write=False)
        return array
