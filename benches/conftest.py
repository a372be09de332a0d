"""Fixtures of the benchmark files."""

import gc
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.suite import Bench, Pools, Run

# Longer than any run of a sound pool: one that hangs costs its own figures, not everybody's.
RUN_LIMIT = 150
CLOSE_LIMIT = 30


class PoolHungError(Exception):
    """A peer did not come back in time."""


def _hung(signum: int, frame: FrameType | None) -> None:
    raise PoolHungError("gave up waiting for the pool")


@pytest.fixture(scope="session", autouse=True)
def _quiet_collector() -> None:
    """Keep pytest's own objects out of the garbage collections that the rounds cause."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def pools() -> Iterator[Pools]:
    """The pools of one question, at most one alive at a time; closed at its end."""
    signal.signal(signal.SIGALRM, _hung)
    pools = Pools()
    yield pools
    signal.alarm(CLOSE_LIMIT)
    try:
        pools.close()
    finally:
        signal.alarm(0)


@pytest.fixture
def bench(
    run: Run, pools: Pools, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    """The measuring of one run, under a time limit."""
    question = request.module.__name__.rpartition(".")[2].removeprefix("bench_")
    signal.alarm(RUN_LIMIT)
    try:
        yield Bench(benchmark, run, question, pools)
    finally:
        signal.alarm(0)
