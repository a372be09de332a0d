"""Errors name what they are about: the pool, the tool, the worker; in words and as data."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.executor import tasks
from tests.executor.tasks import Gate
from tests.pools.adapters import BadSetup, Counter
from tests.pools.test_limits import occupy
from tests.support import LONG, run_script

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


# The names themselves


@pytest.fixture
def _no_pools_left() -> Iterator[None]:
    yield
    snakepit.stop(cancel_calls=True)


TAKEN = r"named 'images' runs already; stop it .*snakepit\.stop\('images'\).*another name"


def test_a_name_is_one_pools_at_a_time(new_pool: NewPool, profile: str, gates: Gates) -> None:
    first, second = new_pool(profile, name="images"), new_pool(profile, name="images")
    started, release = gates("started"), gates("release")
    held = first.submit("hold", {"started": started, "release": release, "value": 5})
    started.wait()
    for use in (second.start, second.await_ready, lambda: second.execute("pid")):
        with pytest.raises(errors.PoolExistsError, match=TAKEN) as taken:
            use()
        assert taken.value.details == {"pool": "images"}
    assert second.get_stats()["submitted"] == 0
    # One that takes no more calls has no use for its name.
    first.stop(wait=False)
    assert second.execute("echo", {"value": 1}) == 1
    with pytest.raises(errors.PoolShutdownError):
        first.start()
    release.open()
    assert held.result(LONG) == 5


def test_pools_without_a_name_are_any_number(new_pool: NewPool) -> None:
    assert {new_pool("local").start().name for _ in range(3)} == {"default"}


def test_a_pool_that_is_dropped_leaves_its_name() -> None:
    options: dict[str, Any] = {"name": "images", "profile": "local", "threads_per_worker": 1}
    first = snakepit.Pool(Counter, **options).start()
    engine = first._engine
    del first
    gc.collect()
    with snakepit.Pool(Counter, **options) as second:
        assert second.execute("increment") == 1
    engine.join()


def test_a_pool_that_cannot_start_leaves_its_name(new_pool: NewPool, profile: str) -> None:
    broken = new_pool(profile, BadSetup, name="images", thread_safety=None)
    with pytest.raises(errors.PoolNotReadyError):
        broken.await_ready(LONG)
    assert new_pool(profile, name="images").execute("increment") == 1


@pytest.mark.usefixtures("_no_pools_left")
def test_named_pools_of_the_module_and_others_have_different_names(new_pool: NewPool) -> None:
    threads: dict[str, Any] = {"profile": "local", "threads_per_worker": 1}
    own = new_pool("local", name="images").start()
    with pytest.raises(errors.PoolExistsError, match=TAKEN):
        snakepit.start(adapter=Counter, pools=[{"name": "texts"}, {"name": "images"}], **threads)
    assert snakepit.get_stats() == {}
    own.stop()
    snakepit.start(adapter=Counter, name="images", **threads)
    with pytest.raises(errors.PoolExistsError, match=TAKEN):
        new_pool("local", name="images").start()
    snakepit.stop("images")
    assert new_pool("local", name="images").execute("increment") == 1


def test_of_many_that_start_at_once_one_has_the_name(new_pool: NewPool) -> None:
    pools = [new_pool("local", name="images") for _ in range(8)]
    together = threading.Barrier(len(pools))
    refused: list[errors.PoolExistsError] = []

    def start(pool: snakepit.Pool) -> None:
        together.wait()
        try:
            pool.start()
        except errors.PoolExistsError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=(pool,)) for pool in pools]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(pools) - 1


def test_a_forked_process_has_names_of_its_own(tmp_path: Path) -> None:
    outcome = run_script(
        """
        import os
        import snakepit
        from tests.pools.adapters import Counter

        def make():
            return snakepit.Pool(Counter, name="images", profile="local", threads_per_worker=1)

        with make():
            pid = os.fork()
            if pid == 0:
                with make() as own:
                    print(own.execute("increment"), flush=True)
                os._exit(0)
            print(os.waitpid(pid, 0)[1])
        """,
        tmp_path,
    )
    assert outcome.stdout == "1\n0\n", outcome
