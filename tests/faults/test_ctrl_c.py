"""Ctrl-C in a program that has a pool: once, twice, and wherever the program is just then."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, Outcome, Script, read_file, run_clean, start_script, wait_until

HEAD = """
import concurrent.futures, os, signal, sys, time
import snakepit

def hold(path):
    open(path, "w").close()
    time.sleep(600)

def stubborn(path):
    open(path, "w").close()
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            open(path + "-asked", "w").close()

def chunks(path):
    open(path, "w").close()
    yield 1
    time.sleep(600)

class Tools(snakepit.Adapter):
    __thread_safe__ = True

    @snakepit.tool
    def hold(self, path):
        hold(path)

    @snakepit.tool
    def stubborn(self, path):
        stubborn(path)

    @snakepit.tool(streaming=True)
    def chunks(self, path):
        yield from chunks(path)

def paths(*names):
    return [{"path": name} for name in names]

def ready(*names):
    while not all(os.path.exists(name) for name in names):
        time.sleep(0.005)
    print("ready", flush=True)

"""

EXECUTOR = "executor = snakepit.Executor(**{options})"
POOL = "pool = snakepit.Pool(Tools, **{options})"

# Two calls at once.
PROFILES: dict[tuple[str, str], dict[str, Any]] = {
    (EXECUTOR, "process"): {"max_workers": 2},
    (EXECUTOR, "thread"): {"max_workers": 1, "threads_per_worker": 2},
    (EXECUTOR, "local"): {"max_workers": 2},
    (POOL, "process"): {"pool_size": 2},
    (POOL, "thread"): {"pool_size": 1, "threads_per_worker": 2},
    (POOL, "local"): {"threads_per_worker": 2},
}


def inside(opening: str, *lines: str) -> list[str]:
    return [opening, *(f"    {line}" for line in lines)]


# What a program does until Ctrl-C comes: of the first two calls both run.
HELD = ["futures = [executor.submit(hold, name) for name in 'ab']", "ready('a', 'b')"]
EXECUTOR_PLACES = {
    "result": [*HELD, "futures[0].result()"],
    "result with a timeout": [*HELD, "futures[0].result(500)"],
    "wait": [*HELD, "concurrent.futures.wait(futures)"],
    "as_completed": [*HELD, "list(concurrent.futures.as_completed(futures))"],
    "map": ["results = executor.map(hold, 'abcdefgh')", "ready('a', 'b')", "list(results)"],
    "stream": [
        "for chunk in executor.stream(chunks, 'a'):",
        "    ready('a')",
    ],
    "between calls": [*HELD, "while True:", "    pass"],
    "shutdown": [*HELD, "executor.shutdown()"],
    "block": inside("with executor:", *HELD, "futures[0].result()"),
    "end of a block": inside("with executor:", *HELD),
    "end of the program": HELD,
}
POOL_HELD = ["calls = [pool.submit('hold', each) for each in paths('a', 'b')]", "ready('a', 'b')"]
POOL_PLACES = {
    "result": [*POOL_HELD, "calls[0].result()"],
    "execute": [*POOL_HELD, "pool.execute('hold', {'path': 'c'})"],
    "map": ["results = pool.map('hold', paths('a', 'b', 'c'))", "ready('a', 'b')", "list(results)"],
    "stream": [
        "for chunk in pool.stream('chunks', {'path': 'a'}):",
        "    ready('a')",
    ],
    "stop": [*POOL_HELD, "pool.stop()"],
    "block": inside("with pool:", *POOL_HELD, "calls[0].result()"),
    "end of a block": inside("with pool:", *POOL_HELD),
    "end of the program": POOL_HELD,
}


def program(make: str, profile: str, lines: list[str], **options: Any) -> str:
    """Return a program that makes an executor or a pool for two calls at once, and does `lines`."""
    options = {"profile": profile, **PROFILES[make, profile], **options}
    body = "".join(f"    {line}\n" for line in [make.format(options=options), *lines])
    return f'{HEAD}\nif __name__ == "__main__":\n{body}'


def start(source: str, directory: Path) -> Script:
    """Start a program, and wait until its calls run."""
    script = start_script(source, directory)
    assert script.read_line() == "ready"
    return script


def await_sleep(script: Script) -> None:
    """Wait until the program's main thread waits for something."""
    stat = f"/proc/{script.process.pid}/task/{script.process.pid}/stat"
    wait_until(lambda: read_file(stat).rpartition(b")")[2].split()[0] == b"S")


def press(script: Script, whom: str) -> None:
    """Send SIGINT as a terminal does, to all the group, or to the program alone."""
    if whom == "terminal":
        os.killpg(script.process.pid, signal.SIGINT)
    else:
        script.process.send_signal(signal.SIGINT)


def expect_interrupted(outcome: Outcome, tracebacks: int = 1) -> None:
    """Fail unless Ctrl-C ended a program, which said so in this many tracebacks and no more."""
    assert outcome.returncode == -signal.SIGINT, outcome
    assert outcome.stderr.count("Traceback") == tracebacks, outcome.stderr
    unindented = [line for line in outcome.stderr.splitlines() if line[:1] not in ("", " ")]
    first = ["Traceback (most recent call last):"] * tracebacks
    last = "" if tracebacks else ": the calls still under way are given up"
    assert unindented == [*first, f"KeyboardInterrupt{last}"], outcome.stderr


