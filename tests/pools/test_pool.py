"""Pools: what callers can do with the tools of an adapter, in processes and in threads alike."""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import pytest

import snakepit
from snakepit.errors import (
    PoolShutdownError,
    QueueTimeoutError,
    TaskStoppedError,
    TaskTimeoutError,
    ToolArgumentError,
    ToolNotFoundError,
    WorkerCrashedError,
)
from tests.executor.tasks import Gate, Log
from tests.pools.adapters import (
    Hooked,
    Importing,
    Newborn,
    SlowTeardown,
    Surrounded,
    Turns,
    Typed,
    Unsafe,
)
from tests.pools.conftest import one_worker
from tests.support import LONG, run_script, wait_until

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]


def test_a_tool_runs_in_a_worker_and_its_adapter_keeps_its_state(
    new_pool: NewPool, profile: str
) -> None:
    pool = new_pool(profile, adapter_args={"start": 10}, **one_worker(profile))
    assert [pool.execute("increment") for _ in range(3)] == [11, 12, 13]
    assert pool.execute("increment", {"by": 7}) == 20
    assert (pool.execute("pid") == os.getpid()) == (profile == "local")


def test_values_arrive_as_they_were(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile)
    values = [None, 1.5, "text", b"bytes", [1, {"two": 2}], {"π": (1, 2)}, 10**40, "x" * 50_000]
    for value in values:
        assert pool.execute("echo", {"value": value}) == value


def test_every_way_of_giving_arguments_reaches_the_tool(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, Typed, thread_safety=None)
    assert pool.execute("plain", {"a": 1}) == [1, 0.5, False]
    assert pool.execute("plain", {"flag": True, "b": 2, "a": 1}) == [1, 2, True]
    assert pool.execute("gaps", {"c": 9, "a": 1}) == [1, 2, 9]
    assert pool.execute("mutable", {"c": 9, "a": 1}) == [1, [], 9]
    assert pool.execute("anything", {"x": 1, "args": 2}) == {"x": 1, "args": 2}


def test_positional_only_parameters_are_given_by_name(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, Typed, thread_safety=None)
    assert pool.execute("by_place", {"a": 1}) == [1, [], 3]
    assert pool.execute("by_place", {"c": 9, "b": [2], "a": 1}) == [1, [2], 9]
    assert pool.execute("by_place", {"c": 9, "a": 1}) == [1, [], 9]
    assert pool.execute("by_place", MappingProxyType({"b": [2], "a": 1})) == [1, [2], 3]
    assert pool.execute("by_place_and_name", {"b": 2, "a": 1}) == [1, False, {"b": 2}]
    assert pool.execute("by_place_and_name", {"flag": True, "a": 1}) == [1, True, {}]
    assert list(pool.stream("stream_by_place", {"last": 3})) == [1, 2, 3]
    assert list(pool.map("by_place", [{"a": n, "c": n} for n in range(3)])) == [
        [n, [], n] for n in range(3)
    ]
    with pytest.raises(ToolArgumentError, match="'a' is missing; it takes a: int, b: list"):
        pool.execute("by_place", {"c": 1})
    hooked = new_pool(profile, Hooked, thread_safety=None)
    assert hooked.execute("whisper", {"word": " HEY ", "times": 2})["response"] == "heyhey"


def test_bad_calls_take_no_worker(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile)
    with pytest.raises(ToolNotFoundError, match="did you mean 'increment'") as unknown:
        pool.execute("incremnt")
    assert isinstance(unknown.value, LookupError)
    with pytest.raises(ToolArgumentError, match="'by'"):
        pool.execute("increment", {"by": "x"})
    with pytest.raises(ToolArgumentError, match="'self'"):
        pool.execute("anything", {"self": 1})
    with pytest.raises(ToolArgumentError, match="stream"):
        pool.execute("count_to", {"last": 3})
    with pytest.raises(ToolArgumentError, match="execute"):
        pool.stream("increment")
    with pytest.raises(ValueError, match="did you mean 'normal'"):
        pool.execute("pid", priority="norml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'strict_queue'"):
        pool.execute("pid", session="a", affinity="stric")  # type: ignore[arg-type]
    for use, tool in ((pool.execute, "pid"), (pool.submit, "pid"), (pool.stream, "count_to")):
        args = {"last": 3} if tool == "count_to" else {}
        with pytest.raises(ValueError, match=r"'strict_queue'.*give session as well"):
            use(tool, args, affinity="strict_queue")
        with pytest.raises(ValueError, match="session must not be empty"):
            use(tool, args, session="")
    with pytest.raises(ValueError, match="id must not be empty"):
        pool.session("")
    with pytest.raises(ValueError, match="timeout"):
        pool.execute("pid", timeout=-1)
    assert pool.get_stats()["submitted"] == 0


