"""Functions and classes that the tests run in workers.

They live apart from the tests so that a worker which imports them imports nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 60.0
"""Seconds that a task waits at a gate before it gives up."""

HELPER: Any = None
"""A process that an initializer has started."""


class Gate:
    """A door that any process can open, look at, and wait for; it is a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self) -> None:
        # One call that holds no descriptor: a task may be interrupted anywhere in here.
        with contextlib.suppress(FileExistsError):
            os.mknod(self.path)

    def is_open(self) -> bool:
        return self.path.exists()

    def wait(self, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not self.path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.path.name} stayed shut for {timeout:g} s")
            time.sleep(0.002)


class Log:
    """Lines in the order in which any processes added them; it is a file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def add(self, line: object) -> None:
        # One write to a file opened for appending: lines of several processes never mix.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


class Thing:
    """An object that can be referenced weakly."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def method(self) -> None:
        return None


def identity(value: Any) -> Any:
    return value


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def square(number: int) -> int:
    return number * number


def add(left: Any, right: Any) -> Any:
    return left + right


def hold(started: Gate, release: Gate, value: Any = None) -> Any:
    """Say that the task runs, wait until it may end, return `value`."""
    started.open()
    release.wait()
    return value


def hold_pid(started: Gate, release: Gate) -> int:
    started.open()
    release.wait()
    return os.getpid()


def record(log: Log, line: object) -> object:
    log.add(line)
    return line


def log_both(log: Log, number: int) -> int:
    log.add("+")
    log.add("-")
    return number


