"""Fixtures, options, and the audit that fails a test which leaves something behind."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest

# Every process that a test starts inherits this mark, by which orphans are recognised.
RUN_VARIABLE = "SNAKEPIT_TEST_RUN"
os.environ[RUN_VARIABLE] = uuid.uuid4().hex
# The registry of a developer's own processes is not the tests' to read or clean.
if "SNAKEPIT_TEST_DATA_DIR" not in os.environ:
    os.environ["SNAKEPIT_TEST_DATA_DIR"] = tempfile.mkdtemp(prefix="snakepit-tests-")
    atexit.register(shutil.rmtree, os.environ["SNAKEPIT_TEST_DATA_DIR"], ignore_errors=True)
os.environ["SNAKEPIT_DATA_DIR"] = os.environ["SNAKEPIT_TEST_DATA_DIR"]


def gil_is_enabled() -> bool:
    """Whether this process runs with the GIL."""
    probe: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return probe is None or probe()


GIL_BEFORE_IMPORT = gil_is_enabled()

import snakepit  # noqa: E402 - the state of the GIL before this import is what is compared
from snakepit.resources import usable_cpus  # noqa: E402

from .executor.tasks import Gate, Log  # noqa: E402
from .support import new_executor, own_pids  # noqa: E402

CHEAP_KINDS = ("template", "thread", "local")
ALL_KINDS = ("template", "thread", "local", "fork", "forkserver", "spawn")
# Whose behaviours are tried on workers of several threads each time; those of the others only with
# --all-kinds.
THREADED_MODULES = {
    "test_affinity", "test_asynchronous", "test_callbacks", "test_context", "test_ending",
    "test_errors", "test_host_tools", "test_nested", "test_reading", "test_release",
    "test_shutdown", "test_stats", "test_stop", "test_stop_options", "test_submit", "test_values",
}  # fmt: skip
HANG_LIMIT = 150.0
SLOW_HANG_LIMIT = 280.0

failed_key = pytest.StashKey[bool]()


# Options and markers


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("snakepit")
    group.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    group.addoption(
        "--all-kinds", action="store_true", help="run every behaviour with every start method"
    )


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "processes: runs with executors whose workers are processes of one call each, not with "
        "profile='local'; with --all-kinds also with profile='thread' and one thread in each",
        "main_thread: promises what only calls in the main thread of a worker can be promised",
        "all_kinds: runs with every start method, not only with the quick kinds",
    ):
        config.addinivalue_line("markers", line)
    if hasattr(config, "workerinput"):
        # A process of pytest-xdist has inherited the environment of the one that directs it. With
        # a registry in common, a pool of one would end what the dead owner of another has left,
        # which may be what a test there looks at.
        folder = os.path.join(
            os.environ["SNAKEPIT_TEST_DATA_DIR"], os.environ["PYTEST_XDIST_WORKER"]
        )
        os.environ["SNAKEPIT_TEST_DATA_DIR"] = os.environ["SNAKEPIT_DATA_DIR"] = folder
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Of a shell that runs this in its background; the programs that tests start inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    gil_must_stay_off("importing snakepit enabled the GIL")
    prepare_libraries()


def prepare_libraries() -> None:
    """Set up what only the tests' own process needs: a worker that imports a test imports this."""
    try:
        import hypothesis
    except ImportError:
        pass
    else:
        # Examples take as long as the machine's other load makes them take.
        hypothesis.settings.register_profile(
            "snakepit",
            deadline=None,
            database=None,
            derandomize=False,  # as it would be where CI is set
            max_examples=60,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("snakepit")
    try:
        import tqdm
    except ImportError:
        pass
    else:
        # Its lock, a semaphore of multiprocessing, is made at the first bar and kept.
        tqdm.tqdm.get_lock()  # type: ignore[no-untyped-call]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run so many tests at once: most of a test is waiting, for processes and events."""
    return min(usable_cpus() + 1, 16)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="slow: give --slow to run it")
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Let the collector of garbage pass over what lives to the end of the run.

    The audits collect garbage thousands of times; with all that was imported it takes 0.2 s.
    """
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses the fixture `kind` once for every kind that concerns it."""
    if "kind" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    everything = "all_kinds" in marks or metafunc.config.getoption("--all-kinds")
    kinds = ALL_KINDS if everything else CHEAP_KINDS
    without = {"local"} if "processes" in marks else set()
    threaded = metafunc.module.__name__.rpartition(".")[2] in THREADED_MODULES
    if "main_thread" in marks or (
        ("processes" in marks or not threaded) and not metafunc.config.getoption("--all-kinds")
    ):
        without.add("thread")
    metafunc.parametrize("kind", [kind for kind in kinds if kind not in without])