def test_what_a_tool_raises_is_raised(new_pool: NewPool, profile: str) -> None:
    with pytest.raises(ValueError, match="as asked"):
        new_pool(profile).execute("fail", {"text": "as asked"})


def test_the_timeout_of_a_tool_holds_where_the_caller_gives_none(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile)
    pool.await_ready(LONG)
    with pytest.raises(TaskTimeoutError) as late:
        pool.execute("sleep_long", {"started": gates("started")})
    assert late.value.details["timeout"] == pytest.approx(0.2)
    assert late.value.details["phase"] == "running"


def test_map_keeps_order_and_checks_each_item(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile)
    items = [{"value": number} for number in range(1000)]
    assert list(pool.map("echo", items)) == list(range(1000))
    assert sorted(pool.map("echo", iter(items), ordered=False)) == list(range(1000))
    with pytest.raises(ToolArgumentError, match="missing"):
        list(pool.map("echo", [{"value": 1}, {}]))


def test_a_future_of_a_pool_is_cancelled_while_it_runs(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile)
    started = gates("started")
    future = pool.submit("hold", {"started": started, "release": gates("release")})
    started.wait()
    assert future.cancel() and future.cancelled()
    assert pool.execute("echo", {"value": 1}) == 1


def test_asyncio_awaits_calls_and_cancels_them(
    new_pool: NewPool, profile: str, gates: Gates
) -> None:
    pool = new_pool(profile)
    started, release = gates("started"), gates("release")

    async def main() -> list[Any]:
        values = await asyncio.gather(*(pool.aexecute("echo", {"value": n}) for n in range(50)))
        call = asyncio.create_task(pool.aexecute("hold", {"started": started, "release": release}))
        while not started.is_open():
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return values

    assert asyncio.run(main()) == list(range(50))
    wait_until(lambda: pool.get_stats()["busy"] == 0, "the cancelled call to end")


@pytest.mark.parametrize("options", ["pool_size=1", "profile='local', threads_per_worker=1"])
def test_the_end_of_the_program_tears_down_too(tmp_path: Any, options: str) -> None:
    outcome = run_script(
        f"""
        import snakepit

        class Noisy(snakepit.Adapter):
            def teardown(self):
                print("torn down", flush=True)

            @snakepit.tool
            def ping(self):
                return "pong"

        pool = snakepit.Pool(Noisy, {options})
        print(pool.execute("ping"), flush=True)
        """,
        tmp_path,
    )
    assert outcome.stdout == "pong\ntorn down\n", outcome.stderr


def test_a_recycled_worker_tears_its_adapter_down(new_pool: NewPool, log: Log) -> None:
    pool = new_pool(pool_size=1, adapter_args={"log": log})
    # A worker may answer before its pool has heard that it is ready.
    pool.await_ready(LONG)
    before = pool.execute("pid")
    (worker,) = (one["id"] for one in pool.list_workers() if one["state"] in ("idle", "busy"))
    pool.recycle_worker(worker, timeout=LONG)
    assert pool.execute("pid") != before
    assert "teardown" in log.lines()


def test_a_teardown_that_hangs_is_bounded(new_pool: NewPool) -> None:
    pool = new_pool(adapter=SlowTeardown, stop_grace={"terminate": 0.2})
    pid = pool.execute("pid")
    pool.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_preload_runs_once_in_the_template_and_workers_find_what_it_left(
    new_pool: NewPool,
) -> None:
    pool = new_pool()
    pool.await_ready(LONG)
    pids = {worker["pid"] for worker in pool.list_workers()}
    (loaded,) = pool.execute("preloaded_in")
    assert loaded not in pids and loaded != os.getpid()
    assert all(pool.execute("preloaded_in") == [loaded] for _ in range(20))


@pytest.mark.parametrize("start_method", ["spawn", "fork"])
def test_without_a_template_preload_runs_in_each_worker(
    new_pool: NewPool, start_method: str
) -> None:
    pool = new_pool(pool_size=1, start_method=start_method)
    assert pool.execute("preloaded_in")[-1] == pool.execute("pid")