def run_once(source: str, directory: Path, place: str, whom: str) -> None:
    script = start(source, directory)
    if place != "between calls":
        await_sleep(script)
    press(script, whom)
    expect_interrupted(script.finish(30), 0 if place == "end of the program" else 1)
    script.expect_nothing_left(timeout=8)


# Once: what runs is stopped, and nothing is left

ALONE = [
    ("process", "result"), ("process", "block"), ("process", "end of the program"),
    ("local", "block"),
]  # fmt: skip


@pytest.mark.parametrize("place", EXECUTOR_PLACES)
@pytest.mark.parametrize("profile", ["process", "local"])
def test_once_at_a_terminal(tmp_path: Path, profile: str, place: str) -> None:
    run_once(program(EXECUTOR, profile, EXECUTOR_PLACES[place]), tmp_path, place, "terminal")


@pytest.mark.parametrize(("profile", "place"), ALONE)
def test_once_to_the_program_alone(tmp_path: Path, profile: str, place: str) -> None:
    run_once(program(EXECUTOR, profile, EXECUTOR_PLACES[place]), tmp_path, place, "owner")


@pytest.mark.parametrize("place", ["result", "block", "end of the program"])
def test_once_with_workers_of_several_threads(tmp_path: Path, place: str) -> None:
    run_once(program(EXECUTOR, "thread", EXECUTOR_PLACES[place]), tmp_path, place, "terminal")


@pytest.mark.parametrize("place", POOL_PLACES)
def test_once_in_a_program_with_a_pool(tmp_path: Path, place: str) -> None:
    run_once(program(POOL, "process", POOL_PLACES[place]), tmp_path, place, "terminal")


@pytest.mark.parametrize("profile", ["thread", "local"])
@pytest.mark.parametrize("place", ["stream", "end of a block"])
def test_once_with_every_profile_of_a_pool(tmp_path: Path, profile: str, place: str) -> None:
    run_once(program(POOL, profile, POOL_PLACES[place]), tmp_path, place, "terminal")


EARLY = """
import os, signal, sys
import snakepit

if __name__ == "__main__":
    if {method!r} == "fork":
        os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
    with snakepit.Executor(1, start_method={method!r}) as executor:
        print(executor.submit(pow, 2, 3).result())
"""
EARLIER = """
import os, signal, sys
if "--multiprocessing-fork" in sys.orig_argv:
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_that_starts_leaves_ctrl_c_to_its_owner(tmp_path: Path, method: str) -> None:
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(EARLIER)
    path = os.pathsep.join([str(early), str(ROOT)])
    lines = run_clean(EARLY.format(method=method), tmp_path, env={"PYTHONPATH": path})
    assert lines == ["8"]


REGISTRY = """
import linecache, signal, sys
from snakepit.lifecycle.registry import Registry

def interrupt_at(line):
    seen = 0

    def each(frame, event, arg):
        nonlocal seen
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        # A `with` is traced again at its end, where no signal can come: the lock would stay held.
        if event == "line" and not text.startswith("with "):
            seen += 1
            if seen == line:
                signal.raise_signal(signal.SIGINT)
        return each

    def choose(frame, event, arg):
        if frame.f_code.co_name != "start" or frame.f_locals["self"].name != "snakepit-registry":
            return None
        return each

    return choose

interrupts = 0
for line in range(1, 20):
    registry = Registry()
    sys.settrace(interrupt_at(line))
    try:
        registry.reserve("worker")
    except KeyboardInterrupt:
        interrupts += 1
    sys.settrace(None)
    registry.release(1)
    registry.release(registry.reserve("worker"))
    assert registry.flush(60), line