# The GIL of free-threaded builds


def gil_must_stay_off(message: str) -> None:
    """Fail the session if a free-threaded build that started without the GIL has it now."""
    if sysconfig.get_config_var("Py_GIL_DISABLED") and not GIL_BEFORE_IMPORT and gil_is_enabled():
        raise pytest.UsageError(message)


def pytest_sessionfinish(session: pytest.Session) -> None:
    gil_must_stay_off("a test enabled the GIL")


# Hangs


class HangError(Exception):
    """A test took longer than any test may."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Break a test that hangs, its teardown included, and show what every thread does."""
    limit = SLOW_HANG_LIMIT if item.get_closest_marker("slow") else HANG_LIMIT

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        raise HangError(f"{item.nodeid} hangs")

    # Fires again and again: the teardown of a test that hung may hang as well. Code that lets
    # no signal handler run is left to pytest's faulthandler_timeout, which ends the whole run.
    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit, 30.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# Leaks


@dataclass(frozen=True)
class Holdings:
    """What this process holds at one moment, as sets of names that can be compared."""

    processes: frozenset[tuple[int, float, str]]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[tuple[int, str]]
    names: frozenset[str]
    mappings: frozenset[str]

    @classmethod
    def now(cls) -> Holdings:
        return cls(
            frozenset(look_at_processes()),
            frozenset(look_at_descriptors()),
            frozenset((thread.ident or 0, thread.name) for thread in threading.enumerate()),
            frozenset(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else frozenset(),
            frozenset(look_at_mappings()),
        )

    def beyond(self, before: Holdings) -> dict[str, list[Any]]:
        """Return by kind what is held now and was not `before`, without what may stay."""
        segments = permanent.segments()
        descriptors = {
            (number, target)
            for number, target in self.descriptors - before.descriptors
            if target not in segments and not permanent.descriptor(number, target)
        }
        found: dict[str, Any] = {
            "processes": {p for p in self.processes - before.processes if not permanent.pid(p[0])},
            "descriptors": descriptors,
            "threads": {t for t in self.threads - before.threads if not permanent.thread(t[1])},
            "names in /dev/shm": self.names - before.names,
            "mappings": self.mappings - before.mappings - segments,
        }
        return {kind: sorted(items) for kind, items in found.items() if items}


class Permanent:
    """What a process opens once, when first needed, and keeps to its end."""

    def segments(self) -> set[str]:
        """Return the arena of all pools of this process, as `Holdings` names it."""
        memory = sys.modules.get("snakepit.pool.memory")
        arena = memory and memory._own
        return {named_segment(arena.fd)} if arena else set()

    def descriptor(self, number: int, target: str) -> bool:
        tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
        server = getattr(multiprocessing.forkserver, "_forkserver", None)
        kept = {getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None)}
        return number in kept or target in ("/dev/urandom", "/dev/random")

    def pid(self, number: int) -> bool:
        tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
        server = getattr(multiprocessing.forkserver, "_forkserver", None)
        return number in {getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)}

    def thread(self, name: str) -> bool:
        return name.startswith("pytest-")


permanent = Permanent()


def look_at_processes() -> Iterator[tuple[int, float, str]]:
    for pid in own_pids():
        try:
            process = psutil.Process(pid)
            yield process.pid, process.create_time(), " ".join(process.cmdline())[-200:]
        except psutil.ZombieProcess:
            yield process.pid, process.create_time(), "(a zombie)"
        except psutil.NoSuchProcess:
            continue


def look_at_descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if "/registry-" in target:
                continue  # Opened behind the owner's back, some time after a pool has started.
            yield int(name), named_segment(int(name)) if target.startswith("/memfd:") else target
        except OSError:
            continue


def named_segment(number: int) -> str:
    """Return what tells a memfd from others of its name, and what its mapping is called too."""
    return f"{os.readlink(f'/proc/self/fd/{number}')} {os.fstat(number).st_ino}"


