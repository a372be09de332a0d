"""Adapters whose sessions move, apart, so that a worker imports nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import snakepit
from snakepit import tool
from snakepit.adapters.moving import residence
from tests.executor.tasks import Gate, Log


class Ledger(snakepit.Adapter):
    """Keeps a list for each session."""

    __thread_safe__ = True

    def __init__(self, log: Log | None = None, fault: Gate | None = None) -> None:
        self.log = log
        self.fault = fault  # while it is open, `restore` raises
        self.lists: dict[str, Any] = {}
        self.snapshots_fail = False

    def note(self, line: str) -> None:
        if self.log is not None:
            self.log.add(line)

    @property
    def mine(self) -> list[Any]:
        assert self.session is not None
        found: list[Any] = self.lists.setdefault(self.session.id, [])
        return found

    def snapshot(self, session: str) -> Any:
        self.note(f"snapshot {session}")
        if self.snapshots_fail:
            raise OSError("no room on the device")
        return self.lists.get(session, [])

    def restore(self, session: str, state: Any) -> None:
        self.note(f"restore {session}")
        if self.fault is not None and self.fault.is_open():
            raise ConnectionError("the database is away")
        self.lists[session] = state

    @tool
    def append(self, item: Any) -> list[Any]:
        self.mine.append(item)
        return list(self.mine)

    @tool
    def where(self) -> int:
        return os.getpid()

    @tool
    def consult(self, item: Any, values: Sequence[Any] = ()) -> list[Any]:
        """Append, call the host tool "ask" and append what that returns."""
        self.mine.append(item)
        self.mine.append(self.session.call_tool("ask", *values))
        return list(self.mine)

    @tool
    def consult_and_die(self, item: Any) -> None:
        self.mine.append(item)
        self.session.call_tool("ask")
        os.kill(os.getpid(), signal.SIGKILL)

    @tool
    def known(self) -> int:
        return len(residence()._guests)

    @tool
    def append_and_fail(self, item: Any) -> None:
        self.mine.append(item)
        raise ValueError(item)

    @tool
    def append_and_die(self, item: Any) -> None:
        self.mine.append(item)
        os.kill(os.getpid(), signal.SIGKILL)

    @tool
    def append_and_hold(self, item: Any, started: Gate, release: Gate) -> int:
        self.mine.append(item)
        started.open()
        release.wait()
        return os.getpid()

    @tool
    def append_and_dawdle(self, item: Any, started: Gate) -> None:
        self.mine.append(item)
        started.open()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.002)

    @tool(streaming=True)
    def append_each(self, items: list[Any]) -> Iterator[int]:
        for item in items:
            self.mine.append(item)
            yield len(self.mine)

    @tool
    def keep_a_lock(self) -> int:
        self.mine.append(threading.Lock())
        return os.getpid()

    @tool
    def drop_last(self) -> list[Any]:
        self.mine.pop()
        return list(self.mine)

    @tool
    def let_snapshots_fail(self, fail: bool = True) -> int:
        self.snapshots_fail = fail
        return os.getpid()

    @tool
    def keep_array(self, size: int, value: int) -> int:
        import numpy

        self.lists[self.session.id] = numpy.full(size, value, "u1")
        return os.getpid()

    @tool
    def sum_array(self) -> list[int]:
        array = self.lists[self.session.id]
        array += 1
        return [int(array.sum()), os.getpid()]


class Leaving(Ledger):
    """Calls `sys.exit` where the other raises."""

    def snapshot(self, session: str) -> Any:
        try:
            return super().snapshot(session)
        except OSError as error:
            raise SystemExit(*error.args) from None

    def restore(self, session: str, state: Any) -> None:
        try:
            super().restore(session, state)
        except OSError as error:
            raise SystemExit(*error.args) from None


class Forgetful(snakepit.Adapter):
    """Has a tool of the name of a hook, which makes it none of those whose sessions move."""

    @tool
    def snapshot(self) -> str:  # type: ignore[override]  # a tool is called by name
        return "of nothing"


class OnlySnapshot(snakepit.Adapter):
    def snapshot(self, session: str) -> None: ...

    @tool
    def ping(self) -> str:
        return "pong"


class Patient(snakepit.Adapter):
    """Falls ill in several ways."""

    __thread_safe__ = True

    def __init__(self, log: Log | None) -> None:
        self.log = log
        self.illness: str | None = None

    def health(self) -> bool:
        if self.log is not None:
            self.log.add(f"asked {os.getpid()}")
        if self.illness == "raises":
            raise ConnectionError("the database is away")
        if self.illness == "exits":
            raise SystemExit(3)
        if self.illness == "hangs":
            threading.Event().wait()
        return self.illness is None

    @tool
    def fall_ill(self, illness: str) -> int:
        self.illness = illness
        return os.getpid()

    @tool
    def fall_ill_and_hold(self, illness: str, started: Gate, release: Gate) -> int:
        self.illness = illness
        started.open()
        release.wait()
        return os.getpid()

    @tool
    def where(self) -> int:
        return os.getpid()
