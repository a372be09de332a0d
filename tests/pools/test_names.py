"""Errors name what they are about: the pool, the tool, the worker; in words and as data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.executor import tasks
from tests.executor.tasks import Gate
from tests.pools.adapters import BadSetup
from tests.pools.test_limits import occupy
from tests.support import LONG

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


class Lock(snakepit.Adapter):
    __thread_safe__ = True

    @snakepit.tool
    def lock(self) -> Any:
        return threading.Lock()

    @snakepit.tool
    def pid(self) -> int:
        return 1


def test_a_late_call_names_its_tool_and_pool(new_pool: NewPool, profile: str, gates: Gates) -> None:
    pool = new_pool(profile, name="images", timeout=0.2)
    pool.await_ready(LONG)
    arguments = {"started": gates("started"), "release": gates("release")}
    with pytest.raises(errors.TaskTimeoutError) as late:
        pool.execute("hold", arguments)
    text = r"the task (tool 'hold') of pool 'images' did not end within its timeout of 0.2 s: "
    assert str(late.value).startswith(text)
    details = late.value.details
    assert (details["pool"], details["tool"], details["phase"]) == ("images", "hold", "running")
    if profile != "local":
        assert f"on worker {details['worker']}" in str(late.value)


@pytest.mark.parametrize("affinity", ["hint", "strict_queue"])
def test_a_late_call_of_a_session_names_it(
    new_pool: NewPool, profile: str, gates: Gates, affinity: Any
) -> None:
    pool = new_pool(profile)
    pool.await_ready(LONG)
    arguments = {"started": gates("started"), "release": gates("release")}
    with pytest.raises(errors.TaskTimeoutError, match=r"\(tool 'hold', session 's1'\)") as late:
        pool.execute("hold", arguments, session="s1", affinity=affinity, timeout=0.2)
    assert late.value.details["session"] == "s1" and late.value.details["tool"] == "hold"


def test_a_late_stream_names_its_tool(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, stream_timeout=0.3)
    pool.await_ready(LONG)
    with pytest.raises(errors.TaskTimeoutError, match=r"tool 'count_to'\) of pool") as late:
        for _ in pool.stream("count_to", {"last": 10**9}):
            time.sleep(0.01)
    assert late.value.details["tool"] == "count_to"


def test_calls_that_never_ran_name_their_tool(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile, name="images", queue_timeout=0.2)
    held, release = occupy(pool, gates)
    with pytest.raises(errors.QueueTimeoutError, match=r"the call \(tool 'echo'\)") as impatient:
        pool.execute("echo", {"value": 1})
    with pytest.raises(errors.TaskTimeoutError, match=r"tool 'echo'\) of pool 'images'") as late:
        pool.execute("echo", {"value": 1}, timeout=0.05)
    for error in (impatient.value, late.value):
        assert (error.details["pool"], error.details["tool"]) == ("images", "echo")
        assert error.details["phase"] == "queued"
    release.open()
    for future in held:
        future.result(LONG)
    stats = pool.get_stats()
    assert (stats["failed"], stats["cancelled"]) == (2, 0)


def test_functions_are_named_where_there_is_no_tool(gates: Gates) -> None:
    with snakepit.Executor(1, name="sums") as executor:
        executor.wait_ready(LONG)
        view = executor.options(timeout=0.2)
        late = view.submit(tasks.hold, gates("started"), gates("release")).exception(LONG)
        assert isinstance(late, errors.TaskTimeoutError)
        assert "the task ('tests.executor.tasks.hold') of pool 'sums' did not" in str(late)
        nameless = view.submit(lambda: time.sleep(LONG)).exception(LONG)
        assert isinstance(nameless, errors.TaskTimeoutError) and "of pool 'sums'" in str(nameless)


def test_a_call_whose_worker_died_names_its_tool(new_pool: NewPool) -> None:
    pool = new_pool(name="images")
    with pytest.raises(errors.WorkerCrashedError, match=r"ran the task \(tool 'die'\)") as crashed:
        pool.execute("die")
    assert (crashed.value.details["pool"], crashed.value.details["tool"]) == ("images", "die")


def test_a_setup_that_failed_is_named_as_such(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, BadSetup, name="images", thread_safety=None)
    with pytest.raises(errors.PoolNotReadyError, match=r"BadSetup: setup\(\) raised") as broken:
        pool.await_ready(LONG)
    assert "initializer" not in str(broken.value) and "'images'" in str(broken.value)
    assert isinstance(broken.value, BrokenExecutor)
    details = broken.value.details
    assert (details["pool"], details["step"]) == ("images", "setup")
    assert details["adapter"].endswith(":BadSetup")


def test_a_stopped_pool_is_named(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, name="images")
    pool.start()
    pool.stop()
    for use in (
        pool.start,
        pool.await_ready,
        lambda: pool.session("a"),
        lambda: pool.execute("pid"),
    ):
        with pytest.raises(errors.PoolShutdownError, match="pool 'images'") as stopped:
            use()
        assert stopped.value.details == {"pool": "images"}


def test_waiting_for_workers_says_how_many_were_ready(gates: Gates) -> None:
    for profile in ("process", "local"):
        gate = gates(profile)
        made: dict[str, Any] = {"profile": profile, "initializer": gate.wait, "name": "images"}
        with snakepit.Executor(2, **made) as executor:
            with pytest.raises(errors.ReadyTimeoutError, match=r"0 of 2 .*'images'") as late:
                executor.wait_ready(0.05)
            assert isinstance(late.value, TimeoutError)
            given = {"pool": "images", "ready": 0, "size": 2, "timeout": 0.05}
            assert late.value.details == given
            gate.open()


def test_a_result_that_cannot_be_pickled_names_what_returned_it(new_pool: NewPool) -> None:
    pool = new_pool("process", Lock)
    with pytest.raises(errors.EncodeError, match=r"pickle .*in what 'Lock\.lock' returned") as bad:
        pool.execute("lock")
    assert bad.value.details["function"] == "Lock.lock"
