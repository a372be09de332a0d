"""Adapters that the tests run in workers; apart, so that a worker imports nothing else."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import snakepit
from snakepit import tool
from snakepit.adapters import turns
from tests.executor.tasks import Gate, Log


def dawdle() -> None:
    """Take a minute, in which an interrupt is met at once."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.002)


class Counter(snakepit.Adapter):
    """Counts its calls, and says what it lives through."""

    __thread_safe__ = True
    loaded: ClassVar[list[int]] = []

    def __init__(self, log: Log | None = None, start: int = 0) -> None:
        self.log = log
        self.count = start
        self.sick = False
        self.lock = threading.Lock()

    @classmethod
    def preload(cls) -> None:
        cls.loaded.append(os.getpid())

    def note(self, line: object) -> None:
        if self.log is not None:
            self.log.add(line)

    def setup(self) -> None:
        self.note("setup")

    def teardown(self) -> None:
        self.note("teardown")

    def health(self) -> bool:
        return not self.sick

    @tool
    def echo(self, value: Any) -> Any:
        """Return the value."""
        return value

    @tool
    def increment(self, by: int = 1) -> int:
        with self.lock:
            self.count += by
            return self.count

    @tool
    def pid(self) -> int:
        return os.getpid()

    @tool
    def preloaded_in(self) -> list[int]:
        return self.loaded

    @tool
    def fall_sick(self) -> int:
        self.sick = True
        return os.getpid()

    @tool
    def hold(self, started: Gate, release: Gate, value: Any = None) -> Any:
        """Say that the call runs, wait until it may end, return the value."""
        started.open()
        release.wait()
        return value

    @tool
    def record(self, line: str) -> str:
        self.note(line)
        return line

    @tool
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @tool
    def die(self) -> None:
        os._exit(7)

    @tool(timeout=0.2)
    def sleep_long(self, started: Gate) -> None:
        started.open()
        dawdle()

    @tool
    def dawdle(self, started: Gate) -> None:
        """Take a minute, and say at the end that it has cleaned up."""
        try:
            started.open()
            dawdle()
        finally:
            self.note("cleaned up")

    @tool
    def stay(self, started: Gate) -> None:
        """Take a minute, whatever is raised in it."""
        started.open()
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(BaseException):
                dawdle()

    @tool(streaming=True)
    def endless(self) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            self.note("cleaned up")

    @tool(idempotent=True)
    def die_once(self, marker: Gate) -> int:
        if not marker.is_open():
            marker.open()
            os._exit(7)
        return os.getpid()

    @tool(streaming=True)
    def count_to(self, last: int) -> Iterator[int]:
        yield from range(1, last + 1)

    @tool
    def anything(self, **more: Any) -> dict[str, Any]:
        return more


class Hooked(snakepit.Adapter):
    """Has a say in each of its calls."""

    def validate_command(self, command: str, args: dict[str, Any]) -> None:
        if args.get("word") == "forbidden":
            raise PermissionError(f"{command} of a forbidden word")

    def prepare_args(self, command: str, args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "word": args["word"].strip()}

    def process_response(self, command: str, response: Any) -> Any:
        return {"command": command, "response": response}

    @classmethod
    def command_timeout(cls, command: str, args: dict[str, Any]) -> float | None:
        return 0.2 if args["word"] == "slow" else None

    @tool
    def shout(self, word: str, times: int = 1) -> str:
        if word == "slow":
            dawdle()
        return word.upper() * times

    @tool
    def whisper(self, word: str, times: int = 1, /) -> str:
        return word.lower() * times


class WrongHooks(snakepit.Adapter):
    """Its hooks return what is no use, as those do in which a `return` was forgotten."""

    returned: ClassVar[Any] = None

    def prepare_args(self, command: str, args: dict[str, Any]) -> Any:
        return self.returned

    @tool
    def shout(self, word: str) -> str:
        return word.upper()

    @tool
    def whisper(self, word: str, /) -> str:
        return word.lower()

    @tool(streaming=True)
    def spell(self, word: str) -> Iterator[str]:
        yield from word


class WrongNames(WrongHooks):
    returned: ClassVar[Any] = {1: "word"}


class WrongTimeout(snakepit.Adapter):
    @classmethod
    def command_timeout(cls, command: str, args: dict[str, Any]) -> Any:
        return "soon" if command == "pid" else [1]

    @tool
    def pid(self) -> int:
        return os.getpid()

    @tool(streaming=True)
    def pids(self) -> Iterator[int]:
        yield os.getpid()


