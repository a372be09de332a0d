"""``snakepit dump``: looking at the pools of other processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import snakepit
from snakepit.diagnostics.inspect import select_pools
from snakepit.errors import PoolNotFoundError
from tests.support import Script, start_script, wait_until

from .command import Command

OWNER = """
    import os, sys, time, snakepit

    def wait(path):
        while not os.path.exists(path):
            time.sleep(0.002)

    if __name__ == "__main__":
        with snakepit.Executor(2, name=sys.argv[1]) as executor:
            executor.wait_ready()
            future = executor.options(timeout=1000).submit(wait, "release")
            print(*executor.worker_pids(), flush=True)
            future.result()
"""


class Owner:
    """A program with a pool, one of whose workers runs `wait`."""

    def __init__(self, directory: Path) -> None:
        self.name = f"pool-{os.getpid()}-{directory.name}"
        self.directory = directory
        path = directory / "owner.py"
        self.script: Script = start_script(
            OWNER, directory, name="owner.py", command=[str(path), self.name]
        )
        self.pid = self.script.process.pid
        self.workers = [int(pid) for pid in self.script.read_line().split()]

    def end(self) -> None:
        (self.directory / "release").touch()
        outcome = self.script.finish()
        assert (outcome.returncode, outcome.stderr) == (0, "")
        self.script.expect_nothing_left()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    try:
        yield owner
        owner.end()
    finally:
        owner.script.stop()


def running_task(command: Command, which: str) -> dict[str, object] | None:
    ended = command.run("dump", which, "--json", "--timeout", "30")
    assert ended.code == 0, ended
    (pool,) = json.loads(ended.output)
    found = [w for w in pool["workers"] if w["state"] == "running" and w["stack"]]
    return {"pool": pool, **found[0]} if found else None


def test_task_and_stack_of_another_process(command: Command, owner: Owner) -> None:
    worker = wait_until(lambda: running_task(command, owner.name))
    assert worker["pid"] in owner.workers
    assert worker["task"]["function"] == "__main__.wait"
    assert 0 < worker["task"]["deadline"] <= 1000
    assert worker["stack"][-1]["function"] == "wait"
    assert worker["pool"]["owner_pid"] == owner.pid
    text = command.run("dump", owner.name, "--timeout", "30")
    assert text.lines[0].startswith(f"pool '{owner.name}' of process {owner.pid}, ")
    assert any("task 1: __main__.wait, for " in line for line in text.lines)


def test_pool_is_found_by_pid_of_owner_and_worker(command: Command, owner: Owner) -> None:
    for pid in (owner.pid, *owner.workers):
        (pool,) = json.loads(command.run("dump", str(pid), "--json").output)
        assert pool["name"] == owner.name
        assert [worker["pid"] for worker in pool["workers"]] == sorted(
            owner.workers, key=[worker["pid"] for worker in pool["workers"]].index
        )


def test_owner_that_is_stopped_need_not_help(command: Command, owner: Owner) -> None:
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        assert wait_until(lambda: running_task(command, str(owner.pid)))
    finally:
        os.kill(owner.pid, signal.SIGCONT)


def test_unknown_name_or_pid_says_what_runs(command: Command, owner: Owner) -> None:
    ended = command.run("dump", "no-such-pool")
    assert ended.code == 1 and not ended.output
    assert ended.errors.startswith("snakepit dump: no pool named 'no-such-pool' runs here")
    assert f"'{owner.name}' of {owner.pid}" in ended.errors
    ended = command.run("dump", str(os.getpid()))
    assert ended.code == 1
    assert f"process {os.getpid()} has no running pool of worker processes" in ended.errors


def test_name_of_digits_is_a_name_too(tmp_path: Path) -> None:
    number = next(n for n in range(2**22 + 1, 2**23) if not os.path.exists(f"/proc/{n}"))
    with snakepit.Executor(1, name=str(number)) as executor:
        executor.wait_ready(60)
        (pool,) = select_pools(str(number))
        assert (pool.name, pool.owner_pid) == (str(number), os.getpid())
        assert os.getpid() in {pool.owner_pid for pool in select_pools(str(os.getpid()))}


def test_superscript_is_no_pid() -> None:
    with pytest.raises(PoolNotFoundError, match="no pool named '²' runs here"):
        select_pools("²")


def test_wrong_option_is_a_usage_error(command: Command) -> None:
    assert command.run("dump", "--timeout", "soon").code == 2