print(interrupts > 3)
"""


def test_the_registry_goes_on_after_ctrl_c_in_its_start(tmp_path: Path) -> None:
    """At each line of the start of its thread."""
    assert run_clean(REGISTRY, tmp_path) == ["True"]


# Twice: what does not stop is killed

STUBBORN = ["call = executor.submit(stubborn, 'a')", "ready('a')"]
POOL_STUBBORN = ["call = pool.submit('stubborn', {'path': 'a'})", "ready('a')"]
TWICE = {
    "result": (EXECUTOR, [*STUBBORN, "call.result()"]),
    "block": (EXECUTOR, inside("with executor:", *STUBBORN, "call.result()")),
    "end of a block": (EXECUTOR, inside("with executor:", *STUBBORN)),
    "end of the program": (EXECUTOR, STUBBORN),
    "block of a pool": (POOL, inside("with pool:", *POOL_STUBBORN, "call.result()")),
    "end of a pool's block": (POOL, inside("with pool:", *POOL_STUBBORN)),
}


def run_twice(source: str, directory: Path, whom: str) -> Outcome:
    """Press Ctrl-C, and once more when the call that the first was to stop went on."""
    script = start(source, directory)
    await_sleep(script)
    press(script, whom)
    wait_until((directory / "a-asked").exists)
    press(script, whom)
    outcome = script.finish(30)
    script.expect_nothing_left(timeout=8)
    return outcome


PATIENT = {"interrupt": 600.0, "terminate": 600.0}


@pytest.mark.parametrize("place", TWICE)
def test_twice_kills_what_does_not_stop(tmp_path: Path, place: str) -> None:
    make, lines = TWICE[place]
    outcome = run_twice(program(make, "process", lines, stop_grace=PATIENT), tmp_path, "terminal")
    expect_interrupted(outcome, 0 if place == "end of the program" else 1)


@pytest.mark.parametrize("profile", ["thread", "local"])
@pytest.mark.parametrize("place", ["result", "block"])
def test_twice_with_threads(tmp_path: Path, profile: str, place: str) -> None:
    make, lines = TWICE[place]
    outcome = run_twice(program(make, profile, lines, stop_grace=PATIENT), tmp_path, "owner")
    expect_interrupted(outcome)


# Programs that answer to Ctrl-C themselves


def script_of(mode: str, tool: str) -> list[str]:
    return [
        "def main():",
        f"    call = snakepit.get_pool().submit({tool!r}, {{'path': 'a'}})",
        "    ready('a')",
        "    call.result()",
        f"snakepit.run_as_script(main, exit_mode={mode!r}, adapter=Tools, pool_size=1, timeout=60,",
        f"    stop_grace={PATIENT if tool == 'stubborn' else None})",
    ]


def test_a_script_ends_with_one_line(tmp_path: Path) -> None:
    script = start(program(POOL, "process", script_of("exit", "hold")), tmp_path)
    await_sleep(script)
    press(script, "terminal")
    outcome = script.finish(30)
    assert (outcome.returncode, outcome.stderr) == (130, "snakepit: interrupted\n")
    script.expect_nothing_left(timeout=8)


def test_a_script_that_is_interrupted_twice_ends_with_one_line(tmp_path: Path) -> None:
    source = program(POOL, "process", script_of("exit", "stubborn"))
    outcome = run_twice(source, tmp_path, "terminal")
    assert (outcome.returncode, outcome.stderr) == (130, "snakepit: interrupted\n")


def test_a_script_that_does_not_end_the_program_passes_ctrl_c_on(tmp_path: Path) -> None:
    source = program(POOL, "process", script_of("none", "stubborn"))
    expect_interrupted(run_twice(source, tmp_path, "terminal"))


def test_a_program_that_catches_ctrl_c_has_a_line_of_its_own(tmp_path: Path) -> None:
    lines = [
        *inside("try:", *EXECUTOR_PLACES["block"]),
        *inside("except KeyboardInterrupt:", "print('stopped', file=sys.stderr)", "sys.exit(130)"),
    ]
    script = start(program(EXECUTOR, "process", lines), tmp_path)
    await_sleep(script)
    press(script, "terminal")
    outcome = script.finish(30)
    assert (outcome.returncode, outcome.stderr) == (130, "stopped\n")
    script.expect_nothing_left(timeout=8)


OWN = """
import os, signal, sys
import snakepit

seen = []

def note(number, frame):
    seen.append(signal.Signals(number).name)

if __name__ == "__main__":
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP]
    for number in numbers[:2]:
        signal.signal(number, note)
    before = [signal.getsignal(number) for number in numbers]
    wakeup = signal.set_wakeup_fd(-1)
    with snakepit.Executor(2, **{options}) as executor:
        executor.wait_ready(60)
        assert executor.submit(pow, 2, 3).result() == 8
        assert [signal.getsignal(number) for number in numbers] == before
        for number in numbers[:2]:
            os.kill(os.getpid(), number)
        assert executor.submit(pow, 2, 4).result() == 16
    pool = snakepit.Pool(snakepit.ShowcaseAdapter, **{pool})
    with pool:
        os.kill(os.getpid(), signal.SIGINT)
        assert pool.execute("ping") == "pong"
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == wakeup
    print(*seen)
"""


@pytest.mark.parametrize("profile", ["process", "thread", "local"])
def test_a_program_keeps_its_own_handlers(tmp_path: Path, profile: str) -> None:
    size = {} if profile == "local" else {"pool_size": 1}
    options = {"profile": profile}
    source = OWN.format(options=options, pool={**options, **size, "thread_safety": None})
    assert run_clean(source, tmp_path) == ["SIGINT SIGTERM SIGINT"]


# SIGTERM, with its default action


@pytest.mark.parametrize("make", [EXECUTOR, POOL])
@pytest.mark.parametrize("profile", ["process", "thread"])
def test_sigterm_of_the_program_ends_its_workers(tmp_path: Path, profile: str, make: str) -> None:
    places = EXECUTOR_PLACES if make is EXECUTOR else POOL_PLACES
    script = start(program(make, profile, places["block"]), tmp_path)
    assert script.helpers()
    script.process.terminate()
    outcome = script.finish()
    assert (outcome.returncode, outcome.stderr) == (-signal.SIGTERM, "")
    script.expect_nothing_left(timeout=8)
