"""Stops, kills and crashes at named points of the protocol; for Snakepit's own tests.

Only a core that was built with SNAKEPIT_DEBUG=1 has the points: `make faults` builds one apart.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from types import TracebackType

from snakepit._core.points import PointTable, compiled_in, point_names, point_number

__all__ = ["ProtocolPoints", "have_points", "point_names"]

VARIABLE = "SNAKEPIT_POINTS"
_opened = False


def have_points() -> bool:
    """Whether this build of Snakepit has protocol points."""
    return compiled_in()


class ProtocolPoints:
    """The protocol points of every pool that this process starts from now on.

    Make it before the first pool of the process, and only once: each process maps the points when
    it first passes one, and keeps them. Raises RuntimeError for a second one, and in a build
    without points.
    """

    def __init__(self) -> None:
        global _opened
        if not compiled_in():
            raise RuntimeError(
                "this build of snakepit has no protocol points; build it with SNAKEPIT_DEBUG=1"
            )
        if _opened:
            raise RuntimeError("this process has its protocol points already; keep that object")
        _opened = True
        descriptor, self._path = tempfile.mkstemp(prefix="snakepit-points-")
        try:
            self._table = PointTable(descriptor)
        finally:
            os.close(descriptor)
        os.environ[VARIABLE] = self._path

    def __enter__(self) -> ProtocolPoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disarm every point and remove the file that the processes found them by."""
        for name in point_names():
            self.disarm(name)
        os.environ.pop(VARIABLE, None)
        if os.path.exists(self._path):
            os.unlink(self._path)

    def kill_at(self, name: str, nth: int = 1, *, sig: int = signal.SIGKILL) -> None:
        """Have the worker that passes `name` as the `nth` from now send itself `sig`."""
        self._table.arm(_number(name), sig, nth, False, 0)

    def hold_at(self, name: str, nth: int = 1, *, in_owner: bool = False) -> None:
        """Have who passes `name` as the `nth` from now wait there until `disarm`."""
        self._table.arm(_number(name), 0, nth, in_owner, 0)

    def kill_other_at(
        self, name: str, target: int, nth: int = 1, *, sig: int = signal.SIGKILL
    ) -> None:
        """Have this process send `sig` to `target` when it passes `name` the `nth` time."""
        self._table.arm(_number(name), sig, nth, True, target)

    def disarm(self, name: str) -> None:
        """Have a point do nothing any more; who waits at it goes on."""
        self._table.disarm(_number(name))

    def passes(self, name: str) -> int:
        """Return how often the point was passed, in all processes."""
        return self._table.passes(_number(name))

    def fired(self, name: str) -> int:
        """Return how often the point has acted."""
        return self._table.fired(_number(name))

    def fired_pid(self, name: str) -> int:
        """Return the pid of the process in which the point acted last, 0 for none."""
        return self._table.fired_pid(_number(name))

    def wait_fired(self, name: str, times: int, timeout: float) -> bool:
        """Wait until the point has acted `times` times in all; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.fired(name) < times:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True


def _number(name: str) -> int:
    try:
        return point_number(name)
    except KeyError:
        raise ValueError(
            f"there is no protocol point {name!r}; snakepit.testing.point_names() lists them"
        ) from None
