"""Lanes that keep crashing are avoided, and where they cannot be, started more slowly."""

from __future__ import annotations

from snakepit.lifecycle.taint import TaintedLanes, TaintPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def crash(lanes: TaintedLanes, lane: int, times: int = 3, progressed: bool = False) -> None:
    for _ in range(times):
        lanes.note_crash(lane, progressed=progressed)


def test_lane_that_keeps_crashing_is_avoided() -> None:
    lanes = TaintedLanes(clock=Clock())
    crash(lanes, 0, 2)
    assert lanes.choose([0, 1]) == (0, 0.0)
    crash(lanes, 0, 1)
    assert lanes.tainted() == [0]
    assert lanes.choose([0, 1]) == (1, 0.0)
    assert lanes.choose([]) is None


def test_work_done_between_crashes_keeps_a_lane_clean() -> None:
    lanes = TaintedLanes(clock=Clock())
    crash(lanes, 0, 2)
    crash(lanes, 0, 5, progressed=True)
    crash(lanes, 0, 2)
    assert lanes.tainted() == []


def test_taint_ends_after_its_time_or_a_good_end() -> None:
    clock = Clock()
    lanes = TaintedLanes(clock=clock)
    crash(lanes, 0)
    crash(lanes, 1)
    lanes.clear(1)
    assert lanes.tainted() == [0]
    clock.now += 60
    assert lanes.tainted() == []
    crash(lanes, 0, 1)
    assert lanes.tainted() == []


def test_where_every_lane_is_tainted_starts_back_off() -> None:
    clock = Clock()
    lanes = TaintedLanes(TaintPolicy(shortest_wait=0.125, longest_wait=0.5), clock)
    waits = []
    crash(lanes, 0, 2)
    for _ in range(5):
        crash(lanes, 0, 1)
        chosen = lanes.choose([0])
        assert chosen is not None
        waits.append(chosen[1])
    assert waits == [0.125, 0.25, 0.5, 0.5, 0.5]
    clock.now += 0.5
    assert lanes.choose([0]) == (0, 0.0)
