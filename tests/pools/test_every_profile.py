"""What holds of a pool whatever runs its calls: processes, their threads, or threads here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.pools.adapters import Probe
from tests.support import LONG, wait_until

PROFILES: dict[str, dict[str, Any]] = {
    "process": {"pool_size": 2},
    "thread": {"pool_size": 1, "threads_per_worker": 2},
    "local": {"threads_per_worker": 2},
}
# (behaviour, profile): why it is not promised there.
NOT_PROMISED = {
    ("a task that is stuck in C is ended", "local"): "a thread is left behind, not ended",
    ("arguments are the tool's own", "local"): "nothing is copied: the objects are the caller's",
}


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def pool(profile: Any) -> Iterator[snakepit.Pool]:
    with snakepit.Pool(Probe, name=profile, profile=profile, **PROFILES[profile]) as pool:
        yield pool


def skip_unless_promised(behaviour: str, profile: str) -> None:
    reason = NOT_PROMISED.get((behaviour, profile))
    if reason is not None:
        pytest.skip(reason)


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
    skip_unless_promised("arguments are the tool's own", profile)
    items = [0]
    assert pool.execute("append", {"items": items}) == [0, 1]
    assert items == [0]


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


@pytest.mark.parametrize("affinity", ["hint", "strict_queue"])
def test_affinities(pool: snakepit.Pool, affinity: Any) -> None:
    for name in ("a", "b", "c"):
        futures = [pool.submit("session_id", session=name, affinity=affinity) for _ in range(10)]
        assert {future.result(LONG) for future in futures} == {name}


def test_host_tools_may_use_the_pool(pool: snakepit.Pool) -> None:
    pool.register_tool("a", "twice", lambda value: pool.execute("echo", {"value": 2 * value}))
    # More at once than the pool can run.
    futures = [
        pool.submit("ask_host", {"tool": "twice", "value": n}, session="a") for n in range(6)
    ]
    assert [future.result(LONG) for future in futures] == [0, 2, 4, 6, 8, 10]
    with pytest.raises(errors.HostToolNotFoundError, match="twice"):
        pool.execute("ask_host", {"tool": "twise", "value": 1}, session="a")


def test_saturation(profile: Any, tmp_path: Path) -> None:
    release = tmp_path / "release"
    with snakepit.Pool(
        Probe, profile=profile, max_queue_size=3, queue_timeout=60, **PROFILES[profile]
    ) as pool:
        pool.await_ready(LONG)
        args = [{"path": str(release), "began": str(tmp_path / f"began-{n}")} for n in range(2)]
        running = [pool.submit("wait_for", each) for each in args]
        for each in args:
            wait_until(Path(each["began"]).exists, "the calls to begin")
        queued = [pool.submit("echo", {"value": n}) for n in range(3)]
        with pytest.raises(errors.PoolSaturatedError):
            pool.submit("echo", {"value": 3})
        release.touch()
        assert [future.result(LONG) for future in running] == ["came", "came"]
        assert [future.result(LONG) for future in queued] == [0, 1, 2]


def test_a_call_that_waits_too_long_never_runs(profile: Any, tmp_path: Path) -> None:
    release, mark = tmp_path / "release", tmp_path / "mark"
    with snakepit.Pool(Probe, profile=profile, queue_timeout=0.3, **PROFILES[profile]) as pool:
        pool.await_ready(LONG)
        args = [{"path": str(release), "began": str(tmp_path / f"began-{n}")} for n in range(2)]
        running = [pool.submit("wait_for", each) for each in args]
        for each in args:
            wait_until(Path(each["began"]).exists, "the calls to begin")
        late = pool.submit("wait_for", {"path": str(release), "began": str(mark)})
        assert isinstance(late.exception(LONG), errors.QueueTimeoutError)
        release.touch()
        assert [future.result(LONG) for future in running] == ["came", "came"]
        assert pool.execute("echo", {"value": 1}) == 1
        assert not mark.exists()


def test_pools_of_every_profile_in_one_program(tmp_path: Path) -> None:
    pools = [
        {"name": name, "adapter": "tests.pools.adapters:Probe", "profile": name, **shape}
        for name, shape in PROFILES.items()
    ]
    snakepit.start({"pools": pools})
    try:
        snakepit.await_ready(timeout=LONG)
        for name in PROFILES:
            assert snakepit.execute("echo", {"value": name}, pool=name) == name
            seen: list[int] = []
            snakepit.execute_stream("count", {"up_to": 5}, seen.append, pool=name)
            assert seen == [0, 1, 2, 3, 4]
            assert snakepit.execute_in_session("s", "session_id", pool=name) == "s"
        with pytest.raises(errors.PoolNotFoundError, match="process"):
            snakepit.execute("echo", {"value": 1}, pool="proces")
    finally:
        snakepit.stop()
