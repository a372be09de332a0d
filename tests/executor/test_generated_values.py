"""Values and sequences of calls that nobody thought of."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import snakepit

from . import tasks
from .sameness import difference

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=())),  # lone surrogates included
    st.binary(),
    st.binary().map(bytearray),
    st.just(...),
    st.dates(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
keys = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=9), st.binary(max_size=9),
    st.floats(allow_nan=False), st.tuples(st.integers(), st.text(max_size=3)),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
        st.lists(inner, max_size=3).map(lambda items: [items, items]),
        st.sets(keys),
        st.frozensets(keys),
    ),
    max_leaves=40,
)
# Buffers whose sizes lie on both sides of the inline threshold.
sized = st.one_of(
    st.integers(10_200, 10_280).map(bytes),
    st.sampled_from([0, 1, 10_239, 10_240, 10_241]).map(bytes),
)
dtypes = st.one_of(
    hnp.scalar_dtypes(), hnp.array_dtypes(max_size=3), hnp.unicode_string_dtypes(max_len=5)
)
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=6))
)


@given(value=values)
@example(value=[1 << 64, -(1 << 63) - 1])
@example(value={"": {"": ()}})
def test_any_value_comes_back_the_same(shared: snakepit.Executor, value: Any) -> None:
    assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


@given(
    args=st.lists(values, max_size=4),
    kwargs=st.dictionaries(st.text(max_size=5), values, max_size=3),
)
def test_any_arguments_arrive(
    shared: snakepit.Executor, args: list[Any], kwargs: dict[str, Any]
) -> None:
    got = shared.submit(tasks.capture, *args, **kwargs).result(60)
    assert difference((tuple(args), kwargs), got) is None


@given(
    items=st.lists(st.one_of(values, sized), max_size=30), chunksize=st.none() | st.integers(1, 9)
)
def test_any_items_go_through_map(
    shared: snakepit.Executor, items: list[Any], chunksize: int | None
) -> None:
    got = list(shared.map(tasks.identity, items, chunksize=chunksize))
    assert len(got) == len(items)
    for mine, theirs in zip(items, got, strict=True):
        assert difference(mine, theirs) is None


@given(array=arrays, order=st.sampled_from(["C", "F"]), step=st.sampled_from([1, 2, -1]))
def test_any_array_comes_back_the_same(
    shared: snakepit.Executor, array: Any, order: Any, step: int
) -> None:
    value = np.array(array, order=order)
    if value.ndim:
        value = value[::step]
    got = shared.submit(tasks.identity, value).result(60)
    # Where numpy pickles in band it forgets the byte order of some arrays.
    expected = value if got.dtype == value.dtype else pickle.loads(pickle.dumps(value))
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


@given(sizes=st.lists(st.integers(0, 60_000), max_size=12))
def test_any_mixture_of_buffer_sizes(shared: snakepit.Executor, sizes: list[int]) -> None:
    value: list[Any] = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    value += [bytearray(piece) for piece in value]
    assert difference(value, shared.submit(tasks.identity, value).result(60)) is None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 50_000)),
        st.tuples(st.just("fail"), st.integers(0, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 50)),
        st.tuples(st.just("wait"), st.integers(0, 50)),
        st.tuples(st.just("drop"), st.integers(0, 50)),
    ),
    max_size=60,
)


@given(steps=steps)
def test_any_sequence_of_calls_settles(
    shared: snakepit.Executor, steps: list[tuple[str, int]]
) -> None:
    futures: list[tuple[str, int, snakepit.Future[Any]]] = []
    for step, number in steps:
        if step == "submit":
            futures.append((step, number, shared.submit(bytes, number)))
        elif step == "fail":
            futures.append((step, number, shared.submit(tasks.fail, ValueError(number))))
        elif futures:
            index = number % len(futures)
            future = futures[index][2]
            if step == "cancel":
                future.cancel()
            elif step == "wait" and not future.cancelled():
                future.exception(60)
            elif step == "drop":
                del futures[index]
    for step, number, future in futures:
        if future.cancelled():
            continue
        if step == "fail":
            error = future.exception(60)
            assert isinstance(error, ValueError)
            assert error.args == (number,)
        else:
            assert future.result(60) == bytes(number)