class Typed(snakepit.Adapter):
    """Tools of every kind of signature."""

    @tool
    def plain(self, a: int, b: float = 0.5, *, flag: bool = False) -> list[Any]:
        return [a, b, flag]

    @tool
    def gaps(self, a: int, b: int = 2, c: int = 3) -> list[int]:
        return [a, b, c]

    @tool
    def mutable(self, a: int, b: list[int] = [], c: int = 3) -> list[Any]:  # noqa: B006
        return [a, b, c]

    @tool
    def by_place(self, a: int, b: list[int] = [], /, c: int = 3) -> list[Any]:  # noqa: B006
        return [a, b, c]

    @tool
    def by_place_and_name(self, a: int, /, *, flag: bool = False, **more: Any) -> list[Any]:
        return [a, flag, more]

    @tool(streaming=True)
    def stream_by_place(self, last: int, /, *, first: int = 1) -> Iterator[int]:
        yield from range(first, last + 1)

    @tool
    def union(self, value: int | str | None) -> Any:
        return value

    @tool
    def literal(self, mode: Literal["fast", "slow", 1]) -> Any:
        return mode

    @tool
    def generic(self, values: list[int]) -> int:
        return len(values)

    @tool
    def anything(self, **more: Any) -> dict[str, Any]:
        return more

    @tool
    def unresolved(self, value: NotThere) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return value


class Turns(snakepit.Adapter):
    """Sees how many of its calls run at once, and in which order they begin."""

    __thread_safe__ = True

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = 0
        self.begun: list[Any] = []

    def enter(self, name: Any) -> None:
        with self.lock:
            self.begun.append(name)
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1

    @tool(thread_sensitive=True)
    def alone(
        self, name: Any = None, began: Gate | None = None, release: Gate | None = None
    ) -> Any:
        self.enter(name)
        try:
            if began is not None:
                began.open()
            if release is None:
                threading.Event().wait(0.01)
            else:
                release.wait()
        finally:
            self.leave()
        return name

    @tool
    def waiting(self) -> int:
        """How many calls of this adapter wait for their turn."""
        return max(len(each._waiting) for each in gc.get_objects() if isinstance(each, turns.Turns))

    @tool(thread_sensitive=True, streaming=True)
    def alone_in_parts(self, count: int) -> Iterator[int]:
        self.enter("stream")
        try:
            for number in range(count):
                threading.Event().wait(0.001)
                yield number
        finally:
            self.leave()

    @tool(thread_sensitive=True)
    def alone_twice(self, between: Any) -> Any:
        """Call a host tool of that name, or a function, between two parts that run alone."""
        self.enter("first")
        self.leave()
        assert isinstance(between, str) is (self.session is not None)
        value = between() if self.session is None else self.session.call_tool(between)
        self.enter("second")
        self.leave()
        return value

    @tool(thread_sensitive=True)
    def stay(self, release: Any) -> None:
        self.enter("stay")
        try:
            release.wait()
        finally:
            self.leave()

    @tool
    def seen(self) -> tuple[int, list[Any]]:
        return self.most, self.begun


class BadSetup(snakepit.Adapter):
    def setup(self) -> None:
        raise OSError("no such model")

    @tool
    def pid(self) -> int:
        return os.getpid()


class BadPreload(snakepit.Adapter):
    @classmethod
    def preload(cls) -> None:
        raise OSError("no such file")

    @tool
    def pid(self) -> int:
        return os.getpid()


class Leaves(snakepit.Adapter):
    """Calls `sys.exit` in one of its steps, as a wrapped script may."""

    step: ClassVar[str] = ""

    def __init__(self) -> None:
        self.leave("construct")

    @classmethod
    def leave(cls, step: str) -> None:
        if step == cls.step:
            sys.exit(f"no licence in {step}")

    @classmethod
    def preload(cls) -> None:
        cls.leave("preload")

    def setup(self) -> None:
        self.leave("setup")

    @tool
    def pid(self) -> int:
        return os.getpid()


class LeavesPreload(Leaves):
    step = "preload"


class LeavesConstructor(Leaves):
    step = "construct"


class LeavesSetup(Leaves):
    step = "setup"


class DiesInPreload(LeavesPreload):
    @classmethod
    def leave(cls, step: str) -> None:
        if step == cls.step:
            os._exit(3)


class DiesInSetup(DiesInPreload):
    step = "setup"


class LeavesLate(snakepit.Adapter):
    """Calls `sys.exit` when it is asked for its health, and when it is to give back."""

    def health(self) -> bool:
        sys.exit("no health")

    def teardown(self) -> None:
        sys.exit("no teardown")

    @tool
    def pid(self) -> int:
        return os.getpid()


class Threaded(snakepit.Adapter):
    """Starts a thread where it will be gone."""

    thread: ClassVar[threading.Thread]

    @classmethod
    def preload(cls) -> None:
        cls.thread = threading.Thread(target=threading.Event().wait, name="refresher", daemon=True)
        cls.thread.start()

    @tool
    def is_alive(self) -> bool:
        return self.thread.is_alive()


class SlowTeardown(snakepit.Adapter):
    def teardown(self) -> None:
        threading.Event().wait(60)

    @tool
    def pid(self) -> int:
        return os.getpid()


class Unsafe(snakepit.Adapter):
    @tool
    def ping(self) -> str:
        return "pong"


