"""What the questions have in common: which runs there are, in which order, and how one is measured.

A question runs in sweeps. Each sweep measures every peer once, one after the other, with only that
peer's pool alive; the figures of the sweeps are put together. So a slow minute of the machine falls
on all peers alike, and no peer's idle threads disturb another.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches import work
from benches.peers import PEERS, Peer, unavailable
from benches.processes import kill_descendants

QUICK = os.environ.get("BENCHES_QUICK") == "1"
WORKERS = 2

KB = 1024
MB = 1024 * 1024

PROCESS_POOLS = ("snakepit", "ppe", "pool", "loky", "pebble", "mpire", "ray", "dask")
PRELOADERS = ("snakepit", "ppe", "ppe-spawn", "ppe-fork", *PROCESS_POOLS[2:])
POOLS = (*PROCESS_POOLS, "threads")


def chosen(keys: Iterable[str]) -> list[str]:
    """Return those of the peers that are installed and were not excluded on the command line."""
    wanted = os.environ.get("BENCHES_PEERS")
    names = set(wanted.split(",")) if wanted else None
    return [key for key in keys if (names is None or key in names) and unavailable(key) is None]


@dataclass(frozen=True)
class Run:
    """One peer's turn in one sweep, for one case of the question."""

    peer: str
    case: str
    sweep: int


def runs(
    peers: Iterable[str],
    cases: Sequence[str] = ("",),
    *,
    sweeps: int = 3,
    cases_inside: bool = False,
    limits: Sequence[str] = (),
    where: Callable[[str, str], bool] = lambda peer, case: True,
) -> pytest.MarkDecorator:
    """Parametrize a test with `run`, over sweeps, cases and peers.

    With `cases_inside`, a peer goes through all cases before the next one starts, and keeps its
    pool meanwhile. `limits` are names beside the peers that are always there, such as the machine's
    own memcpy.
    """
    keys = [*limits, *chosen(peers)]
    if cases_inside:
        pairs = [(key, case) for key in keys for case in cases]
    else:
        pairs = [(key, case) for case in cases for key in keys]
    plan = [
        Run(key, case, sweep)
        for sweep in range(1 if QUICK else sweeps)
        for key, case in pairs
        if where(key, case)
    ]
    ids = [f"{run.case or 'all'}-{run.peer}-{run.sweep}" for run in plan]
    return pytest.mark.parametrize("run", plan, ids=ids)


class Pools:
    """Keeps at most one pool alive, and keeps it for as long as the next run wants the same."""

    def __init__(self) -> None:
        self._peer: Peer | None = None
        self._key = ("", 0)

    def get(self, key: str, workers: int) -> Peer:
        """Return the peer's pool, started, closing another peer's first."""
        if self._peer is None or self._key != (key, workers):
            self.close()
            self._peer = PEERS[key]()
            self._key = (key, workers)
            self._peer.start(workers)
            self._peer.gather(work.noop, 50 * workers)
        return self._peer

    def close(self) -> None:
        """End the pool that is alive, if there is one."""
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.close()

    def abandon(self) -> None:
        """Forget the pool and kill its processes: after an error it may never close."""
        self._peer = None
        kill_descendants()


class Bench:
    """Measures one run through pytest-benchmark, and notes beside the figures whose they are."""

    def __init__(self, benchmark: BenchmarkFixture, run: Run, question: str, pools: Pools) -> None:
        self.run = run
        self._benchmark = benchmark
        self._pedantic: Callable[..., Any] = benchmark.pedantic
        self._pools = pools
        benchmark.extra_info.update(
            question=question, peer=run.peer, case=run.case, sweep=run.sweep, per=1
        )

    def pool(self, workers: int = WORKERS) -> Any:
        """Return the run's peer, started."""
        return self._pools.get(self.run.peer, workers)

    def close_pool(self) -> None:
        """End the pool that earlier runs have left, so that the next is a new one."""
        self._pools.close()

    def note(self, text: str) -> None:
        """Add a remark that the report prints beside the figure."""
        self._benchmark.extra_info["note"] = text

    def rounds(
        self,
        fn: Callable[[], Any],
        *,
        seconds: float = 1.0,
        least: int = 3,
        most: int = 20_000,
        per: int = 1,
        warm: int = 5,
        warm_seconds: float = 0.2,
    ) -> Any:
        """Time rounds of `fn` for about `seconds`, `least` to `most` of them; return its value.

        Before, `fn` runs `warm` times and for `warm_seconds`, whichever is longer. A round's time
        counts for `per` calls.
        """
        if QUICK:
            seconds, warm_seconds, least, warm = seconds / 5, warm_seconds / 2, 1, min(warm, 2)
        with self._giving_up():
            times: list[float] = []
            end = time.perf_counter() + warm_seconds
            while len(times) < warm or time.perf_counter() < end:
                begun = time.perf_counter()
                fn()
                times.append(time.perf_counter() - begun)
            typical = statistics.median(times) if times else seconds
            rounds = max(least, min(most, int(seconds / typical)))
            self._benchmark.extra_info["per"] = per
            return self._pedantic(fn, rounds=rounds)

    def values(self, measure: Callable[[], Sequence[float]], unit: str = "s") -> None:
        """Record the figures that `measure` returns, where they are not the time that it takes."""
        self._benchmark.extra_info["unit"] = unit
        with self._giving_up():
            self._benchmark.extra_info["values"] = list(self._pedantic(measure))

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._pools.abandon()
            raise
