"""A process that forks while it has a pool: the pool goes on, whatever the child does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import run_clean

HEAD = """
import concurrent.futures, gc, math, multiprocessing, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import snakepit
from snakepit.errors import ForkedPoolError

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)

def in_child(function):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        status = 99
        try:
            function()
            status = 0
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

BUSY = (
    HEAD
    + """
executor = snakepit.Executor(1, profile={profile!r})
running = executor.submit(wait_for, "go")
while not running.running():
    time.sleep(0.005)
queued = [executor.submit(abs, -n) for n in range(20)]
mapped = executor.map(abs, range(-500, 0), chunksize=1)
next_of_mapped = iter(mapped)
stopped = executor.options(session="a", retry=snakepit.RetryPolicy()).submit(abs, -1)
"""
)

IDLE = (
    HEAD
    + """
executor = snakepit.Executor(2)
print(executor.submit(pow, 2, 3).result(60))
"""
)

WORK_IS_DONE = """
open("go", "w").close()
assert running.result(60) is None
assert [future.result(60) for future in queued] == list(range(20))
assert list(next_of_mapped) == list(range(500, 0, -1))
assert stopped.result(60) == 1
assert executor.submit(math.floor, 2.5).result(60) == 2
executor.shutdown()
print("done")
"""

REFUSED = """
def refuse(use):
    try:
        use()
    except ForkedPoolError as error:
        assert "fork" in str(error) and isinstance(error, RuntimeError)
    else:
        raise AssertionError(f"{use.__code__.co_consts} was not refused")

uses = [
    lambda: queued[0].cancel(),
    lambda: queued[0].result(),
    lambda: queued[-1].exception(20),
    lambda: running.result(20),
    lambda: running.stop(),
    lambda: running.add_done_callback(print),
    lambda: stopped.cancel(),
    lambda: stopped.result(20),
    lambda: concurrent.futures.wait(queued, 20),
    lambda: next(concurrent.futures.as_completed(queued, 20)),
    lambda: next(next_of_mapped),
    lambda: executor.cancel(session="a"),
    lambda: executor.submit(math.ceil, 1.5),
    lambda: executor.submit(abs, -3),
    lambda: executor.submit(lambda: 5),
    lambda: executor.options(timeout=20).submit(math.trunc, 1.5),
    lambda: executor.options(retry=snakepit.RetryPolicy()).submit(math.trunc, 1.5),
    lambda: executor.map(math.ceil, [1.5]),
    lambda: executor.wait_ready(20),
]
for use in uses:
    assert in_child(lambda: refuse(use)) == 0
assert in_child(lambda: [refuse(use) for use in uses]) == 0
"""

HARMLESS = """
def interrupted():
    try:
        with executor:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass

def dropped():
    global executor, mapped, next_of_mapped
    del executor, mapped, next_of_mapped
    gc.collect()

for use in [
    lambda: executor.shutdown(),
    lambda: executor.shutdown(cancel_futures=True),
    lambda: executor.shutdown(wait=False, cancel_futures=True),
    lambda: executor.terminate_workers(),
    lambda: executor.kill_workers(),
    lambda: mapped.close(),
    lambda: (repr(executor), executor.stats(), running.running(), queued[0].done()),
    interrupted,
    dropped,
]:
    assert in_child(use) == 0
"""


@pytest.mark.parametrize("profile", ["process", "local"])
def test_child_is_refused_the_pool_and_its_calls(tmp_path: Path, profile: str) -> None:
    source = BUSY.replace("{profile!r}", repr(profile)) + REFUSED + WORK_IS_DONE
    assert run_clean(source, tmp_path) == ["done"]


@pytest.mark.parametrize("profile", ["process", "local"])
def test_child_that_ends_the_pool_ends_nothing(tmp_path: Path, profile: str) -> None:
    source = BUSY.replace("{profile!r}", repr(profile)) + HARMLESS + WORK_IS_DONE
    assert run_clean(source, tmp_path) == ["done"]


