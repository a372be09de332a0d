"""The wall clock jumps by hours, in every process at once: nothing but what shows it takes note."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.wrong_clock import make_clock
from tests.support import run_clean

HOUR = 3600

HEAD = """
import json, os, subprocess, sys, time
from pathlib import Path
import snakepit
from snakepit.errors import TaskTimeoutError, CircuitOpenError
from snakepit.lifecycle.registry import registry
from tests.faults.wrong_clock import set_clock

JUMP = {jump}

def wait_until(condition):
    end = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < end, condition
        time.sleep(0.002)
    return value

def wait_for(path):
    wait_until(lambda: os.path.exists(path))
    return time.time()

def shown_by(call):
    \"\"\"Whether the clock is wrong by the jump in another process too.\"\"\"
    return abs(call() - real() - JUMP) < 60

def real():
    return time.time() - JUMP

if __name__ == "__main__":
"""


def check(tmp_path: Path, jump: int, body: str) -> list[str]:
    source = HEAD.replace("{jump}", str(jump)) + "".join(
        f"    {line}\n" if line else "\n" for line in body.strip("\n").splitlines()
    )
    env = make_clock(tmp_path) | {"SNAKEPIT_DATA_DIR": str(tmp_path / "data")}
    return run_clean(source, tmp_path, env=env)


jumps = pytest.mark.parametrize("jump", [6 * HOUR, -6 * HOUR])


@jumps
def test_deadlines_and_retries_go_by_another_clock(tmp_path: Path, jump: int) -> None:
    lines = check(
        tmp_path,
        jump,
        """
with snakepit.Executor(2) as executor:
    executor.wait_ready(60)
    across = executor.options(timeout=60).submit(wait_for, "go")
    late = executor.options(timeout=0.3).submit(wait_for, "never")
    queued = executor.options(timeout=60).submit(abs, -1)
    wait_until(across.running)
    set_clock(JUMP)
    print(shown_by(lambda: executor.submit(time.time).result(60)))
    print(type(late.exception(60)).__name__)
    open("go", "w").close()
    print(abs(across.result(60) - time.time()) < 60, queued.result(60))
    print(executor.options(timeout=60).submit(abs, -2).result(60))
    print(type(executor.options(timeout=0.1).submit(wait_for, "never").exception(60)).__name__)
    print(sum(executor.map(abs, range(-100, 0), timeout=60)))
    patient = snakepit.RetryPolicy(max_attempts=2, backoff=0.05)
    print(type(executor.options(retry=patient).submit(int, "x").exception(60)).__name__)
    breaker = snakepit.CircuitBreaker(failures=1, reset_timeout=0.1)
    guarded = executor.options(breaker=breaker)
    guarded.submit(int, "x").exception(60)
    def closed():
        try:
            return guarded.submit(int, "1").result(60)
        except CircuitOpenError:
            return None
    print(wait_until(closed))
""",
    )
    assert lines == [
        "True", "TaskTimeoutError", "True 1", "2", "TaskTimeoutError", "5050", "ValueError", "1"
    ]  # fmt: skip


@jumps
def test_workers_age_and_beat_by_another_clock(tmp_path: Path, jump: int) -> None:
    lines = check(
        tmp_path,
        jump,
        """
with (
    snakepit.Executor(1, worker_ttl="1h", heartbeat_interval=0.02, heartbeat_timeout=1.0) as old,
    snakepit.Executor(1, worker_ttl=0.5) as young,
):
    old.wait_ready(60)
    young.wait_ready(60)
    (pid,), (first,) = old.worker_pids(), young.worker_pids()
    set_clock(JUMP)
    wait_until(lambda: young.worker_pids() not in ([], [first]))
    print(old.worker_pids() == [pid], old.submit(os.getpid).result(60) == pid)
    stats = old.lifecycle_stats()
    print(stats.stuck, sum(stats.recycled.values()))
    command = [sys.executable, "-m", "snakepit", "dump", str(os.getpid()), "--json"]
    running = old.submit(wait_for, "go")
    wait_until(running.running)
    pools = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    def ages(found):
        if isinstance(found, dict):
            for key, value in found.items():
                if key == "age" and value is not None:
                    yield value
                else:
                    yield from ages(value)
        elif isinstance(found, list):
            for value in found:
                yield from ages(value)
    found = list(ages(pools))
    print(len(pools), len(found) >= 3, all(0 <= age < 60 for age in found))
    open("go", "w").close()
    running.result(60)
""",
    )
    assert lines == ["True True", "0 0", "2 True True"]


@jumps
def test_sessions_live_by_another_clock(tmp_path: Path, jump: int) -> None:
    lines = check(
        tmp_path,
        jump,
        """
from snakepit.errors import SessionNotFoundError

def found(store, name):
    try:
        return store.get_session(name) is not None
    except SessionNotFoundError:
        return False

with snakepit.SessionStore() as memory, snakepit.SessionStore(backend="sessions") as kept:
    for store in (memory, kept):
        store.create_session("long", ttl=3600)
        store.create_session("short", ttl=0.5)
    set_clock(JUMP)
    for store in (memory, kept):
        print(found(store, "long"))
        wait_until(store.cleanup_expired_sessions)
        print(found(store, "short"))
    kept.create_session("later", ttl=3600)
# Another process finds them, after the clock was set right.
set_clock(0)
with snakepit.SessionStore(backend="sessions") as kept:
    print(found(kept, "long"), found(kept, "later"))
""",
    )
    assert lines == ["True", "False", "True", "False", "True True"]


@jumps
def test_the_registry_knows_the_living_by_another_clock(tmp_path: Path, jump: int) -> None:
    lines = check(
        tmp_path,
        jump,
        """
from snakepit.lifecycle import database, orphans, run_id

folder = Path(os.environ["SNAKEPIT_DATA_DIR"])

def rows():
    file = database.Database(folder)
    try:
        found = {run.run_id: len(file.processes(run.run_id)) for run in file.runs()}
        return [found.get(snakepit_run), found.get("elsewh0")]
    finally:
        file.close()

snakepit_run = run_id.current()
other = "import snakepit\\nwith snakepit.Executor(1) as executor:\\n" \\
        "    executor.wait_ready(60); from snakepit.lifecycle.registry import registry\\n" \\
        "    registry.flush(0.01); print(executor.submit(abs, -1).result(60))"
with snakepit.Executor(2) as executor:
    executor.wait_ready(60)
    registry.flush(0.01)
    wait_until(lambda: database.file_in(folder).exists() and rows()[0] == 3)
    file = database.Database(folder)
    me = next(run for run in file.runs() if run.run_id == snakepit_run)
    file.add_run(database.RunRow("elsewh0", 1, 1, "elsewhere", "default", ""))
    file.reserve("elsewh0", 1, "worker")
    file.close()
    set_clock(JUMP)
    # A worker is entered and another struck out, and another owner looks for the dead.
    executor.recycle_worker(wait=True)
    workers = executor.worker_pids()
    wait_until(lambda: rows()[0] == 3)
    command = [sys.executable, "-c", other]
    print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    print(orphans.clean(folder=folder).found, rows())
    set_clock(0)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    file = database.Database(folder)
    file.forget_elsewhere(me.place)
    file.close()
    print(orphans.clean(folder=folder).found, rows())
    print(executor.worker_pids() == workers, executor.submit(abs, -3).result(60))
""",
    )
    assert lines == ["1", "[] [3, 1]", "[] [3, 1]", "True 3"]
