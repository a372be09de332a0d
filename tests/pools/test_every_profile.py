"""What holds of a pool whatever runs its calls: processes, their threads, or threads here."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import psutil
import pytest

import snakepit
from snakepit import errors
from tests.executor.tasks import Gate, Log
from tests.pools.adapters import Hooked, Probe, Programs, Turns
from tests.pools.conftest import KINDS, one_worker
from tests.pools.movers import Ledger
from tests.pools.test_limits import occupy
from tests.support import LONG, run_script, wait_until

NewPool = Callable[..., snakepit.Pool]
Gates = Callable[[str], Gate]

# (behaviour, profile): why it is not promised there. The test of the behaviour shows what is so.
NOT_PROMISED = {
    ("arguments are the tool's own", "local"): "nothing is copied: the objects are the caller's",
    ("a stream holds max_bytes", "local"): "nothing is copied, so only the chunks are counted",
    ("each worker has an instance of its own", "local"): "all threads share one",
    ("a crash leaves the program alone", "local"): "a thread takes the program along",
    ("a crash fails one call alone", "thread"): "the neighbours in the process die too",
    ("a call that heeds nothing is ended", "local"): "its thread is left behind, and replaced",
    ("workers are recycled", "local"): "there are no worker processes",
    ("an unfit worker is replaced", "local"): "the one instance has nobody to take its place",
    ("sessions have a worker", "local"): "all threads see the same memory: any may run a call",
    ("sessions move", "local"): "there is one process, in which they all are",
}


def promised(behaviour: str, profile: str) -> bool:
    return (behaviour, profile) not in NOT_PROMISED


def test_what_is_not_promised_has_a_test_behind_it() -> None:
    source = Path(__file__).read_text()
    for behaviour, profile in NOT_PROMISED:
        assert f'promised("{behaviour}", profile)' in source
        assert profile in KINDS


@pytest.fixture
def pool(new_pool: NewPool, profile: str) -> snakepit.Pool:
    return new_pool(profile, Probe, name=profile).start()


class Call:
    """A call that runs until it is let go on."""

    def __init__(self, pool: snakepit.Pool, folder: Path, name: str, **terms: Any) -> None:
        self._release, self._began = folder / f"{name}-release", folder / f"{name}-began"
        args = {"path": str(self._release), "began": str(self._began)}
        self.future = pool.submit("wait_for", args, **terms)

    def began(self) -> bool:
        return self._began.exists()

    def begin(self) -> Call:
        wait_until(self.began, "the call to begin")
        return self

    def end(self) -> None:
        self._release.touch()
        assert self.future.result(LONG) == "came"


def test_values_errors_and_checks(pool: snakepit.Pool) -> None:
    for value in (None, 1.5, "text", [1, (2, 3)], {"a": {1, 2}}, b"x" * 100_000):
        assert pool.execute("echo", {"value": value}) == value
    with pytest.raises(ValueError, match="no luck"):
        pool.execute("fail", {"text": "no luck"})
    submitted = pool.get_stats()["submitted"]
    for args, named in (({}, "value"), ({"value": 1, "valu": 2}, "valu")):
        with pytest.raises(errors.ToolArgumentError, match=named):
            pool.execute("echo", args)
    with pytest.raises(errors.ToolNotFoundError, match="echo"):
        pool.execute("ecko", {"value": 1})
    assert pool.get_stats()["submitted"] == submitted
    futures = [pool.submit("echo", {"value": n}) for n in range(200)]
    assert [future.result(LONG) for future in futures] == list(range(200))
    assert list(pool.map("echo", ({"value": n} for n in range(300)))) == list(range(300))


def test_arguments_are_the_tools_own(pool: snakepit.Pool, profile: str) -> None:
    items = [0]
    assert pool.execute("append", {"items": items}) == [0, 1]
    own = promised("arguments are the tool's own", profile)
    assert items == ([0] if own else [0, 1])


def test_timeouts_and_stops(pool: snakepit.Pool, tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    with pytest.raises(errors.TaskTimeoutError):
        pool.execute("wait_for", {"path": never}, timeout=0.2)
    began = tmp_path / "began"
    future = pool.submit("wait_for", {"path": never, "began": str(began)})
    wait_until(began.exists, "the call to begin")
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(LONG)
    assert pool.execute("echo", {"value": 1}) == 1


def test_streams(pool: snakepit.Pool, tmp_path: Path) -> None:
    assert list(pool.stream("count", {"up_to": 1000})) == list(range(1000))
    seen: list[int] = []
    with pytest.raises(ValueError, match="after the chunks"):
        pool.stream("count", {"up_to": 3, "fail": True}).for_each(seen.append)
    assert seen[-3:] == [0, 1, 2]
    ended = tmp_path / "ended"
    for chunk in pool.stream("count", {"up_to": 10**9, "ended": str(ended)}, max_chunks=10):
        if chunk == 50:
            break
    wait_until(ended.exists, "the generator to end")
    halted: list[int] = []

    def halt(chunk: int) -> object:
        halted.append(chunk)
        return snakepit.HALT if chunk == 5 else None

    assert not pool.stream("count", {"up_to": 10**9}).for_each(halt)
    assert halted == [0, 1, 2, 3, 4, 5]
    with pytest.raises(errors.ToolArgumentError):
        pool.stream("count", {"upto": 3})


def test_streams_hold_few_bytes(pool: snakepit.Pool, profile: str, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    args = {"count": 20, "size": 1_000_000, "progress": str(progress)}
    stream = pool.stream("blocks", args, max_bytes="1MiB", max_chunks=10)
    if promised("a stream holds max_bytes", profile):
        for number, _ in enumerate(stream, 1):
            # That is, what has been read, what is on its way, and what waits for room.
            assert progress.stat().st_size <= number + 2
    else:
        wait_until(lambda: progress.exists() and progress.stat().st_size == 11, "ten chunks")
    stream.close()


def test_asyncio(pool: snakepit.Pool) -> None:
    async def main() -> tuple[list[Any], list[int]]:
        calls = [pool.aexecute("echo", {"value": n}) for n in range(50)]
        values = await asyncio.gather(*calls)
        chunks = [chunk async for chunk in pool.astream("count", {"up_to": 200})]
        return list(values), chunks

    values, chunks = asyncio.run(main())
    assert values == list(range(50))
    assert chunks == list(range(200))


def test_sessions(pool: snakepit.Pool) -> None:
    assert pool.execute("session_id") is None
    assert pool.execute("session_id", session="a") == "a"
    session = pool.session("a")
    session.register_variable("total", "integer", 0)
    futures = [
        pool.submit("add_to", {"name": "total", "amount": 1}, session="a") for _ in range(20)
    ]
    for future in futures:
        future.result(LONG)
    assert session.get_variable("total") == 20
    session.set_variable("total", 5)
    assert pool.execute("read", {"name": "total"}, session="a") == 5
    with pytest.raises(errors.VariableError):
        pool.execute("read", {"name": "total"}, session="b")


def test_a_hint_is_to_the_worker_that_knows_the_session(
    pool: snakepit.Pool, profile: str, tmp_path: Path
) -> None:
    pool.await_ready(LONG)
    engine: Any = pool._engine

    def is_idle() -> bool:
        counts = engine.scheduler.counts()
        return bool(counts["searching"] + counts["sleeping"] == pool.stats().lanes)

    places = set()
    for _ in range(20):
        if profile != "local":
            # A hint counts where that worker is free, which it says a moment after its answer.
            wait_until(is_idle, "an idle pool")
        places.add(pool.execute("where", session="a"))
    if promised("sessions have a worker", profile):
        assert len(places) == 1
    # Where it is busy, another takes the call.
    busy = Call(pool, tmp_path, "busy", session="a").begin()
    elsewhere = pool.execute("where", session="a")
    if promised("sessions have a worker", profile):
        assert elsewhere not in places
    busy.end()


def test_a_strict_session_has_one_worker_which_runs_one_call_of_it_at_a_time(
    pool: snakepit.Pool, profile: str, tmp_path: Path
) -> None:
    pool.await_ready(LONG)
    strict: dict[str, Any] = {"affinity": "strict_queue"}
    first = Call(pool, tmp_path, "first", session="a", **strict).begin()
    place = pool.submit("where", session="a", **strict)
    second = Call(pool, tmp_path, "second", session="a", **strict)
    if promised("sessions have a worker", profile):
        # There is a worker that is free, and takes what may run there.
        other = pool.execute("where", session="b", **strict)
        assert not second.began() and not place.done()
        first.end()
        assert place.result(LONG) != other
        second.begin()
    else:
        second.begin()
        first.end()
    second.end()
    futures = {
        name: [pool.submit("where", session=name, **strict) for _ in range(10)]
        for name in ("a", "b", "c")
    }
    places = {name: {each.result(LONG) for each in found} for name, found in futures.items()}
    if promised("sessions have a worker", profile):
        assert places["a"] == {place.result(LONG)} and places["b"] == {other}
        assert len(places["c"]) == 1


def test_a_strict_call_that_will_not_wait_is_told_that_the_worker_is_busy(
    pool: snakepit.Pool, profile: str, tmp_path: Path
) -> None:
    pool.await_ready(LONG)
    call = Call(pool, tmp_path, "first", session="a", affinity="strict_queue").begin()
    future = pool.submit("session_id", session="a", affinity="strict_fail_fast")
    if promised("sessions have a worker", profile):
        error = future.exception(LONG)
        assert isinstance(error, errors.WorkerBusyError) and error.details["session"] == "a"
    else:
        assert future.result(LONG) == "a"
    call.end()


def test_sessions_move_with_their_state(new_pool: NewPool, profile: str) -> None:
    workers = {} if profile == "local" else {"pool_size": 2}
    pool = new_pool(profile, Ledger, affinity="strict_queue", **workers)
    pool.await_ready(LONG)
    assert pool.execute("append", {"item": 1}, session="a") == [1]
    before = pool.execute("where", session="a")
    if promised("sessions move", profile):
        pool.move_session("a")
        assert pool.execute("where", session="a") != before
    else:
        with pytest.raises(ValueError, match="there is one process"):
            pool.move_session("a")
    assert pool.execute("append", {"item": 2}, session="a") == [1, 2]


def test_changes_of_variables_are_seen_on_both_sides(pool: snakepit.Pool, tmp_path: Path) -> None:
    session = pool.session("a")
    session.register_variable("total", "integer", 0)
    changes = session.watch_variable("total")
    assert pool.execute("set_to", {"name": "total", "value": 3}, session="a") == 2
    assert next(changes) == (3, 2)
    began = tmp_path / "began"
    seen = pool.submit("await_change", {"name": "total", "began": str(began)}, session="a")
    wait_until(began.exists, "the watch")
    assert session.set_variable("total", 4) == 3
    assert seen.result(LONG) == (4, 3)
    changes.stop()


def test_programs_are_kept_by_their_session(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, Programs)
    run = pool.execute_program_command
    assert run("a", "create_program", {"signature": "x -> y"})["program_id"] == "y"
    for value in range(5):
        args = {"program_id": "y", "value": value}
        assert run("a", "execute_program", args) == ("x -> y", value)
    with pytest.raises(errors.ProgramNotFoundError, match="'y'"):
        run("b", "execute_program", {"program_id": "y", "value": 1})


def test_host_tools_may_use_the_pool(pool: snakepit.Pool) -> None:
    pool.register_tool("a", "twice", lambda value: pool.execute("echo", {"value": 2 * value}))
    # More at once than the pool can run.
    futures = [
        pool.submit("ask_host", {"tool": "twice", "value": n}, session="a") for n in range(6)
    ]
    assert [future.result(LONG) for future in futures] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(errors.HostToolNotFoundError, match="twice"):
        pool.execute("ask_host", {"tool": "twise", "value": 1}, session="a")


def test_hooks_have_a_say_in_each_call(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, Hooked, thread_safety=None)
    assert pool.execute("shout", {"word": " hey "}) == {"command": "shout", "response": "HEY"}
    assert pool.execute("shout", {"word": "a", "times": 3})["response"] == "AAA"
    with pytest.raises(PermissionError, match="shout"):
        pool.execute("shout", {"word": "forbidden"})
    with pytest.raises(errors.TaskTimeoutError, match=r"0\.2 s"):
        pool.execute("shout", {"word": "slow"})
    assert [answer["response"] for answer in pool.map("shout", [{"word": "a"}])] == ["A"]


def test_setup_and_teardown_frame_the_life_of_an_instance(
    new_pool: NewPool, profile: str, log: Log
) -> None:
    workers = {} if profile == "local" else {"pool_size": 2}
    pool = new_pool(profile, adapter_args={"log": log}, **workers)
    pool.await_ready(LONG)
    pool.execute("record", {"line": "call"})
    pool.stop()
    instances = 2 if promised("each worker has an instance of its own", profile) else 1
    lines = log.lines()
    assert sorted(lines) == sorted(["setup"] * instances + ["call"] + ["teardown"] * instances)
    assert lines[0] == "setup" and lines[-1] == "teardown"


def test_an_unfit_worker_is_replaced(
    new_pool: NewPool, profile: str, caplog: pytest.LogCaptureFixture
) -> None:
    never = {} if profile == "local" else {"health_interval": math.inf}
    pool = new_pool(profile, **never, **one_worker(profile))
    pool.await_ready(LONG)
    assert pool.execute("increment") == 1
    wait_until(lambda: list(pool.check_health().values()) == [True], "a fit worker")
    sick = pool.execute("fall_sick")
    wait_until(lambda: list(pool.check_health().values()) == [False], "the verdict")
    if promised("an unfit worker is replaced", profile):
        wait_until(lambda: sick not in pool.worker_pids() != [], "its replacement")
        assert pool.execute("increment") == 1
        wait_until(lambda: "is not fit" in caplog.text, "the report")
        wait_until(lambda: list(pool.check_health().values()) == [True], "a fit worker")
    else:
        assert pool.execute("increment") == 2
        assert pool.check_health() == {0: False}


def test_workers_are_recycled_without_a_gap(new_pool: NewPool, profile: str) -> None:
    pool = new_pool(profile, **one_worker(profile))
    assert pool.execute("increment") == 1
    before = pool.worker_pids()
    if promised("workers are recycled", profile):
        pool.recycle_worker(timeout=LONG)
        assert pool.execute("increment") == 1
        assert set(pool.worker_pids()).isdisjoint(before)
        assert pool.get_stats()["recycled"]["manual"] == 1
    else:
        with pytest.raises(ValueError, match="local"):
            pool.recycle_worker(timeout=LONG)
        assert pool.execute("increment") == 2


def test_thread_sensitive_tools_run_one_at_a_time_in_an_instance(
    new_pool: NewPool, profile: str
) -> None:
    threads = {} if profile == "process" else {"threads_per_worker": 4}
    pool = new_pool(profile, Turns, **threads)
    for future in [pool.submit("alone") for _ in range(20)]:
        future.result(LONG)
    most, _ = pool.execute("seen")
    assert most == 1


def test_urgent_calls_go_first(new_pool: NewPool, profile: str, gates: Gates, log: Log) -> None:
    pool = new_pool(profile, adapter_args={"log": log}, **one_worker(profile))
    held, release = occupy(pool, gates, 1)
    for priority in ("low", "normal", "high"):
        pool.submit("record", {"line": priority}, priority=priority)
    release.open()
    pool.stop()
    assert held[0].done()
    assert log.lines() == ["setup", "high", "normal", "low", "teardown"]


def test_options_of_map(pool: snakepit.Pool, tmp_path: Path) -> None:
    drawn = []

    def items() -> Iterator[dict[str, int]]:
        for number in range(100):
            drawn.append(number)
            yield {"value": number}

    values = pool.map("echo", items(), chunksize=1, buffersize=4)
    for number in range(10):
        assert len(drawn) <= number + 4
        assert next(values) == number
    assert list(values) == list(range(10, 100))
    given = [{"value": number} for number in range(100)]
    assert list(pool.map("echo", given, chunksize=7, progress=False)) == list(range(100))
    assert sorted(pool.map("echo", given, ordered=False)) == list(range(100))
    # A call that is late does not keep those that are done: they come first.
    late = [{"path": str(tmp_path)}, {"path": str(tmp_path / "never")}]
    results = pool.map("wait_for", late, timeout=1)
    assert next(results) == "came"
    with pytest.raises(errors.TaskTimeoutError, match=r"timeout of 1 s"):
        next(results)


def test_a_crash_fails_what_ran_in_the_worker_and_the_pool_goes_on(
    new_pool: NewPool, profile: str, tmp_path: Path
) -> None:
    if not promised("a crash leaves the program alone", profile):
        program = f"""
            import snakepit
            from tests.pools.adapters import Probe

            with snakepit.Pool(Probe, profile={profile!r}, threads_per_worker=2) as pool:
                pool.execute("die")
            """
        assert run_script(program, tmp_path).returncode == 7
        return
    pool = new_pool(profile, Probe)
    pool.await_ready(LONG)
    neighbour = Call(pool, tmp_path, "neighbour").begin()
    with pytest.raises(errors.WorkerCrashedError, match="exited with code 7"):
        pool.execute("die")
    if promised("a crash fails one call alone", profile):
        neighbour.end()
    else:
        assert isinstance(neighbour.future.exception(LONG), errors.WorkerCrashedError)
    assert [pool.execute("echo", {"value": n}) for n in range(3)] == [0, 1, 2]


def test_a_call_that_heeds_nothing_is_ended(
    new_pool: NewPool, profile: str, tmp_path: Path
) -> None:
    graces = {"flag": 0.0, "interrupt": 0.1, "terminate": 0.1}
    pool = new_pool(profile, Probe, stop_grace=graces, **one_worker(profile))
    pool.await_ready(LONG)
    before = pool.worker_pids()
    names = ("path", "began", "ended")
    release, began, ended = (tmp_path / name for name in names)
    future = pool.submit("heed_nothing", {name: str(tmp_path / name) for name in names})
    wait_until(began.exists, "the call to begin")
    assert future.cancel()
    # The pool has its capacity back, in whichever way.
    assert pool.execute("echo", {"value": 1}) == 1
    if promised("a call that heeds nothing is ended", profile):
        wait_until(lambda: not any(map(psutil.pid_exists, before)), "the end of its worker")
        assert not ended.exists()
    else:
        assert not ended.exists()
        release.touch()
        wait_until(ended.exists, "the thread that was left behind")


def test_saturation(new_pool: NewPool, profile: str, tmp_path: Path) -> None:
    pool = new_pool(profile, Probe, max_queue_size=3, queue_timeout=60)
    pool.await_ready(LONG)
    running = [Call(pool, tmp_path, str(number)).begin() for number in range(2)]
    queued = [pool.submit("echo", {"value": n}) for n in range(3)]
    with pytest.raises(errors.PoolSaturatedError):
        pool.submit("echo", {"value": 3})
    for call in running:
        call.end()
    assert [future.result(LONG) for future in queued] == [0, 1, 2]


def test_a_call_that_waits_too_long_never_runs(
    new_pool: NewPool, profile: str, tmp_path: Path
) -> None:
    pool = new_pool(profile, Probe, queue_timeout=0.3)
    pool.await_ready(LONG)
    running = [Call(pool, tmp_path, str(number)).begin() for number in range(2)]
    late = Call(pool, tmp_path, "late")
    assert isinstance(late.future.exception(LONG), errors.QueueTimeoutError)
    for call in running:
        call.end()
    assert pool.execute("echo", {"value": 1}) == 1
    assert not late.began()


def test_pools_of_every_profile_in_one_program(tmp_path: Path) -> None:
    pools = [
        {"name": name, "adapter": "tests.pools.adapters:Probe", **shape}
        for name, shape in KINDS.items()
    ]
    snakepit.start({"pools": pools})
    try:
        snakepit.await_ready(timeout=LONG)
        for name in KINDS:
            assert snakepit.execute("echo", {"value": name}, pool=name) == name
            seen: list[int] = []
            snakepit.execute_stream("count", {"up_to": 5}, seen.append, pool=name)
            assert seen == [0, 1, 2, 3, 4]
            assert snakepit.execute_in_session("s", "session_id", pool=name) == "s"
        with pytest.raises(errors.PoolNotFoundError, match="process"):
            snakepit.execute("echo", {"value": 1}, pool="proces")
    finally:
        snakepit.stop()
