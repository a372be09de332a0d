"""What the tests of sessions run in workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import snakepit
from snakepit.worker.session import SessionContext
from tests.executor.tasks import Gate, Log


def here() -> SessionContext:
    """Return the session of the running call."""
    session = snakepit.current_session()
    assert session is not None
    return session


def has_session() -> bool:
    return snakepit.current_session() is not None


def session_id() -> str:
    return here().id


def look_from_a_thread(go: Gate, log: Log) -> None:
    """Start a thread that logs what session it has after `go`."""

    def look() -> None:
        go.wait()
        log.add(str(snakepit.current_session()))

    threading.Thread(target=look, daemon=True).start()


def hold_session(started: Gate, release: Gate) -> str:
    started.open()
    release.wait()
    return session_id()


def run(method: str, *args: Any) -> Any:
    """Call a method of the session."""
    return getattr(here(), method)(*args)


def run_uncached(method: str, *args: Any) -> Any:
    """Call a method of the session that nothing is remembered of."""
    session = here()
    session.cache_ttl = 0
    try:
        return getattr(session, method)(*args)
    finally:
        session.cache_ttl = 5


def metadata() -> dict[str, Any]:
    return here().metadata


def update_to(name: str, value: Any) -> Any:
    """Update a variable to a value; return what `update_variable` says it is."""
    return here().update_variable(name, lambda _: value)


def increment(name: str, times: int) -> None:
    for _ in range(times):
        here().update_variable(name, lambda value: value + 1)


def increment_in_threads(name: str, threads: int, times: int) -> None:
    session = here()

    def work() -> None:
        for _ in range(times):
            session.update_variable(name, lambda value: value + 1)

    all_of_them = [threading.Thread(target=work) for _ in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def read_and_forget_in_threads(name: str, threads: int, times: int) -> None:
    """Read a variable in some threads while another has what is known of it forgotten."""
    session = here()
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for _ in range(100):
                session.get_variable(name)

    readers = [threading.Thread(target=read) for _ in range(threads)]
    for reader in readers:
        reader.start()
    for _ in range(times):
        session.get_variable(name)
        session.cache_ttl = 5
    over.set()
    for reader in readers:
        reader.join()


def read_until(name: str, wanted: Any, log: Log, patience: float = 60.0) -> int:
    """Read a variable, from the cache if it may be, until it has a value; returns how often."""
    session = here()
    end = time.monotonic() + patience
    reads = 0
    log.add("reads")
    while time.monotonic() < end:
        reads += 1
        if session.get_variable(name) == wanted:
            return reads
    raise TimeoutError(f"{name} never became {wanted!r}")


def asked_for(name: str, reads: int) -> int:
    """Return how many questions so many reads of a variable cost."""
    session = here()
    session.get_variable(name)
    asked = 0
    line: Any = session._line
    inner = line.fetch

    def counting(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return inner(*args)

    line.fetch = counting
    try:
        for _ in range(reads):
            session.get_variable(name)
    finally:
        line.fetch = inner
    return asked


def spoil_copy(name: str) -> Any:
    """Change what was read, and return what is read then."""
    value = here().get_variable(name)
    value[0] = 99
    here().get_variable(name)[1] = 99
    return here().get_variable(name)


def watch_and_collect(name: str, count: int, started: Gate) -> list[tuple[Any, int]]:
    watch = here().watch_variable(name)
    started.open()
    found = []
    for change in watch:
        found.append(change)
        if len(found) == count:
            watch.stop()
    return found


def watch_to_the_end(name: str, started: Gate) -> list[tuple[Any, int]]:
    watch = here().watch_variable(name)
    started.open()
    return list(watch)


def watch_by_callback(name: str, last: Any, started: Gate) -> list[Any]:
    seen: list[Any] = []
    ended = threading.Event()

    def heard(value: Any, _version: int) -> None:
        seen.append(value)
        if value == last:
            ended.set()

    watch = here().watch_variable(name, heard)
    started.open()
    assert ended.wait(60)
    watch.stop()
    return seen


def watch_that_raises(name: str, started: Gate) -> bool:
    def fail(_value: Any, _version: int) -> None:
        raise RuntimeError("as asked")

    watch = here().watch_variable(name, fail)
    started.open()
    end = time.monotonic() + 60
    while not watch.stopped and time.monotonic() < end:
        time.sleep(0.001)
    return watch.stopped


# -- host tools ------------------------------------------------------------------------------------


def call_tool(name: str, *args: Any, **kwargs: Any) -> Any:
    return here().call_tool(name, *args, **kwargs)


def hold_and_call_tool(started: Gate, release: Gate, name: str) -> Any:
    started.open()
    release.wait()
    return here().call_tool(name)


def use_tool(name: str, *args: Any) -> Any:
    return here().tools[name](*args)


def tool_names() -> list[tuple[str, str, Any]]:
    return [(tool.name, tool.description, tool.parameters) for tool in here().tools.values()]


def tool_in_threads(name: str, count: int) -> list[Any]:
    session = here()
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(session.call_tool(name, n)))
        for n in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)


def tool_then(name: str, then: Callable[[Any], Any], *args: Any) -> Any:
    return then(here().call_tool(name, *args))


def catch_tool_error(name: str) -> tuple[str, str, str]:
    try:
        here().call_tool(name)
    except Exception as error:
        return type(error).__name__, str(error), str(error.__cause__)
    return "", "", ""


def descend(depth: int) -> int:
    """Have the owner submit this again, one less deep, until it is not."""
    if depth == 0:
        return 0
    return int(here().call_tool("descend", depth - 1)) + 1


def nested_session() -> tuple[bool, bool]:
    """Whether a task of this one has a session, and whether this one has it after that."""
    inner = snakepit.current_pool().submit(has_session).result()
    return inner, has_session()


def ask_until_interrupted(log: Log) -> str:
    """Ask and ask, until TaskInterrupt comes; ask once more when it has."""
    session = here()
    session.cache_ttl = 0
    log.add(os.getpid())
    try:
        while True:
            session.get_variable("x")
    except snakepit.TaskInterrupt:
        log.add(f"interrupted, x is {session.get_variable('x')}")
        raise
    finally:
        session.cache_ttl = 5


def ask_from_a_fork() -> str:
    """Fork, ask in the child, and return what became of that."""
    session = here()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            session.read_variable("x")
            text = "answered"
        except BaseException as error:
            text = type(error).__name__
        os.write(writing, text.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    text = os.read(reading, 100).decode()
    os.close(reading)
    return text


def ask_for_ever() -> None:
    session = here()
    session.cache_ttl = 0
    while True:
        session.get_variable("x")


def ask_large_for_ever() -> None:
    session = here()
    session.cache_ttl = 0
    while True:
        session.set_variable("array", session.get_variable("array"))
