"""What is told about a worker that died, and what its death may not disturb."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from snakepit.lifecycle import autopsy as autopsies
from snakepit.lifecycle import burial
from tests.conftest import Make
from tests.executor import tasks
from tests.faults.test_crashes import expect_crash
from tests.support import run_script, send_signal, wait_until

pytestmark = pytest.mark.processes


def fail_in_c() -> None:
    print("the last thing said", file=sys.stderr)
    ctypes.string_at(0)


def test_stack_and_stderr_of_a_segfault(executor: snakepit.Executor) -> None:
    def outer() -> None:
        logging.getLogger("noisy").error("logged before")
        fail_in_c()

    error = expect_crash(executor.submit(outer))
    found = error.autopsy
    assert found.signal == "SIGSEGV" and found.exit_code == -signal.SIGSEGV
    assert found.stack is not None
    assert found.stack.index("fail_in_c") < found.stack.index("outer")
    assert found.stderr[-2:] == ("logged before", "the last thing said")
    assert "the last thing said" in str(error)
    assert found.phase == "running" and found.ended_by_pool is None
    assert found.oom_killed is False


@pytest.mark.parametrize(
    "number", [signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV]
)
def test_stack_where_the_signal_allows_it(executor: snakepit.Executor, number: int) -> None:
    found = expect_crash(executor.submit(tasks.kill_self, number)).autopsy
    assert found.stack is not None and "kill_self" in found.stack


def test_no_stack_is_made_up(executor: snakepit.Executor) -> None:
    assert expect_crash(executor.submit(tasks.kill_self)).autopsy.stack is None
    assert expect_crash(executor.submit(tasks.exit_process, 3)).autopsy.exit_code == 3


def test_autopsy_is_plain_data_and_survives_pickling(executor: snakepit.Executor) -> None:
    error = expect_crash(executor.submit(fail_in_c))
    copy = pickle.loads(pickle.dumps(error))
    assert copy.autopsy == error.autopsy
    data = error.details["autopsy"]
    assert {type(value) for value in data.values()} <= {int, str, list, bool, type(None)}
    assert autopsies.Autopsy.from_data(data) == error.autopsy


def test_only_the_end_of_stderr_is_kept(executor: snakepit.Executor) -> None:
    def work() -> None:
        for number in range(5000):
            print(f"line {number}", file=sys.stderr)
        os._exit(1)

    found = expect_crash(executor.submit(work)).autopsy
    assert found.stderr == tuple(f"line {n}" for n in range(4980, 5000))


def say(text: str, end: str = "\n") -> None:
    print(text, file=sys.stderr, end=end)


def say_later_in_a_child(when: tasks.Gate, said: tasks.Gate) -> None:
    if os.fork() == 0:
        when.wait()
        say("of a child")
        said.open()
        os._exit(0)


def crash_once_a_child_has_spoken(when: tasks.Gate, said: tasks.Gate) -> None:
    say("mine")
    when.open()
    said.wait()
    os._exit(1)


def crash_saying(*lines: str) -> None:
    for line in lines:
        say(line)
    os._exit(1)


@pytest.mark.parametrize("profile", ["process", "thread"])
def test_stderr_is_of_the_call_that_crashed(profile: Any) -> None:
    threads = 1 if profile == "thread" else None
    with snakepit.Executor(
        1, profile=profile, threads_per_worker=threads, initializer=say, initargs=("setup",)
    ) as ex:
        for lines in [(), ("mine",), ("one", "two")]:
            ex.submit(say, "earlier").result()
            ex.submit(say, "begun, and ", end="").result()
            error = expect_crash(ex.submit(crash_saying, *lines))
            assert error.autopsy.stderr == lines
            assert error.autopsy.stderr_of == "call"
            assert "earlier" not in str(error) and "setup" not in str(error)
            said = f"; its stderr ended with: {lines[-1]}" if lines else "crash_saying')"
            assert str(error).endswith(said)
            assert ("last lines of its stderr:" in str(error.autopsy)) == bool(lines)


def test_stderr_of_one_of_the_calls_of_a_process_is_said_to_be_of_all() -> None:
    with snakepit.Executor(1, profile="thread", threads_per_worker=2) as ex:
        ex.submit(say, "earlier").result()
        error = expect_crash(ex.submit(crash_saying))
        assert error.autopsy.stderr == ("earlier",) and error.autopsy.stderr_of == "worker"
        assert str(error).endswith("; its stderr (also of other calls) ended with: earlier")
        assert "last lines of its stderr, also of other calls:" in str(error.autopsy)


def test_stderr_of_a_child_of_an_earlier_call_hides_none_of_the_calls_own(gate: Any) -> None:
    when, said = gate("when"), gate("said")
    with snakepit.Executor(1) as ex:
        ex.submit(say_later_in_a_child, when, said).result()
        found = expect_crash(ex.submit(crash_once_a_child_has_spoken, when, said)).autopsy
        assert found.stderr == ("mine", "of a child")


def test_long_stderr_of_earlier_calls_is_left_out() -> None:
    with snakepit.Executor(1) as ex:
        ex.submit(say, "earlier " * 2000).result()
        assert expect_crash(ex.submit(crash_saying, "mine")).autopsy.stderr == ("mine",)
        ex.submit(say, "earlier " * 2000).result()
        found = expect_crash(ex.submit(crash_saying, *["x" * 3000] * 3, "mine")).autopsy
        assert found.stderr == ("x" * 3000, "x" * 3000, "mine")


def test_peak_memory_is_the_kernels(executor: snakepit.Executor) -> None:
    def work() -> None:
        data = bytearray(b"x") * 50_000_000
        os._exit(len(data) % 7)

    found = expect_crash(executor.submit(work)).autopsy
    assert found.peak_memory is not None and found.peak_memory > 50_000_000


def test_memory_of_a_long_call_is_known_as_it_was_last_seen(make: Make, gate: Any) -> None:
    executor = make(1, heartbeat_interval=0.05)
    door = gate("never")

    def work() -> None:
        data = bytearray(b"x") * 50_000_000
        door.wait()
        assert data

    future = executor.submit(work)
    workers = executor._pool.supervisor.workers  # type: ignore[union-attr]
    wait_until(
        lambda: any((worker.last_memory or 0) > 50_000_000 for worker in list(workers.values())),
        "a look at the worker's memory",
    )
    send_signal(executor.worker_pids()[0])
    found = expect_crash(future).autopsy
    assert found.last_memory is not None and found.last_memory > 50_000_000
    assert "last looked at" in str(found)


def test_pool_that_ended_the_worker_says_so(make: Make, gate: Any) -> None:
    executor = make(1)
    started = gate("started")
    future = executor.submit(tasks.sleep_long, started)
    started.wait()
    executor.kill_workers()
    found = expect_crash(future).autopsy
    assert found.signal == "SIGKILL" and found.ended_by_pool == "kill_workers"
    assert found.oom_killed is False


def test_stderr_reaches_the_owner_unchanged(tmp_path: Path) -> None:
    source = """
        import os, sys, snakepit
        def work():
            print("by print", file=sys.stderr)
            os.write(2, b"by descriptor\\n")
            sys.stderr.buffer.write(b"by buffer\\n")
            sys.stderr.flush()
            os._exit(1)
        with snakepit.Executor(1) as executor:
            print(executor.submit(work).exception(60).autopsy.stderr)
        """
    outcome = run_script(source, tmp_path)
    assert outcome.lines == ["('by print',)"]
    assert outcome.stderr.splitlines() == ["by print", "by descriptor", "by buffer"]


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_faulthandler_that_was_asked_for_still_tells_stderr(tmp_path: Path, method: str) -> None:
    source = f"""
        import ctypes, snakepit
        def work():
            ctypes.string_at(0)
        if __name__ == "__main__":
            with snakepit.Executor(1, start_method={method!r}) as executor:
                print("in work" in executor.submit(work).exception(60).autopsy.stack)
        """
    outcome = run_script(source, tmp_path, env={"PYTHONFAULTHANDLER": "1"})
    assert outcome.lines == ["True"]
    assert outcome.stderr.count("Fatal Python error: Segmentation fault") == 1
    assert "in work" in outcome.stderr


def test_oom_verdict_comes_from_the_groups_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "memory.events"
    monkeypatch.setattr(autopsies, "_group_files", lambda: [tmp_path / "none", counter])
    counter.write_text("oom 0\noom_kill 3\n")
    watch = autopsies.OomWatch()
    watch.start()
    assert watch.verdict(True)[0] is False
    counter.write_text("oom 9\noom_kill 5\n")
    assert watch.verdict(False)[0] is False
    assert [watch.verdict(True)[0] for _ in range(3)] == [True, True, False]


def test_oom_verdict_is_unknown_without_a_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autopsies, "_group_files", list)
    monkeypatch.setattr(autopsies, "_read_count", lambda path: None)
    watch = autopsies.OomWatch()
    watch.start()
    assert watch.verdict(True)[0] is None


# What a worker's end may not disturb


def test_complete_answers_of_a_dead_worker_are_kept(make: Make, gate: Any) -> None:
    """Answers in shared memory that nobody has read when their worker is buried."""
    executor = make(1)
    blocked, release, done, last = gate("blocked"), gate("release"), gate("done"), gate("last")

    def block(_: Any) -> None:
        blocked.open()
        release.wait()

    first = executor.submit(last.wait)
    first.add_done_callback(block)
    large = [executor.submit(bytes, 100_000 + n) for n in range(20)]
    pid = executor.submit(os.getpid)
    end = executor.submit(tasks.hold, done, gate("never"))
    last.open()
    blocked.wait()
    done.wait()
    workers = executor.worker_pids()
    assert send_signal(workers[0])
    supervisor = executor._pool.supervisor  # type: ignore[union-attr]
    wait_until(lambda: supervisor.crashes == 1, "the burial")
    release.open()
    assert [len(future.result(60)) for future in large] == [100_000 + n for n in range(20)]
    assert pid.result(60) == workers[0]
    expect_crash(end)


def test_callback_that_blocks_does_not_stop_supervision(make: Make, gate: Any) -> None:
    executor = make(1)
    release, blocked = gate("release"), gate("blocked")

    def block(_: Any) -> None:
        blocked.open()
        release.wait()

    future = executor.submit(tasks.exit_process)
    future.add_done_callback(block)
    blocked.wait()
    with pytest.raises(errors.TaskTimeoutError):
        executor.options(timeout=0.05).submit(time.sleep, 60).result(60)
    assert executor.submit(tasks.square, 3).result(60) == 9
    release.open()


def test_error_inside_a_burial_leaves_no_worker_unburied(
    executor: snakepit.Executor, monkeypatch: pytest.MonkeyPatch, gate: Any
) -> None:
    from tests.executor.test_options import expect_capacity

    def explode(self: Any) -> None:
        raise RuntimeError("made by the test")

    # Not pytest's own record of it, which would keep the frames, and so the pool, alive.
    logged: list[str] = []
    monkeypatch.setattr(burial.logger, "exception", lambda text, *_: logged.append(text))
    monkeypatch.setattr(autopsies.Recording, "stack", explode)
    for _ in range(3):
        assert expect_crash(executor.submit(tasks.exit_process, 3)).autopsy.exit_code == 3
    monkeypatch.undo()
    assert len(logged) == 3
    expect_capacity(executor, gate)


def test_forked_child_that_returns_is_not_the_worker(make: Make) -> None:
    executor = make(1)

    def work(error: BaseException | None) -> tuple[int, int]:
        child = os.fork()
        if child == 0 and error is not None:
            sys.stderr = None
            raise error
        if child == 0:
            return 0, 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.getpid()

    worker = executor.submit(os.getpid).result(60)
    assert executor.submit(work, None).result(60) == (0, worker)
    assert executor.submit(work, ValueError("in the child")).result(60) == (1, worker)
    assert executor.submit(work, SystemExit(7)).result(60) == (7, worker)
    assert executor.submit(os.getpid).result(60) == worker


@pytest.mark.parametrize("method", ["template", "fork", "spawn"])
def test_owner_that_ignores_its_children_and_blocks_signals(tmp_path: Path, method: str) -> None:
    source = f"""
        import os, signal, snakepit
        def work():
            os.kill(os.getpid(), signal.SIGTERM)
            return "lived on"
        if __name__ == "__main__":
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            with snakepit.Executor(1, start_method={method!r}) as executor:
                print(type(executor.submit(work).exception(60)).__name__)
                print(executor.submit(abs, -3).result(60))
        """
    outcome = run_script(source, tmp_path)
    assert outcome.lines == ["WorkerCrashedError", "3"]
    assert "rror in the" not in outcome.stderr and "while cleaning up" not in outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_template_that_stops_or_dies_is_replaced(number: signal.Signals) -> None:
    with snakepit.Executor(1, start_method="template") as executor:
        executor.wait_ready(60)
        template = executor._pool.template._process.pid  # type: ignore[union-attr]
        assert send_signal(template, number)
        expect_crash(executor.submit(tasks.exit_process))
        assert executor.submit(tasks.square, 3).result(60) == 9


# Workers that cannot start


def expect_broken(executor: snakepit.Executor) -> errors.PoolNotReadyError:
    future = executor.submit(tasks.square, 3)
    error = future.exception(60)
    assert isinstance(error, errors.PoolNotReadyError)
    return error


@pytest.mark.parametrize(
    ("initializer", "arguments", "words"),
    [
        (tasks.exit_process, (0,), "exited with code 0"),
        (tasks.exit_process, (5,), "exited with code 5"),
        (tasks.kill_self, (signal.SIGKILL,), "SIGKILL"),
        (tasks.kill_self, (signal.SIGSEGV,), "SIGSEGV"),
    ],
)
def test_workers_that_die_while_they_start_break_the_pool(
    make: Make, initializer: Any, arguments: Any, words: str
) -> None:
    error = expect_broken(make(2, initializer=initializer, initargs=arguments))
    assert words in str(error) and "while it started" in str(error)
    found = error.autopsy
    assert found is not None and found.phase == "starting" and words in found.summary()
    assert pickle.loads(pickle.dumps(error)).autopsy == found


def test_reason_quotes_the_last_line_of_stderr(make: Make) -> None:
    def initializer() -> None:
        print("no license found", file=sys.stderr)
        os._exit(1)

    assert "no license found" in str(expect_broken(make(1, initializer=initializer)))


def test_worker_that_hangs_while_it_starts_is_given_up(make: Make) -> None:
    error = expect_broken(make(1, initializer=time.sleep, initargs=(300,), start_timeout=0.2))
    assert "not ready within start_timeout=0.2 s" in str(error)
    assert error.autopsy is not None and error.autopsy.ended_by_pool == "start_timeout"


class Faulty(snakepit.Adapter):
    def setup(self) -> None:
        fail_in_c()

    @snakepit.tool
    def never(self) -> None: ...


def test_crash_of_an_adapters_setup_shows_its_stack() -> None:
    with (
        snakepit.Pool(Faulty, pool_size=1) as pool,
        pytest.raises(errors.PoolNotReadyError) as caught,
    ):
        pool.execute("never")
    assert caught.value.details["adapter"].endswith(":Faulty")
    found = caught.value.autopsy
    assert found is not None and found.signal == "SIGSEGV" and found.phase == "starting"
    assert found.stack is not None
    assert found.stack.index("fail_in_c") < found.stack.index("setup")
    assert found.stderr == ("the last thing said",)
    assert "last lines of its stderr:" in str(found)


def test_initializer_that_raises_leaves_no_autopsy(make: Make) -> None:
    error = expect_broken(make(1, initializer=int, initargs=("none",)))
    assert error.autopsy is None and "ValueError" in str(error)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_start_timeout_must_be_seconds(value: float) -> None:
    with pytest.raises(ValueError, match="start_timeout"):
        snakepit.Executor(1, start_timeout=value)
