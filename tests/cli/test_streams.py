"""How ``snakepit map`` reads and writes: as a filter in a pipeline, with somebody who waits."""

import os
import signal
import subprocess
import termios
from contextlib import ExitStack

import pytest

from tests.support import is_running, wait_until

from .command import Command, ended, read_line, write

MEGABYTE = 1_000_000


@pytest.mark.parametrize("options", [[], ["--unordered"], ["--json"], ["--chunksize", "100"]])
def test_result_is_written_before_the_next_item_is_there(
    command: Command, options: list[str]
) -> None:
    process = command.start_map("functions:same", *options)
    for number in range(5):
        write(process, f"{number}\n")
        assert read_line(process) == str(number)
    assert ended(process).code == 0


def test_ordered_results_wait_for_the_one_before(command: Command) -> None:
    process = command.start_map("functions:wait")
    write(process, "a open\nb\n")
    wait_until(command.path("b.begun").exists)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    assert process.stdout.read() is None
    os.set_blocking(process.stdout.fileno(), True)
    command.path("open").touch()
    assert [read_line(process), read_line(process)] == ["a", "b"]
    assert ended(process).code == 0


def test_unordered_results_wait_for_none(command: Command) -> None:
    process = command.start_map("functions:wait", "--unordered")
    write(process, "a open\nb\n")
    assert read_line(process) == "b"
    command.path("open").touch()
    assert read_line(process) == "a"
    assert ended(process).code == 0


def test_slow_item_does_not_hold_back_quick_ones_of_its_call(command: Command) -> None:
    process = command.start_map("functions:wait")
    write(process, "".join(f"{number % 5}\n" for number in range(3_000)))
    for number in range(3_000):
        assert read_line(process) == str(number % 5)
    # The items are known to be quick by now, so all of these go into one call.
    write(process, "a\nb\nc open\nd open\n")
    wait_until(command.path("c.begun").exists)
    command.path("open").touch()
    assert [read_line(process) for _ in range(4)] == ["a", "b", "c", "d"]
    assert ended(process).code == 0


def test_input_is_not_read_far_ahead(command: Command) -> None:
    source = command.path("lines.txt")
    source.write_text("a open\n" * (50 * MEGABYTE // 7))
    with source.open("rb") as lines:
        process = command.start_map("functions:wait", stdin=lines)
        wait_until(command.path("a.begun").exists)
        # The descriptors share one position: this is how far the command has read.
        assert os.lseek(lines.fileno(), 0, os.SEEK_CUR) < MEGABYTE
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130


def test_slow_reader_of_the_output_holds_back_the_reading(command: Command) -> None:
    source = command.path("lines.txt")
    size = 100 * MEGABYTE
    source.write_bytes((b"x" * 99 + b"\n") * (size // 100))
    with source.open("rb") as lines:
        process = command.start_map("functions:same", stdin=lines)
        assert process.stdout is not None
        taken = 0
        while taken < size:
            ahead = os.lseek(lines.fileno(), 0, os.SEEK_CUR) - taken
            assert ahead < 20 * MEGABYTE
            taken += len(process.stdout.read(MEGABYTE))
        assert ended(process).code == 0


def test_closed_output_ends_it_quietly(command: Command) -> None:
    with ExitStack() as stack:
        endless = stack.enter_context(subprocess.Popen(["yes"], stdout=subprocess.PIPE))
        stack.callback(endless.kill)
        process = command.start_map("functions:name_of_worker", stdin=endless.stdout)
        worker = int(read_line(process))
        assert process.stdout is not None
        process.stdout.close()
        process.wait(60)
        assert process.stderr is not None
        assert (process.returncode, process.stderr.read()) == (141, b"")
        wait_until(lambda: not is_running(worker))


@pytest.mark.parametrize("profile", ["process", "local"])
def test_interrupt_ends_it_with_one_line(command: Command, profile: str) -> None:
    process = command.start_map("functions:wait", "--profile", profile)
    write(process, "quick\na never\nb never\n")
    assert read_line(process) == "quick"
    wait_until(command.path("b.begun").exists)
    worker = int(wait_until(command.path("b.begun").read_text))
    os.killpg(process.pid, signal.SIGINT)
    end = ended(process)
    assert (end.code, end.output) == (130, b"")
    assert end.error_lines == ["snakepit: interrupted"]
    wait_until(lambda: not is_running(worker))


def test_interrupt_while_it_waits_for_input(command: Command) -> None:
    process = command.start_map("functions:same")
    write(process, "a\n")
    assert read_line(process) == "a"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert ended(process).error_lines == ["snakepit: interrupted"]


def test_control_c_on_a_terminal(command: Command) -> None:
    ours, terminal = os.openpty()
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    try:
        process = command.start_map(
            "functions:wait",
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            preexec_fn=lambda: os.login_tty(os.dup(terminal)),
        )
        os.write(ours, b"a\nb never\n")
        wait_until(command.path("b.begun").exists)
        assert read_terminal(ours, b"\n") == b"a\r\n"
        os.write(ours, b"\x03")
        assert process.wait(60) == 130
        assert read_terminal(ours, b"\n") == b"snakepit: interrupted\r\n"
    finally:
        os.close(ours)
        os.close(terminal)


def test_results_show_at_once_on_a_terminal(command: Command) -> None:
    ours, terminal = os.openpty()
    try:
        process = command.start_map("functions:same", stdout=terminal)
        write(process, "a\n")
        assert read_terminal(ours, b"\n") == b"a\r\n"
        write(process, "b\n")
        assert read_terminal(ours, b"\n") == b"b\r\n"
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        os.close(ours)
        os.close(terminal)


def test_full_disk_is_reported_in_one_line(command: Command) -> None:
    with open("/dev/full", "wb") as full:
        process = command.start_map("functions:same", stdout=full)
        end = ended(process, b"a\n" * 10_000)
    assert end.code == 1
    assert end.error_lines == ["snakepit map: cannot write the results: No space left on device"]


def read_terminal(descriptor: int, until: bytes) -> bytes:
    """Read from the other side of a terminal until what was read ends so."""
    text = b""
    while not text.endswith(until):
        text += os.read(descriptor, 1_000)
    return text
