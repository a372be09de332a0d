"""A program that makes a pool keeps what it has set up itself: its signal handlers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support import run_script, start_script

HANDLERS = """
    import os, signal, sys, threading
    import snakepit

    NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    came = {{number: threading.Event() for number in NUMBERS}}

    def handler(number, frame):
        came[number].set()

    def heard(number):
        # In short waits: whichever thread the signal reached, its handler runs in this one, and
        # not while that waits.
        return any(came[number].wait(0.01) for _ in range(6000))

    def kept():
        return all(signal.getsignal(number) is handler for number in NUMBERS)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        for number in NUMBERS:
            signal.signal(number, handler)
        OPTIONS = {options!r}
        executor = snakepit.Executor(2, **OPTIONS)
    """

OPTIONS = [
    {"start_method": "template"},
    {"start_method": "spawn"},
    {"start_method": "fork"},
    {"profile": "thread", "threads_per_worker": 2},
    {"profile": "local"},
]


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda options: "-".join(map(str, options.values()))
)
def test_a_program_keeps_its_signal_handlers(tmp_path: Path, options: dict[str, object]) -> None:
    source = (
        HANDLERS.format(options=options)
        + """
        with executor:
            print(executor.submit(pow, 2, 3).result(60), kept())
            if "profile" not in OPTIONS:
                print(type(executor.submit(die).exception(60)).__name__, kept())
                print(executor.submit(pow, 2, 4).result(60), kept())
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                print(heard(number), executor.submit(pow, 2, 5).result(60), kept())
        print("ended", kept())
    """
    )
    outcome = run_script(source, tmp_path)
    crash = [] if "profile" in options else ["WorkerCrashedError True", "16 True"]
    expected = ["8 True", *crash, "True 32 True", "True 32 True", "ended True"]
    assert outcome.lines == expected, outcome.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_program_handles_does_not_end_its_calls(
    tmp_path: Path, number: signal.Signals
) -> None:
    source = (
        HANDLERS.format(options={"start_method": "template"})
        + f"""
        with executor:
            executor.wait_ready(60)
            pids = executor.worker_pids()
            future = executor.submit(sum, range(50_000_000))
            print(flush=True)
            print(heard(signal.Signals({int(number)})))
            print(future.result(60), executor.worker_pids() == pids, kept())
    """
    )
    script = start_script(source, tmp_path)
    script.read_line()
    script.process.send_signal(number)
    assert script.read_line() == "True"
    assert script.read_line() == f"{sum(range(50_000_000))} True True"
    assert script.finish().returncode == 0