def sleep_and_return(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def wait_if_first(slow: Gate, release: Gate) -> None:
    """Wait for a gate, if this closes the other one, which is open for one worker."""
    with contextlib.suppress(FileNotFoundError):
        slow.path.unlink()
        release.wait()


def pid_after(release: Gate) -> int:
    release.wait()
    return os.getpid()


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_deeply() -> NoReturn:
    def inner() -> NoReturn:
        raise RuntimeError("from the depths")  # a comment that only the source has

    inner()


def fail_with_cause() -> NoReturn:
    try:
        raise KeyError("the first thing")
    except KeyError as error:
        raise ValueError("the second thing") from error


def fail_with_context() -> NoReturn:
    try:
        raise KeyError("the first thing")
    except KeyError:
        raise ValueError("the second thing")  # noqa: B904 - the implicit context is the point


def fail_when(number: int, bad: int) -> int:
    if number == bad:
        raise ValueError(number)
    return number


def fail_after(gate: Gate) -> NoReturn:
    gate.wait()
    raise ValueError("as asked")


# Exceptions that are hard to bring home


class PlainError(Exception):
    """An exception with state."""


class TwoArgumentsError(Exception):
    """Its constructor takes other arguments than those that it keeps."""

    def __init__(self, left: object, right: object) -> None:
        super().__init__(f"{left} and {right}")


class UnpicklableError(Exception):
    """It holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def fail_with_two_arguments() -> NoReturn:
    raise TwoArgumentsError("left", "right")


def fail_unpicklably() -> NoReturn:
    raise UnpicklableError("held a lock")


def fail_with_state() -> NoReturn:
    error = PlainError("text", 7)
    error.colour = "blue"  # type: ignore[attr-defined]
    error.add_note("a note")
    raise error


def fail_with_group() -> NoReturn:
    raise ExceptionGroup("several", [ValueError(1), KeyError("two")])


# Values that misbehave on their way


def raise_at_load(text: str) -> NoReturn:
    raise ValueError(text)


def exit_at_load() -> NoReturn:
    sys.exit("exit while unpickling")


def interrupt_at_load() -> NoReturn:
    raise KeyboardInterrupt


def die_at_load() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


class RaisesWhenLoaded:
    def __reduce__(self) -> tuple[Any, ...]:
        return raise_at_load, ("bad to load",)


class ExitsWhenLoaded:
    def __reduce__(self) -> tuple[Any, ...]:
        return exit_at_load, ()


class InterruptsWhenLoaded:
    def __reduce__(self) -> tuple[Any, ...]:
        return interrupt_at_load, ()


class DiesWhenLoaded:
    def __reduce__(self) -> tuple[Any, ...]:
        return die_at_load, ()


class RaisesWhenDumped:
    def __reduce__(self) -> tuple[Any, ...]:
        raise ValueError("bad to dump")


class ExitsWhenDumped:
    def __reduce__(self) -> tuple[Any, ...]:
        sys.exit("exit while pickling")


class DiesWhenDumped:
    def __reduce__(self) -> tuple[Any, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


def build(cls: type[Any]) -> Any:
    return cls()


def make_lock() -> Any:
    return threading.Lock()


def make_generator() -> Iterator[int]:
    return iter(number for number in range(3))


# State of a worker

STATUS = "untouched"


def set_status(value: str) -> None:
    global STATUS
    STATUS = value


def get_status() -> str:
    return STATUS


def get_status_and_pid() -> tuple[str, int]:
    return STATUS, os.getpid()


def log_start(log: Log) -> None:
    log.add(os.getpid())
    set_status("initialised")


def fail_to_start(log: Log | None = None) -> NoReturn:
    if log is not None:
        log.add(os.getpid())
    raise ValueError("the initializer fails on purpose")


def exit_at_start(log: Log) -> NoReturn:
    log.add(os.getpid())
    os._exit(3)


def leave_at_start(log: Log) -> NoReturn:
    log.add(os.getpid())
    sys.exit(4)


class Remains:
    """Adds a line to a log when it is freed in a worker."""

    def __init__(self, log: Log, home: int) -> None:
        self.log = log
        self.home = home

    def __del__(self) -> None:
        if os.getpid() != self.home:
            self.log.add("freed")


# Ways to end


def kill_self(number: int = signal.SIGKILL) -> NoReturn:
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)
    raise AssertionError("survived the signal")


def exit_process(status: int = 1) -> NoReturn:
    os._exit(status)


def exit_here() -> NoReturn:
    """Raise SystemExit, in whatever thread."""
    raise SystemExit(3)


def crash() -> None:
    import ctypes
    import faulthandler

    faulthandler.disable()
    ctypes.string_at(0)


def crash_with(_value: object) -> None:
    crash()


def recurse_forever(depth: int = 0) -> int:
    # Through C, where frames take stack.
    return max([depth], key=lambda _: recurse_forever(depth + 1))


def spin(started: Gate) -> NoReturn:
    """Run Python code that never sleeps."""
    started.open()
    number = 0
    while True:
        number += 1


def spin_ignoring_sigterm(started: Gate) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spin(started)


def swallow_interrupts(started: Gate) -> NoReturn:
    """Go on whatever is raised in this thread, but end by SIGTERM."""
    started.open()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            continue


def swallow_everything(started: Gate) -> NoReturn:
    """Go on whatever is raised in this thread."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    swallow_interrupts(started)


def sleep_long(started: Gate) -> None:
    started.open()
    time.sleep(10 * PATIENCE)


def print_lines(count: int, width: int) -> int:
    for number in range(count):
        print(f"{number:08d}".ljust(width, "x"))
    return count


# Tasks that use the pool that runs them


def nested_fibonacci(number: int) -> int:
    import snakepit

    if number < 2:
        return number
    pool = snakepit.current_pool()
    left = pool.submit(nested_fibonacci, number - 1)
    right = pool.submit(nested_fibonacci, number - 2)
    return int(left.result(PATIENCE) + right.result(PATIENCE))


def nested_chain(depth: int) -> int:
    import snakepit

    if depth == 0:
        return 0
    return int(snakepit.current_pool().submit(nested_chain, depth - 1).result(PATIENCE)) + 1


def nested_wait(depth: int) -> int:
    import concurrent.futures

    import snakepit

    if depth == 0:
        return 1
    pool = snakepit.current_pool()
    children = [pool.submit(nested_wait, depth - 1) for _ in range(3)]
    done, pending = concurrent.futures.wait(children, timeout=PATIENCE)
    assert not pending
    return sum(child.result(0) for child in done)


def nested_as_completed(depth: int) -> int:
    import concurrent.futures

    import snakepit

    if depth == 0:
        return 1
    pool = snakepit.current_pool()
    children = [pool.submit(nested_as_completed, depth - 1) for _ in range(3)]
    return sum(
        child.result(0) for child in concurrent.futures.as_completed(children, timeout=PATIENCE)
    )


def nested_map(count: int) -> list[int]:
    import snakepit

    return list(snakepit.current_pool().map(square, range(count)))


def nested_failure() -> str:
    import snakepit

    try:
        snakepit.current_pool().submit(fail, ValueError("inner")).result(PATIENCE)
    except ValueError as error:
        return f"caught {error}"
    return "nothing raised"


def nested_crash() -> str:
    import snakepit

    try:
        snakepit.current_pool().submit(exit_process).result(PATIENCE)
    except snakepit.errors.WorkerCrashedError as error:
        return type(error).__name__
    return "nothing raised"


def nested_unawaited(log: Log, count: int) -> None:
    import snakepit

    for number in range(count):
        snakepit.current_pool().submit(record, log, number)


def nested_callback(log: Log) -> None:
    import snakepit

    child = snakepit.current_pool().submit(square, 7)
    child.add_done_callback(lambda future: log.add(future.result()))
    child.result(PATIENCE)