def test_preload_of_a_class_of_the_main_module_is_seen_in_workers(tmp_path: Any) -> None:
    outcome = run_script(
        """
        import os
        import snakepit

        PAD = "x" * 300_000  # more than a message of the template holds

        class Model(snakepit.Adapter):
            weights = None

            @classmethod
            def preload(cls):
                cls.weights = [len(PAD), os.getppid()]

            @snakepit.tool
            def weigh(self, again: object = None):
                return self.weights, again is None or type(again) is Answer

        class Answer:
            pass

        with snakepit.Pool(Model, pool_size=2) as pool:
            print(pool.execute("weigh") == ([300_000, os.getpid()], True))
            print(pool.execute("weigh", {"again": Answer()})[1])
        """,
        tmp_path,
    )
    assert outcome.stdout == "True\nTrue\n", outcome.stderr


def test_the_first_call_of_a_plain_adapter_imports_nothing(new_pool: NewPool) -> None:
    # Each worker would hold a copy of its own of what the template has not imported.
    assert new_pool(adapter=Importing, pool_size=1).execute("imported") == []


def test_an_idempotent_tool_is_tried_again(new_pool: NewPool, gates: Gates) -> None:
    pool = new_pool()
    future = pool.submit("die_once", {"marker": gates("marker")})
    assert future.result(LONG) > 0 and future.attempts == 2


@pytest.fixture(params=["thread", "local"])
def turns(request: pytest.FixtureRequest, new_pool: NewPool) -> snakepit.Pool:
    """A pool of one instance that five threads share, and some of whose tools run alone."""
    # What waits for its turn sees the flag: nothing is to be ended because the machine is slow.
    shape: dict[str, Any] = {"threads_per_worker": 5, "stop_grace": {"flag": LONG}}
    if request.param == "local":
        return new_pool("local", Turns, **shape)
    return new_pool(adapter=Turns, profile="thread", pool_size=1, **shape)


def test_thread_sensitive_tools_run_one_at_a_time(turns: snakepit.Pool) -> None:
    calls = [turns.submit("alone", {"name": number}) for number in range(20)]
    streams = [turns.stream("alone_in_parts", {"count": 5}) for _ in range(4)]
    assert [list(stream) for stream in streams] == [[0, 1, 2, 3, 4]] * 4
    assert [call.result(LONG) for call in calls] == list(range(20))
    most, begun = turns.execute("seen")
    assert (most, len(begun)) == (1, 24)


def busy(pool: snakepit.Pool, count: int) -> None:
    wait_until(lambda: pool.get_stats()["busy"] == count, f"{count} calls to run")


def test_thread_sensitive_calls_get_their_turns_in_order(
    turns: snakepit.Pool, gates: Gates
) -> None:
    began, release = gates("began"), gates("release")
    calls = [turns.submit("alone", {"name": "a", "began": began, "release": release})]
    began.wait()
    for name in "bcd":
        calls.append(turns.submit("alone", {"name": name}))
        # That it runs is not enough: it has to have asked for its turn.
        wait_until(lambda: len(calls) == 1 + turns.execute("waiting"), "the call to wait")
    release.open()
    assert [call.result(LONG) for call in calls] == list("abcd")
    assert turns.execute("seen") == (1, list("abcd"))


