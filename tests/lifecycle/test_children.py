"""Ending what a task has started: never whoever has got its number since."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from snakepit.lifecycle import ladder
from snakepit.lifecycle.identity import start_time
from snakepit.lifecycle.worker import Worker
from snakepit.worker import children


@contextlib.contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answers(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process has been spared: one that is killed may take a moment to be gone."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"there?\n")
    return process.stdout.readline() == b"there?\n"


def started(pid: int) -> int:
    start = start_time(pid)
    assert start is not None
    return start


def pass_on(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    """Let `pid` be another's from the second look on: the first sees who had it before."""
    looks = iter([started(pid) + 7])
    real = start_time

    def look(who: int) -> int | None:
        return next(looks, real(who)) if who == pid else real(who)

    monkeypatch.setattr(children, "start_time", look)


def test_a_process_that_started_at_another_time_is_spared() -> None:
    with bystander() as process:
        start = started(process.pid)
        children.end_process(process.pid, start - 1)
        children.end_process(process.pid, start + 1)
        assert answers(process)
        children.end_process(process.pid, start)
        assert process.wait(60) == -signal.SIGKILL
        children.end_process(process.pid, start)  # gone, it is nobody


def test_whoever_got_the_number_of_a_grandchild_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    with bystander() as stranger:
        claimed = time.monotonic_ns()
        child = subprocess.Popen(["sleep", "600"])
        family = {os.getpid(): [child.pid], child.pid: [stranger.pid]}
        monkeypatch.setattr(children, "children_of", lambda pid: family.get(pid, []))
        pass_on(monkeypatch, stranger.pid)
        children.end_those_since(claimed)
        child.wait(60)  # It is reaped already.
        assert not os.path.exists(f"/proc/{child.pid}")
        assert answers(stranger)


def test_whoever_got_the_number_of_a_workers_stray_is_spared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bystander() as stranger, bystander() as stray:
        monkeypatch.setattr(ladder, "descendants", lambda pid: [stranger.pid, stray.pid])
        pass_on(monkeypatch, stranger.pid)
        sent: list[int] = []
        worker: Any = SimpleNamespace(pid=os.getpid(), send=sent.append)
        climber: Any = SimpleNamespace(_supervisor=SimpleNamespace(kill_later=lambda worker: None))
        ladder.Ladder._end(climber, worker)
        assert sent == [signal.SIGTERM]
        assert stray.wait(60) == -signal.SIGKILL
        assert answers(stranger)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no pidfds")
def test_a_signal_to_a_worker_that_is_gone_reaches_nobody() -> None:
    """Another has its number by now."""
    with bystander() as gone:
        pidfd = os.pidfd_open(gone.pid)
    with bystander() as process:
        worker: Any = object.__new__(Worker)
        worker.pid, worker.sentinel, worker._pidfd = process.pid, pidfd, pidfd
        ladder.send_one(worker, signal.SIGKILL)
        assert answers(process)
    os.close(pidfd)


def test_children_are_found_where_the_kernel_lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with bystander() as process:
        assert process.pid in children.children_of(os.getpid())
        monkeypatch.setattr(children, "_kernel_lists_children", lambda: False)
        assert process.pid in children.children_of(os.getpid())
        assert children.children_of(process.pid) == []
