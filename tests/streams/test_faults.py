"""Streams whose worker, or whose owner, dies."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import snakepit
from snakepit.errors import ForkedPoolError, WorkerCrashedError
from snakepit.pool.memory import arena
from tests.executor import tasks as calls
from tests.executor.tasks import Gate, Log
from tests.support import start_script

from . import tasks

GateMaker = Callable[[str], Gate]


@pytest.mark.parametrize("size", [10, 50_000])
def test_chunks_before_a_crash_arrive(size: int) -> None:
    with snakepit.Executor(1) as executor:
        executor.submit(calls.square, 3).result(60)
        stream = executor.stream(tasks.kill_after, 40, size)
        seen = []
        with pytest.raises(WorkerCrashedError, match="SIGKILL"):
            for chunk in stream:
                seen.append(len(chunk))
        assert seen == [size] * 40
        assert executor.submit(calls.square, 3).result(60) == 9


def test_chunks_of_a_buried_worker_can_still_be_read() -> None:
    with snakepit.Executor(1) as executor:
        stream = executor.stream(tasks.kill_after, 40, 50_000)
        with pytest.raises(WorkerCrashedError):
            stream.future.result(60)
        # The replacement may take the dead worker's segments, and its number.
        for _ in range(5):
            assert len(executor.submit(bytes, 200_000).result(60)) == 200_000
        seen = []
        with pytest.raises(WorkerCrashedError):
            for chunk in stream:
                assert chunk == b"x" * 50_000
                seen.append(chunk)
        assert len(seen) == 40


def test_chunks_of_a_worker_that_was_recycled_can_still_be_read() -> None:
    with snakepit.Executor(1) as executor:
        stream = executor.stream(tasks.values_of, *[b"y" * 50_000] * 20)
        assert stream.future.result(60) == 20
        executor.recycle_worker()
        assert len(executor.submit(bytes, 200_000).result(60)) == 200_000
        assert list(stream) == [b"y" * 50_000] * 20


def test_unread_chunks_of_a_dead_worker_are_freed() -> None:
    with snakepit.Executor(1) as executor:
        executor.submit(calls.square, 3).result(60)
        gc.collect()
        before = arena().usage()["bytes_in_use"]
        stream = executor.stream(tasks.kill_after, 40, 50_000)
        with pytest.raises(WorkerCrashedError):
            stream.future.result(60)
        executor.submit(calls.square, 3).result(60)
        del stream
        executor.shutdown()
        gc.collect()
        # Less than the forty chunks of 50 kB; the functions of the pool stay.
        assert arena().usage()["bytes_in_use"] < before + 500_000


def test_killed_workers_end_streams() -> None:
    executor = snakepit.Executor(1)
    stream = executor.stream(tasks.count, 10**9)
    assert next(stream) == 0
    executor.kill_workers()
    with pytest.raises(WorkerCrashedError):
        for _ in stream:
            pass
    executor.shutdown()


def test_forked_child_of_the_generator_sends_nothing() -> None:
    with snakepit.Executor(1) as executor:
        chunks = list(executor.stream(tasks.fork_in_the_middle))
        assert len(chunks) == 2 and chunks[0] == chunks[1]
        assert executor.submit(tasks.pid).result(60) == chunks[0]


def test_forked_child_of_the_reader_leaves_the_stream_alone() -> None:
    with snakepit.Executor(1) as executor:
        stream = executor.stream(tasks.count, 300)
        assert next(stream) == 0
        child = os.fork()
        if child == 0:
            code = 1
            try:
                next(stream)
            except ForkedPoolError:
                code = 0
            stream.close()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(stream) == list(range(1, 300))


def test_owner_that_dies_takes_its_streams_along(tmp_path: Path) -> None:
    script = start_script(
        """
        import snakepit
        from tests.streams import tasks

        if __name__ == "__main__":
            executor = snakepit.Executor(1)
            stream = executor.stream(tasks.count, 10**9)
            print(next(stream), flush=True)
            input()
        """,
        tmp_path,
        stdin=-1,
    )
    assert script.read_line() == "0"
    os.kill(script.process.pid, signal.SIGKILL)
    script.finish()
    script.expect_nothing_left()


def test_program_ends_with_a_stream_that_nobody_read(tmp_path: Path, log: Log) -> None:
    from tests.support import run_clean

    lines = run_clean(
        f"""
        import snakepit
        from tests.executor.tasks import Log
        from tests.streams import tasks

        if __name__ == "__main__":
            executor = snakepit.Executor(1)
            stream = executor.stream(tasks.logging, Log({str(log.path)!r}), 10**9)
            print(next(stream))
        """,
        tmp_path,
    )
    assert lines == ["0"] and log.lines() == ["closed", "finally"]