@pytest.mark.parametrize("way", ["cancel", "stop", "timeout"])
def test_thread_sensitive_call_that_waits_can_be_stopped_alone(
    turns: snakepit.Pool, gates: Gates, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    began, release = gates("began"), gates("release")
    held = turns.submit("alone", {"name": "a", "began": began, "release": release})
    began.wait()
    workers = turns.list_workers()
    waiting = turns.submit("alone", {"name": "b"}, timeout=0.2 if way == "timeout" else None)
    if way != "timeout":
        busy(turns, 2)
        assert getattr(waiting, way)()
    stream = turns.stream("alone_in_parts", {"count": 5})
    with pytest.raises(TaskTimeoutError if way == "timeout" else CancelledError):
        waiting.result(LONG)
    # The stream has taken its place; the call that has its turn does not notice.
    busy(turns, 2)
    assert [each["pid"] for each in turns.list_workers()] == [each["pid"] for each in workers]
    release.open()
    assert held.result(LONG) == "a" and list(stream) == [0, 1, 2, 3, 4]
    assert turns.execute("seen") == (1, ["a", "stream"])
    assert "left behind" not in caplog.text


def test_thread_sensitive_call_lends_its_turn_while_it_waits_for_a_host_tool(
    turns: snakepit.Pool,
) -> None:
    def between() -> list[Any]:
        calls = [turns.submit("alone", {"name": name}) for name in "ab"]
        return [sorted(call.result(LONG) for call in calls), list(parts())]

    def parts() -> snakepit.Stream[int]:
        return turns.stream("alone_in_parts", {"count": 3})

    turns.start()
    turns.register_tool("s", "between", between)
    found = turns.execute("alone_twice", {"between": "between"}, session="s", timeout=LONG)
    assert found == [["a", "b"], [0, 1, 2]]
    most, begun = turns.execute("seen")
    assert most == 1 and begun[0] == "first" and begun[-1] == "second" and len(begun) == 5


def test_thread_sensitive_call_of_a_local_pool_may_wait_for_another(new_pool: NewPool) -> None:
    pool = new_pool("local", Turns, threads_per_worker=2)

    def between() -> list[Any]:
        other = pool.submit("alone", {"name": "a"})
        wait_until(other.running, "the other thread to take the call")
        return [other.result(LONG), list(pool.stream("alone_in_parts", {"count": 3}))]

    assert pool.execute("alone_twice", {"between": between}, timeout=LONG) == ["a", [0, 1, 2]]
    assert pool.execute("seen") == (1, ["first", "a", "stream", "second"])


def test_thread_sensitive_call_that_waits_for_its_turn_to_come_back_can_be_stopped(
    turns: snakepit.Pool, gates: Gates
) -> None:
    called, leave = threading.Event(), threading.Event()

    def between() -> None:
        called.set()
        leave.wait(LONG)

    turns.start()
    turns.register_tool("s", "between", between)
    lender = turns.submit("alone_twice", {"between": "between"}, session="s")
    assert called.wait(LONG)
    began, release = gates("began"), gates("release")
    held = turns.submit("alone", {"name": "a", "began": began, "release": release})
    began.wait()
    workers = turns.list_workers()
    leave.set()
    assert lender.cancel()
    with pytest.raises(CancelledError):
        lender.result(LONG)
    busy(turns, 1)
    release.open()
    assert held.result(LONG) == "a"
    assert [each["pid"] for each in turns.list_workers()] == [each["pid"] for each in workers]
    assert turns.execute("seen") == (1, ["first", "a"])


def test_thread_sensitive_call_that_is_left_behind_keeps_its_turn(new_pool: NewPool) -> None:
    pool = new_pool("local", Turns, threads_per_worker=1)
    release = threading.Event()
    with pytest.raises(TaskTimeoutError):
        pool.execute("stay", {"release": release}, timeout=0.2)
    following = pool.submit("alone", {"name": "a"})
    wait_until(lambda: following.running() or following.done(), "the next call to begin")
    release.set()
    assert following.result(LONG) == "a"
    assert pool.execute("seen") == (1, ["stay", "a"])


class Bare(snakepit.Adapter):
    """Has no tools, and counts its instances."""

    __thread_safe__ = True
    made = torn_down = 0

    @classmethod
    def supported_commands(cls) -> list[str]:
        return []

    def __init__(self) -> None:
        type(self).made += 1

    def teardown(self) -> None:
        type(self).torn_down += 1


@pytest.mark.filterwarnings("ignore:Bare has no tools")
@pytest.mark.parametrize("fails", [False, True])
def test_a_local_pool_has_one_instance_however_often_it_is_started(
    new_pool: NewPool, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(Bare, "made", 0)
    monkeypatch.setattr(Bare, "torn_down", 0)
    pool = new_pool("local", Bare)
    if fails:
        with monkeypatch.context() as patch:
            patch.setattr(pool._engine, "start", lambda: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                pool.start()
    pool.start()
    pool.start()
    pool.await_ready()
    pool.stop()
    assert (Bare.made, Bare.torn_down) == (1, 1)


def test_a_stopped_pool_takes_no_calls(new_pool: NewPool, profile: str, gates: Gates) -> None:
    pool = new_pool(profile)
    started, release = gates("started"), gates("release")
    held = pool.submit("hold", {"started": started, "release": release, "value": 5})
    started.wait()
    pool.stop(wait=False)
    with pytest.raises(PoolShutdownError):
        pool.execute("pid")
    release.open()
    pool.stop()
    assert held.result(0) == 5
    with pytest.raises(PoolShutdownError):
        pool.start()


@pytest.mark.parametrize("way", ["terminate_workers", "kill_workers"])
def test_workers_are_ended_by_force(
    new_pool: NewPool, profile: str, gates: Gates, way: str
) -> None:
    pool = new_pool(profile, **one_worker(profile))
    started, release = gates("started"), gates("release")
    held = pool.submit("hold", {"started": started, "release": release})
    started.wait()
    queued = pool.submit("pid")
    getattr(pool, way)()
    assert isinstance(held.exception(LONG), TaskStoppedError | WorkerCrashedError)
    assert queued.cancelled()
    with pytest.raises(PoolShutdownError):
        pool.execute("pid")
    with pytest.raises(PoolShutdownError):
        pool.start()


def stop(pool: snakepit.Pool) -> None:
    pool.stop(cancel_calls=True)


def press_ctrl_c(pool: snakepit.Pool) -> None:
    with pytest.raises(KeyboardInterrupt), pool:
        raise KeyboardInterrupt


WAYS_TO_GIVE_UP = [stop, press_ctrl_c]


@pytest.mark.parametrize("give_up", WAYS_TO_GIVE_UP)
def test_idle_workers_run_teardown_when_a_pool_is_given_up(
    new_pool: NewPool, log: Log, profile: str, give_up: Callable[[snakepit.Pool], None]
) -> None:
    pool = new_pool(profile, adapter_args={"log": log})
    pool.await_ready(LONG)
    give_up(pool)
    instances = 2 if profile == "process" else 1
    assert sorted(log.lines()) == ["setup"] * instances + ["teardown"] * instances


@pytest.mark.parametrize("give_up", WAYS_TO_GIVE_UP)
@pytest.mark.parametrize("session", [None, "job"])
def test_calls_clean_up_when_a_pool_is_given_up(
    new_pool: NewPool,
    profile: str,
    log: Log,
    gates: Gates,
    give_up: Callable[[snakepit.Pool], None],
    session: str | None,
) -> None:
    pool = new_pool(profile, adapter_args={"log": log}, **one_worker(profile))
    started = gates("started")
    running = pool.submit("dawdle", {"started": started}, session=session)
    started.wait()
    queued = pool.submit("pid")
    give_up(pool)
    assert isinstance(running.exception(LONG), TaskStoppedError)
    assert queued.cancelled()
    assert log.lines() == ["setup", "cleaned up", "teardown"]


@pytest.mark.parametrize("give_up", WAYS_TO_GIVE_UP)
def test_a_generator_is_closed_when_a_pool_is_given_up(
    new_pool: NewPool, profile: str, log: Log, give_up: Callable[[snakepit.Pool], None]
) -> None:
    pool = new_pool(profile, adapter_args={"log": log}, **one_worker(profile))
    stream = pool.stream("endless")
    next(stream)
    give_up(pool)
    assert log.lines() == ["setup", "cleaned up", "teardown"]


def test_a_worker_that_cannot_be_stopped_is_ended_when_a_pool_is_given_up(
    new_pool: NewPool, log: Log, gates: Gates
) -> None:
    graces = {"flag": 0.0, "interrupt": 0.5, "terminate": 2.0}
    pool = new_pool(adapter_args={"log": log}, stop_grace=graces)
    pool.await_ready(LONG)
    started = gates("started")
    running = pool.submit("stay", {"started": started})
    started.wait()
    pool.stop(cancel_calls=True)
    assert isinstance(running.exception(LONG), TaskStoppedError)
    # The other worker's.
    assert log.lines().count("teardown") == 1


@pytest.mark.parametrize("workers", ["process", "thread"])
def test_a_late_call_has_its_place_until_force_is_used(
    new_pool: NewPool, gates: Gates, workers: str
) -> None:
    threads = {"threads_per_worker": 1} if workers == "thread" else {}
    graces = {"flag": 0.1, "interrupt": 0.3, "terminate": 0.1}
    pool = new_pool(profile=workers, pool_size=1, queue_timeout=0.1, stop_grace=graces, **threads)
    pool.await_ready(LONG)
    started = gates("started")
    late = pool.submit("stay", {"started": started}, timeout=0.5)
    with pytest.raises(TaskTimeoutError):
        late.result(LONG)
    with pytest.raises(QueueTimeoutError):
        pool.execute("pid")
    # The successor serves as soon as it is there; nobody waits for the call.
    wait_until(lambda: pool.stats().busy == 0 and pool.stats().ready == 1)
    assert pool.execute("increment") == 1


def test_a_pool_shows_where_its_workers_are(new_pool: NewPool, profile: str, gates: Gates) -> None:
    pool = new_pool(profile, name="shown", **one_worker(profile))
    assert pool.dump().workers == () and pool.worker_pids() == []
    started, release = gates("started"), gates("release")
    held = pool.submit("hold", {"started": started, "release": release})
    started.wait()

    def functions() -> list[str]:
        (worker,) = pool.dump(timeout=LONG).workers
        return [frame.function for frame in worker.stack]

    wait_until(lambda: "Gate.wait" in functions(), "the tool to wait")
    report = pool.dump(timeout=LONG)
    (worker,) = report.workers
    assert report.name == "shown" and "Counter.hold" in functions()
    assert worker.task is not None
    assert worker.task.function == "tests.pools.adapters.Counter.hold"
    assert pool.dump(stacks=False).workers[0].stack == ()
    assert pool.worker_pids() == ([] if profile == "local" else [worker.pid])
    assert pool.stats().busy == 1
    release.open()
    held.result(LONG)


def test_waiting_for_workers_takes_text(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile)
    pool.await_ready(f"{LONG:g}s")
    assert pool.stats().ready == (1 if profile == "thread" else 2)
    with pytest.raises(ValueError, match="timeout"):
        pool.await_ready("soon")


def test_a_pool_tells_the_life_of_its_workers(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, name="told", **one_worker(profile))
    assert pool.execute("echo", {"value": 1}) == 1
    if profile != "local":
        pool.recycle_worker(timeout=LONG)
    lifecycle = pool.lifecycle_stats()
    assert (lifecycle.pool, lifecycle.size) == ("told", 1)
    pids = [] if profile == "local" else pool.worker_pids()
    assert [worker.pid for worker in lifecycle.workers] == pids
    assert lifecycle.recycled["manual"] == len(pids)
    assert asdict(pool.stats()).items() <= pool.get_stats().items()


def test_an_adapter_is_named_as_text_too(new_pool: NewPool) -> None:
    pool = new_pool(adapter="tests.pools.adapters:Counter", pool_size=1, adapter_env={"AN": "x"})
    assert pool.execute("increment") == 1
    assert pool.get_stats()["adapter"] == "tests.pools.adapters:Counter"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool_size": 0}, "pool_size"),
        ({"pool_size": 1001}, "pool_size must be at most 1000"),
        ({"threads_per_worker": 2}, "threads_per_worker"),
        ({"profile": "local", "pool_size": 2}, "pool_size"),
        ({"profile": "remote"}, "profile must be one of"),
        ({"pool_sise": 2}, "did you mean 'pool_size'"),
        ({"max_workers": 2}, "no option 'max_workers'; did you mean 'pool_size'"),
        ({"workers": 2}, "did you mean 'pool_size'"),
        ({"size": 2}, "did you mean 'pool_size'"),
        ({"processes": 2}, "did you mean 'pool_size'"),
        ({"max_tasks_per_child": 2}, "did you mean 'worker_max_requests'"),
        ({"env": {}}, "did you mean 'adapter_env'"),
        ({"worker_tll": 5}, "did you mean 'worker_ttl'"),
        ({"timeout_profile": "balancd"}, "did you mean 'balanced'"),
        ({"timeout": "soon"}, "timeout"),
        ({"max_queue_size": 0}, "max_queue_size"),
        ({"affinity": "stric"}, "affinity.*did you mean 'strict_queue'"),
        ({"capacity_strategy": "pol"}, "did you mean 'pool'"),
        ({"adapter_args": [1]}, "adapter_args"),
        ({"startup_batch_delay_ms": -1}, "startup_batch_delay_ms"),
        ({"thread_safety": "no", "profile": "local"}, "thread_safety"),
        ({"thread_safety": "strct"}, "thread_safety.*did you mean 'strict'"),
        ({"name": ""}, "name"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        snakepit.Pool(Unsafe, **options)


def test_threads_of_this_process_take_no_option_of_workers() -> None:
    asked: dict[str, Any] = {
        "adapter_env": {"A": "1"},
        "heartbeat_interval": 1.0,
        "heartbeat_timeout": 10.0,
        "health_interval": 1.0,
        "inline_threshold": 10_240,
        "max_missed": 3,
        "memory_threshold_mb": 5,
        "preload": ["json"],
        "snapshot_every": 3,
        "snapshot_memory_mb": 5,
        "start_method": "spawn",
        "startup_batch_delay_ms": 1,
        "startup_batch_size": 2,
        "worker_ttl": "1h",
    }
    for name, value in asked.items():
        with pytest.raises(ValueError, match=f"^{name} is for workers that are processes"):
            snakepit.Pool(
                snakepit.ThreadedShowcaseAdapter,
                profile="local",
                threads_per_worker=1,
                **{name: value},
            )
    # These ask for nothing.
    snakepit.Pool(
        snakepit.ThreadedShowcaseAdapter,
        profile="local",
        threads_per_worker=1,
        adapter_env={},
        heartbeat_interval=None,
        health_interval=math.inf,
        preload=[],
        snapshot_every=None,
        worker_ttl=None,
    )


PAUSE = 0.15  # seconds


def starts_of(pool: snakepit.Pool) -> list[float]:
    """When the processes of its workers began, in seconds since boot, in order."""
    pool.await_ready(LONG)
    found: dict[int, float] = {}

    def all_answered() -> bool:
        calls = [pool.submit("born_at") for _ in range(4 * pool.get_stats()["workers"])]
        found.update(call.result(LONG) for call in calls)
        return len(found) == int(pool.get_stats()["workers"])

    wait_until(all_answered)
    return sorted(found.values())


@pytest.mark.parametrize("start_method", ["template", "fork", "spawn"])
def test_workers_start_in_batches(new_pool: NewPool, start_method: str) -> None:
    pool = new_pool(
        adapter=Newborn,
        pool_size=3,
        startup_batch_size=1,
        startup_batch_delay_ms=PAUSE * 1000,
        start_method=start_method,
    )
    first, second, third = starts_of(pool)
    assert min(second - first, third - second) > 0.9 * PAUSE


def test_workers_of_a_batch_start_together(new_pool: NewPool) -> None:
    pool = new_pool(
        adapter=Newborn, pool_size=4, startup_batch_size=2, startup_batch_delay_ms=PAUSE * 1000
    )
    first, second, third, fourth = starts_of(pool)
    assert third - second > 0.9 * PAUSE
    assert max(second - first, fourth - third) < third - second


def test_workers_of_several_threads_start_in_batches(new_pool: NewPool) -> None:
    pool = new_pool(
        adapter=Newborn,
        profile="thread",
        pool_size=2,
        threads_per_worker=2,
        startup_batch_size=1,
        startup_batch_delay_ms=PAUSE * 1000,
    )
    first, second = starts_of(pool)
    assert second - first > 0.9 * PAUSE


def test_no_more_workers_start_at_once_than_the_machine_can_take(
    new_pool: NewPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snakepit.pool.pool.LEAST_STARTING", 1)
    monkeypatch.setattr("snakepit.pool.pool.usable_cpus", lambda: 0.25)
    # One at a time then: each begins when the one before is ready, which takes it a while.
    first, second, third = starts_of(
        new_pool(adapter=Newborn, pool_size=3, adapter_args={"seconds": PAUSE})
    )
    assert min(second - first, third - second) > 0.9 * PAUSE
    # Who says how many start together has it so.
    first, second, third = starts_of(
        new_pool(adapter=Newborn, pool_size=3, adapter_args={"seconds": 1}, startup_batch_size=3)
    )
    assert third - first < 1


def test_forked_workers_have_their_environment_before_the_adapter_is_made(
    new_pool: NewPool,
) -> None:
    pool = new_pool(adapter=Surrounded, start_method="fork", adapter_env={"COLOUR": "red"})
    assert pool.execute("seen") == ["red", "red", "red", "red"]
    assert "COLOUR" not in os.environ


def test_errors_travel(new_pool: NewPool) -> None:
    error = pickle.loads(pickle.dumps(ToolArgumentError("no", details={"tool": "x"})))
    assert error.details == {"tool": "x"}