class Probe(snakepit.Adapter):
    """Tools that show how a pool treats its calls."""

    __thread_safe__ = True

    @tool
    def echo(self, value: Any) -> Any:
        return value

    @tool
    def append(self, items: list[int]) -> list[int]:
        items.append(1)
        return items

    @tool
    def fail(self, text: str) -> None:
        raise ValueError(text)

    @tool
    def wait_for(self, path: str, began: str | None = None) -> str:
        if began is not None:
            Path(began).touch()
        while not Path(path).exists() and not snakepit.cancelled():
            threading.Event().wait(0.002)
        return "cancelled" if snakepit.cancelled() else "came"

    @tool(streaming=True)
    def count(self, up_to: int, ended: str | None = None, fail: bool = False) -> Iterator[int]:
        try:
            yield from range(up_to)
            if fail:
                raise ValueError("after the chunks")
        finally:
            if ended is not None:
                Path(ended).touch()

    @tool(streaming=True)
    def blocks(self, count: int, size: int, progress: str) -> Iterator[bytes]:
        """Note in the file how many were made, before each."""
        for number in range(1, count + 1):
            Path(progress).write_text("#" * number)
            yield bytes(size)

    @tool(streaming=True)
    def count_after(self, path: str) -> Iterator[int]:
        while not Path(path).exists():
            threading.Event().wait(0.002)
        yield from range(3)

    @tool
    def where(self) -> tuple[int, int]:
        """Return the process and the thread that run the call."""
        return os.getpid(), threading.get_ident()

    @tool
    def heed_nothing(self, path: str, began: str, ended: str) -> None:
        """Wait for the file, whatever is raised in it."""
        while True:
            try:
                # In here: from then on it may be interrupted. And not with `contextlib.suppress`,
                # in whose own code it could be.
                Path(began).touch()
                while not Path(path).exists():
                    threading.Event().wait(0.002)
                break
            except BaseException:
                continue
        Path(ended).touch()

    @tool
    def die(self) -> None:
        os._exit(7)

    @tool
    def session_id(self) -> str | None:
        return None if self.session is None else self.session.id

    @tool
    def await_change(self, name: str, began: str) -> tuple[Any, int]:
        assert self.session is not None
        changes = self.session.watch_variable(name)
        Path(began).touch()
        change: tuple[Any, int] = next(changes)
        return change

    @tool
    def add_to(self, name: str, amount: int) -> int:
        assert self.session is not None
        return int(self.session.update_variable(name, lambda value: value + amount))

    @tool
    def set_to(self, name: str, value: Any) -> int:
        assert self.session is not None
        return int(self.session.set_variable(name, value))

    @tool
    def read(self, name: str) -> Any:
        assert self.session is not None
        return self.session.get_variable(name)

    @tool
    def ask_host(self, tool: str, value: Any) -> Any:
        assert self.session is not None
        return self.session.call_tool(tool, value)


class Importing(snakepit.Adapter):
    """Sees what its calls import."""

    def setup(self) -> None:
        self.before = set(sys.modules)

    @tool
    def imported(self) -> list[str]:
        return sorted(set(sys.modules) - self.before)


class GatedPreload(snakepit.Adapter):
    """Its preload waits until a FIFO is opened, whose path is in the environment."""

    @classmethod
    def preload(cls) -> None:
        with open(os.environ["SNAKEPIT_TEST_GATE"]):
            pass

    @tool
    def ping(self) -> str:
        return "pong"


class Newborn(snakepit.Adapter):
    """Knows when its process began, and takes its time to be set up."""

    __thread_safe__ = True

    def __init__(self, seconds: float = 0.0) -> None:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        self.born = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # to a hundredth of a second
        time.sleep(seconds)

    @tool
    def born_at(self) -> tuple[int, float]:
        time.sleep(0.02)
        return os.getpid(), self.born


class Surrounded(snakepit.Adapter):
    """Notes what each of its steps sees of the environment."""

    preloaded: ClassVar[str | None] = None

    def __init__(self) -> None:
        self.noted = [type(self).preloaded, os.environ.get("COLOUR")]

    @classmethod
    def preload(cls) -> None:
        cls.preloaded = os.environ.get("COLOUR")

    def setup(self) -> None:
        self.noted.append(os.environ.get("COLOUR"))

    @tool
    def seen(self) -> list[str | None]:
        return [*self.noted, os.environ.get("COLOUR")]


class Programs(snakepit.Adapter):
    """Makes programs, and executes them wherever it is asked to."""

    __thread_safe__ = True

    @tool
    def create_program(self, signature: str, program_id: str | None = None) -> Any:
        if signature == "number":
            return 7
        made = {"signature": signature}
        if program_id is None and signature != "nameless":
            made["program_id"] = signature.split(" -> ")[1]
        return made

    @tool
    def execute_program(self, program: Any, value: int) -> Any:
        return program["signature"], value

    @tool
    def session_id(self) -> str | None:
        return None if self.session is None else self.session.id


class Naming(snakepit.Adapter):
    """Takes the id of the program beside it; makes none."""

    @tool
    def execute_program(self, program: Any, program_id: str) -> Any:
        return program, program_id


class NoPrograms(snakepit.Adapter):
    """Has a tool of the name that cannot be given a program."""

    @tool
    def execute_program(self, value: int) -> int:
        return value
