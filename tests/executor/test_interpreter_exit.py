"""Programs that end with a pool still there, in every way in which a program can end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import KINDS, run_clean, run_script

WAYS = ["template", "spawn", "local"]


@pytest.fixture(params=WAYS)
def options(request: pytest.FixtureRequest) -> str:
    """Return the arguments that make an executor of one kind, as source."""
    return ", ".join(f"{name}={value!r}" for name, value in KINDS[request.param].items())


GUARDED = """
import os, sys, time
import snakepit

def say(seconds, text):
    time.sleep(seconds)
    os.write(1, (text + "\\n").encode())  # print() may write a line in two pieces

if __name__ == "__main__":
    executor = snakepit.Executor(2, {options})
"""


def guarded(options: str, *lines: str) -> str:
    """Return a program whose main block makes `executor` and then does `lines`."""
    return GUARDED.format(options=options) + "".join(f"    {line}\n" for line in lines)


def test_pending_work_is_done_before_the_end(options: str, tmp_path: Path) -> None:
    source = guarded(
        options, "for n in range(6):", "    executor.submit(say, 0.1, 'apple')", "print('main')"
    )
    lines = run_clean(source, tmp_path)
    assert sorted(lines) == ["apple"] * 6 + ["main"]


def test_pending_work_after_a_shutdown_without_waiting(options: str, tmp_path: Path) -> None:
    source = guarded(options, "executor.submit(say, 0.5, 'apple')", "executor.shutdown(wait=False)")
    assert run_clean(source, tmp_path) == ["apple"]


def test_cancelling_shutdown_without_waiting(options: str, tmp_path: Path) -> None:
    source = guarded(
        options,
        "executor.submit(say, 0.1, 'apple')",
        "executor.shutdown(wait=False, cancel_futures=True)",
    )
    assert run_clean(source, tmp_path) in (["apple"], [])


def test_idle_pool_without_a_shutdown(options: str, tmp_path: Path) -> None:
    assert run_clean(guarded(options, "print(executor.submit(pow, 2, 3).result())"), tmp_path) == [
        "8"
    ]


def test_pool_that_was_never_used(options: str, tmp_path: Path) -> None:
    assert run_clean(guarded(options, "print('end')"), tmp_path) == ["end"]


def test_submit_while_the_interpreter_ends_is_refused(options: str, tmp_path: Path) -> None:
    source = "import atexit\n" + guarded(
        options,
        "def late():",
        "    try:",
        "        executor.submit(pow, 2, 3)",
        "    except RuntimeError as error:",
        "        print(type(error).__name__)",
        "atexit.register(late)",
        "executor.submit(pow, 2, 3).result()",
    )
    assert run_clean(source, tmp_path) == ["PoolShutdownError"]


def test_main_that_raises(options: str, tmp_path: Path) -> None:
    source = guarded(options, "executor.submit(say, 0.1, 'apple')", "raise LookupError('boom')")
    outcome = run_script(source, tmp_path)
    assert outcome.returncode == 1
    assert outcome.lines == ["apple"]
    assert outcome.stderr.count("Traceback") == 1
    assert outcome.stderr.rstrip().endswith("LookupError: boom")


def test_main_that_calls_exit_in_the_block(options: str, tmp_path: Path) -> None:
    source = guarded(
        options, "with executor:", "    executor.submit(say, 0.1, 'apple')", "    sys.exit(7)"
    )
    outcome = run_script(source, tmp_path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (7, "apple\n", "")


def test_pool_in_a_global_of_a_module(options: str, tmp_path: Path) -> None:
    (tmp_path / "keeper.py").write_text(
        f"import snakepit\nexecutor = None\ndef make():\n"
        f"    global executor\n    executor = snakepit.Executor(2, {options})\n"
    )
    source = """
        import keeper
        if __name__ == "__main__":
            keeper.make()
            print(list(keeper.executor.map(abs, range(-3, 0))))
        """
    assert run_clean(source, tmp_path) == ["[3, 2, 1]"]


def test_pool_in_a_reference_cycle(options: str, tmp_path: Path) -> None:
    source = guarded(
        options,
        "class Owner: pass",
        "owner = Owner()",
        "owner.self = owner",
        "owner.executor = executor",
        "owner.future = executor.submit(pow, 2, 3)",
        "del executor, owner",
    )
    assert run_clean(source, tmp_path) == []


def test_pool_used_in_a_daemon_thread_at_the_end(options: str, tmp_path: Path) -> None:
    source = guarded(
        options,
        "import threading",
        "def work():",
        "    while True:",
        "        try:",
        "            executor.submit(pow, 2, 3).result()",
        "        except RuntimeError:",
        "            return",
        "threading.Thread(target=work, daemon=True).start()",
        "time.sleep(0.3)",
    )
    assert run_clean(source, tmp_path) == []


def test_pool_used_in_a_thread_that_outlives_the_main_one(options: str, tmp_path: Path) -> None:
    """The interpreter joins such a thread before anything is shut down."""
    source = guarded(
        options,
        "import threading",
        "def work():",
        "    time.sleep(0.3)",
        "    try:",
        "        print(executor.submit(pow, 2, 3).result())",
        "    except RuntimeError as error:",
        "        print(8)",
        "threading.Thread(target=work).start()",
    )
    assert run_clean(source, tmp_path) == ["8"]


def test_many_results_nobody_reads(options: str, tmp_path: Path) -> None:
    source = guarded(
        options, "for n in range(200):", "    executor.submit(bytes, 100_000)", "print('end')"
    )
    assert run_clean(source, tmp_path) == ["end"]


def test_views_held_to_the_end(tmp_path: Path) -> None:
    source = """
        import numpy, snakepit
        executor = snakepit.Executor(2)
        arrays = [executor.submit(numpy.full, 200_000, n).result() for n in range(5)]
        shared = snakepit.share(numpy.arange(100_000))
        print([int(a[-1]) for a in arrays], int(shared[-1]))
        """
    assert run_clean(source, tmp_path) == ["[0, 1, 2, 3, 4] 99999"]


def test_silent_import(tmp_path: Path) -> None:
    source = """
        import sys, threading, multiprocessing
        import snakepit
        heavy = ["grpc", "pydantic", "rich", "typer", "tqdm", "prometheus_client", "opentelemetry"]
        print([name for name in heavy if name in sys.modules])
        print(threading.active_count(), len(multiprocessing.active_children()))
        """
    assert run_clean(source, tmp_path) == ["[]", "1 0"]
