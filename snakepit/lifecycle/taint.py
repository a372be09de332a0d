"""Which lanes keep crashing, and what that means for the next worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from snakepit.records import record


@record(frozen=True)
class TaintPolicy:
    """When a lane is tainted. A crash counts if its worker had not completed a task before.

    After `crashes` in a row, each within `seconds` of the one before, the lane is tainted for
    `seconds`: others are preferred to it. Where there is no other, each further crash doubles the
    wait before the next start, from `shortest_wait` to `longest_wait` seconds.
    """

    crashes: int = 3
    seconds: float = 60.0
    shortest_wait: float = 0.05
    longest_wait: float = 1.0


class TaintedLanes:
    """The lanes of one pool that keep crashing; used in its supervisor's thread only."""

    def __init__(
        self, policy: TaintPolicy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy or TaintPolicy()
        self._clock = clock
        self._crashes: dict[int, tuple[int, float]] = {}  # by lane: how many in a row, the last

    def note_crash(self, lane: int, *, progressed: bool) -> None:
        """A worker of the lane crashed; `progressed`: it had completed tasks."""
        count, when = self._crashes.get(lane, (0, 0.0))
        now = self._clock()
        if progressed or now - when >= self._policy.seconds:
            count = 0
        self._crashes[lane] = count + (not progressed), now

    def clear(self, lane: int) -> None:
        """A worker of the lane ended in peace."""
        self._crashes.pop(lane, None)

    def is_tainted(self, lane: int) -> bool:
        """Whether the lane keeps crashing."""
        count, when = self._crashes.get(lane, (0, 0.0))
        return count >= self._policy.crashes and self._clock() - when < self._policy.seconds

    def tainted(self) -> list[int]:
        """Return the lanes that are tainted now."""
        return [lane for lane in sorted(self._crashes) if self.is_tainted(lane)]

    def choose(self, lanes: Iterable[int]) -> tuple[int, float] | None:
        """Return the best of some free lanes and the seconds to wait before a start; None: none."""
        best: tuple[int, float] | None = None
        for lane in lanes:
            if not self.is_tainted(lane):
                return lane, 0.0
            left = self._not_before(lane) - self._clock()
            if best is None or left < best[1]:
                best = lane, max(0.0, left)
        return best

    def _not_before(self, lane: int) -> float:
        count, when = self._crashes[lane]
        doublings = min(count - self._policy.crashes, 16)
        wait = min(self._policy.shortest_wait * 2.0**doublings, self._policy.longest_wait)
        return when + wait