@pytest.mark.parametrize("profile", ["process", "local"])
def test_pool_that_no_call_has_started_is_refused_too(tmp_path: Path, profile: str) -> None:
    source = HEAD + (
        f"executor = snakepit.Executor(1, profile={profile!r})\n"
        "def use():\n"
        "    try:\n"
        "        executor.submit(abs, -1)\n"
        "    except ForkedPoolError:\n"
        "        executor.shutdown()\n"
        "        print('refused')\n"
        "assert in_child(use) == 0\n"
        "print(executor.submit(abs, -2).result(60))\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["refused", "2"]


@pytest.mark.parametrize("profile", ["process", "local"])
def test_child_ends_as_programs_do_while_the_pool_works(tmp_path: Path, profile: str) -> None:
    """Its exit handlers wait for no thread of the pool: it has none of them."""
    source = (
        BUSY.replace("{profile!r}", repr(profile))
        + "sys.stdout.flush()\n"
        + "pid = os.fork()\n"
        + "if pid == 0:\n"
        + "    signal.alarm(30)\n"
        + "    sys.exit(3)\n"
        + "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3\n"
        + "child = multiprocessing.get_context('fork').Process(target=print, args=('hi',))\n"
        + "child.start()\n"
        + "child.join(30)\n"
        + "assert child.exitcode == 0, child\n"
        + WORK_IS_DONE
    )
    assert run_clean(source, tmp_path) == ["hi", "done"]


def test_child_takes_nothing_from_the_shared_memory(tmp_path: Path) -> None:
    """Neither by a call that is refused, nor by a pool of its own."""
    source = HEAD + (
        "import numpy\n"
        "from snakepit.pool import memory\n"
        "executor = snakepit.Executor(1)\n"
        "executor.submit(numpy.ones, 100_000).result(60)\n"
        "def used(usage):\n"
        "    return usage['held'], usage['shared'], usage['bytes_in_use']\n"
        "before = memory.arena().usage()\n"
        "def work():\n"
        "    try:\n"
        "        executor.submit(numpy.sum, numpy.ones(1_000_000))\n"
        "    except ForkedPoolError:\n"
        "        print('refused')\n"
        "    with snakepit.Executor(1) as mine:\n"
        "        kept = [mine.submit(numpy.ones, 1_000_000).result(60) for _ in range(3)]\n"
        "        shared = snakepit.share(kept[0])\n"
        "        print(mine.submit(numpy.sum, shared).result(60))\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "assert in_child(work) == 0\n"
        "assert used(memory.arena().usage()) == used(before), (before, memory.arena().usage())\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["refused", "1000000.0"]


def test_pool_of_a_child_leaves_the_arguments_of_the_parents_calls_alone(tmp_path: Path) -> None:
    """Its workers' ends give back what they held in its own arena, by numbers of its own."""
    source = HEAD + (
        "import numpy\n"
        "def look_twice(array):\n"
        "    before = float(array.sum())\n"
        "    open('started', 'w').close()\n"
        "    wait_for('go')\n"
        "    return before, float(array.sum())\n"
        "executor = snakepit.Executor(1)\n"
        "future = executor.submit(look_twice, numpy.ones(500_000))\n"
        "wait_for('started')\n"
        "def work():\n"
        "    with snakepit.Executor(1) as mine:\n"
        "        mine.submit(numpy.ones, 500_000).result(60)\n"
        "assert in_child(work) == 0\n"
        "other = snakepit.Executor(1)\n"
        "kept = [other.submit(numpy.full, 500_000, 7.0).result(60) for _ in range(4)]\n"
        "open('go', 'w').close()\n"
        "print(future.result(60))\n"
        "other.shutdown()\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["(500000.0, 500000.0)"]


def test_child_may_read_what_was_shared_before_the_fork(tmp_path: Path) -> None:
    source = HEAD + (
        "import numpy\n"
        "shared = snakepit.share(numpy.arange(50_000.0).reshape(250, 200))\n"
        "def work():\n"
        "    with snakepit.Executor(1) as mine:\n"
        "        print(mine.submit(numpy.sum, shared).result(60) == shared.sum())\n"
        "        column = shared[:, 3]\n"
        "        print(mine.submit(lambda a: float(a.sum()), column).result(60) == column.sum())\n"
        "assert in_child(work) == 0\n"
    )
    assert run_clean(source, tmp_path) == ["True", "True"]


def test_child_that_comes_back_from_a_task_of_a_thread_leaves(tmp_path: Path) -> None:
    """There is one pool, and it is the parent's: the child runs nothing that is queued."""
    source = HEAD + (
        "executor = snakepit.Executor(1, profile='local')\n"
        "def fork_and_return(failing):\n"
        "    wait_for('go')\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        signal.alarm(30)\n"
        "        if failing:\n"
        "            raise SystemExit(7)\n"
        "        return None\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "pids = [executor.submit(fork_and_return, failing) for failing in (False, True)]\n"
        "queued = [executor.submit(os.getpid) for _ in range(5)]\n"
        "open('go', 'w').close()\n"
        "print([future.result(60) for future in pids])\n"
        "print({future.result(60) for future in queued} == {os.getpid()})\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["[0, 7]", "True"]


def test_forked_child_that_ends_while_a_worker_is_made_known(tmp_path: Path) -> None:
    """Forked when the worker runs and the pool has not noted it yet."""
    source = """
        import multiprocessing.util, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import snakepit
        from snakepit.lifecycle import supervisor

        def note(*args, make=supervisor.Worker):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    multiprocessing.util._exit_function()
                    status = 0
                finally:
                    os._exit(status)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            return make(*args)

        statuses = []
        supervisor.Worker = note
        if __name__ == "__main__":
            with snakepit.Executor(1) as executor:
                print(executor.submit(pow, 2, 3).result(60))
            print(statuses)
        """
    assert run_clean(source, tmp_path) == ["8", "[0]"]


def test_forked_child_may_have_a_pool_of_its_own(tmp_path: Path) -> None:
    source = IDLE + (
        "import numpy\n"
        "print(int(executor.submit(numpy.full, 100_000, 2).result(60).sum()))\n"
        "def work():\n"
        "    with snakepit.Executor(2) as mine:\n"
        "        print(list(mine.map(abs, range(-3, 0))))\n"
        "        print(int(mine.submit(numpy.full, 100_000, 1).result(60).sum()))\n"
        "assert in_child(work) == 0\n"
        "print(int(executor.submit(numpy.full, 100_000, 3).result(60).sum()))\n"
        "executor.shutdown()\n"
    )
    lines = ["8", "200000", "[3, 2, 1]", "100000", "300000"]
    assert run_clean(source, tmp_path) == lines


def test_fork_while_tasks_run_and_results_arrive(tmp_path: Path) -> None:
    source = IDLE + (
        "done = threading.Event()\n"
        "counts = [0]\n"
        "def work():\n"
        "    while not done.is_set():\n"
        "        assert executor.submit(pow, 2, 3).result(60) == 8\n"
        "        counts[0] += 1\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for n in range(20):\n"
        "    assert in_child(lambda: None) == 0\n"
        "    seen = counts[0]\n"
        "    while counts[0] == seen: time.sleep(0.001)\n"
        "done.set()\n"
        "for thread in threads: thread.join()\n"
        "executor.shutdown()\n"
        "print('end')\n"
    )
    assert run_clean(source, tmp_path) == ["8", "end"]


def test_results_taken_before_the_fork_are_readable_in_the_child(tmp_path: Path) -> None:
    source = IDLE + (
        "import numpy\n"
        "array = executor.submit(numpy.full, 100_000, 2).result(60)\n"
        "future = executor.submit(pow, 3, 3)\n"
        "future.result(60)\n"
        "def work():\n"
        "    print(int(array.sum()), future.result(0))\n"
        "assert in_child(work) == 0\n"
        "del array\n"
        "executor.shutdown()\n"
    )
    assert run_clean(source, tmp_path) == ["8", "200000 27"]


def test_multiprocessing_beside_the_pool(tmp_path: Path) -> None:
    source = """
        import multiprocessing, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import snakepit
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with snakepit.Executor(2) as executor:
                    print(executor.submit(pow, 2, 3).result(60))
                    with multiprocessing.get_context(method).Pool(2) as pool:
                        print(pool.map(abs, [-1, -2]))
                    print(executor.submit(pow, 2, 4).result(60))
        """
    assert run_clean(source, tmp_path) == ["8", "[1, 2]", "16"] * 3