def look_at_mappings() -> Iterator[str]:
    """Yield the shared memory that this process maps, as target and inode."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(("/memfd:", "/dev/zero", "/dev/shm/")):
            yield f"{fields[5]} {fields[4]}"


def used_elsewhere(name: str) -> bool:
    """Whether a process that is not of this run maps or has open what /dev/shm shows as `name`."""
    try:
        status = os.stat(f"/dev/shm/{name}")
    except FileNotFoundError:
        return True
    # By inode, since a semaphore is mapped under a temporary name and linked to its own later.
    mapped = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x} {status.st_ino} "
    own = {os.getpid(), *own_pids()}
    for pid in set(psutil.pids()) - own:
        try:
            if mapped in Path(f"/proc/{pid}/maps").read_text():
                return True
            for entry in os.scandir(f"/proc/{pid}/fd"):
                opened = os.stat(entry.path)
                if (opened.st_dev, opened.st_ino) == (status.st_dev, status.st_ino):
                    return True
        except OSError:
            continue
    return False


def find_leaks(before: Holdings, grace: float = 20.0) -> dict[str, list[Any]]:
    """Return what is held beyond `before` once everything that is ending has ended."""
    deadline = time.monotonic() + grace
    pause = 0.001
    while leaks := Holdings.now().beyond(before):
        if "names in /dev/shm" in leaks:
            # The directory belongs to the whole machine, on which others work too.
            leaks["names in /dev/shm"] = [
                name for name in leaks["names in /dev/shm"] if not used_elsewhere(name)
            ]
            if not any(leaks.values()):
                return {}
        if time.monotonic() > deadline:
            break
        # Garbage may hold anything but what has ended already and is only being waited for.
        if leaks.keys() != {"processes"} or pause > 0.05:
            gc.collect()
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    return leaks


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[failed_key] = True
        module = item.getparent(pytest.Module)
        if module is not None:
            module.stash[failed_key] = True
    return report


def has_failed(node: pytest.Item | pytest.Collector) -> bool:
    return node.stash.get(failed_key, False)


@pytest.fixture(scope="module", autouse=True)
def _audit_of_the_module(request: pytest.FixtureRequest) -> Iterator[None]:
    """Catch what the fixtures leave that several tests of a module share."""
    before = Holdings.now()
    yield
    # The frames of a failed test keep its objects alive: nothing can be said then.
    if not has_failed(request.node):
        leaks = find_leaks(before)
        assert not leaks, f"left behind by the module: {leaks}"


@pytest.fixture(autouse=True)
def _audit_of_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, descriptor, thread, name or mapping behind."""
    before = Holdings.now()
    yield
    if not has_failed(request.node):
        # The other fixtures are gone, but pytest still holds what they gave.
        request.node.funcargs.clear()
        leaks = find_leaks(before)
        assert not leaks, f"left behind: {leaks}"


# Executors


Make = Callable[..., snakepit.Executor]


@pytest.fixture
def make(kind: str, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return a function that makes executors of the kind under test and are ended after it."""
    made: list[snakepit.Executor] = []

    def make_executor(max_workers: int | None = 2, **options: Any) -> snakepit.Executor:
        if kind == "thread" and request.node.get_closest_marker("processes"):
            options.setdefault("threads_per_worker", 1)
        executor = new_executor(kind, max_workers, **options)
        made.append(executor)
        return executor

    yield make_executor
    for executor in made:
        if has_failed(request.node):
            executor.kill_workers()
        executor.shutdown(wait=True)


@pytest.fixture
def executor(make: Make) -> snakepit.Executor:
    """Return an executor with two workers of the kind under test."""
    return make(2)


@pytest.fixture(scope="module")
def shared() -> Iterator[snakepit.Executor]:
    """Return an executor that the tests of a module share, all that is lazy in it awake."""
    with snakepit.Executor(2) as executor:
        executor.wait_ready(60)
        warm_up(executor)
        yield executor


def warm_up(executor: snakepit.Executor) -> None:
    """Let the executor open whatever it opens at its first small, large and watched call."""
    settled = threading.Event()
    future = executor.submit(len, b"x" * 200_000)
    future.add_done_callback(lambda _: settled.set())
    assert future.result(60) == 200_000 and settled.wait(60)
    assert len(executor.submit(bytes, 200_000).result(60)) == 200_000


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[str], Gate]:
    """Return a function that makes named gates."""
    return lambda name: Gate(tmp_path / f"gate-{name}")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Return a log that all processes of the test may add to."""
    return Log(tmp_path / "log")
