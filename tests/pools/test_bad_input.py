"""What callers get wrong: each error names the thing and the remedy, and the pool goes on.

Under every profile where it can happen. What a signature, a stream, a store or a configuration
makes of bad input by itself is tested with them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.pools.adapters import BadPreload, BadSetup, Counter, Unsafe
from tests.pools.test_every_profile import PROFILES, Probe
from tests.support import LONG, wait_until

NewPool = Callable[..., snakepit.Pool]
Write = Callable[[str], Path]

# Profiles whose workers are processes that make the adapter.
IN_PROCESSES = ("process", "thread")


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def new_pool() -> Iterator[NewPool]:
    made: list[snakepit.Pool] = []

    def make(profile: Any, adapter: Any = Probe, **options: Any) -> snakepit.Pool:
        shape = {**PROFILES[profile], **options}
        made.append(snakepit.Pool(adapter, name="mine", profile=profile, **shape))
        return made[-1]

    yield make
    for pool in made:
        pool.stop(cancel_calls=True)


@pytest.fixture
def pool(profile: Any, new_pool: NewPool) -> Iterator[snakepit.Pool]:
    """A pool that takes calls before and after what the test does to it, and loses none."""
    pool = new_pool(profile)
    assert pool.execute("echo", {"value": 1}) == 1
    before = pool.get_stats()
    yield pool
    calls = [pool.submit("echo", {"value": number}) for number in range(10)]
    assert [call.result(LONG) for call in calls] == list(range(10))
    after = pool.get_stats()
    assert after["workers"] == before["workers"] and after["queued"] == 0


# Tools and their arguments


def test_unknown_tool_is_an_error_that_names_the_nearest(pool: snakepit.Pool) -> None:
    submitted = pool.get_stats()["submitted"]
    for use in (pool.execute, pool.submit, pool.stream):
        with pytest.raises(errors.ToolNotFoundError, match="did you mean 'append'") as caught:
            use("apend", {"items": []})
        assert caught.value.details["tool"] == "apend" and isinstance(caught.value, LookupError)
    with pytest.raises(errors.ToolNotFoundError, match=r"Probe has no tool 'zzz'; it has .*echo"):
        list(pool.map("zzz", [{}]))
    with pytest.raises(errors.ToolNotFoundError, match="has no tool 7"):
        pool.execute(7)  # type: ignore[arg-type]
    assert pool.get_stats()["submitted"] == submitted


@pytest.mark.parametrize(
    ("tool", "args", "argument", "words"),
    [
        ("count", {}, "up_to", "argument 'up_to' is missing; it takes up_to: int"),
        ("count", {"up_to": "3"}, "up_to", "'up_to' must be int, not '3' (str)"),
        ("count", {"up_to": 3, "fial": True}, "fial", "no argument 'fial'; did you mean 'fail'?"),
        ("count", [3], None, "by name"),
        ("count", {3: 3}, None, "3"),
    ],
)
def test_wrong_arguments_are_named_before_a_worker_is_taken(
    pool: snakepit.Pool, tool: str, args: Any, argument: str | None, words: str
) -> None:
    submitted = pool.get_stats()["submitted"]
    with pytest.raises(errors.ToolArgumentError, match=re.escape(words)) as caught:
        pool.stream(tool, args)
    if argument is not None:
        assert caught.value.details["argument"] == argument
    assert pool.get_stats()["submitted"] == submitted


def test_tool_that_streams_and_one_that_does_not_are_told_apart(pool: snakepit.Pool) -> None:
    with pytest.raises(errors.ToolArgumentError, match=r"'count' streams; read it by stream\(\)"):
        pool.execute("count", {"up_to": 3})
    with pytest.raises(errors.ToolArgumentError, match=r"'count' streams; read it by stream\(\)"):
        pool.map("count", [{"up_to": 3}])
    with pytest.raises(errors.ToolArgumentError, match=r"'echo' .* call it by execute\(\)"):
        pool.stream("echo", {"value": 1})


# Adapters


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "No module named 'bad_service'; correct the name"),
        ("import no_such_library", "No module named 'no_such_library'; install it"),
        ("class Api(:", "SyntaxError"),
        ("raise OSError('no licence')", "OSError: no licence"),
        ("Api = 3", "subclass of snakepit.Adapter"),
        ("class Apis: pass", "has no 'Api'; did you mean 'Apis'?"),
    ],
)
def test_adapter_that_cannot_be_imported_is_named(
    source: str | None,
    words: str,
    profile: Any,
    new_pool: NewPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "bad_service", raising=False)
    if source is not None:
        (tmp_path / "bad_service.py").write_text(source)
    with pytest.raises(errors.AdapterError, match=re.escape(words)) as caught:
        new_pool(profile, "bad_service:Api")
    assert "bad_service" in caught.value.details["adapter"] or source == "Api = 3"
    assert caught.value.details["step"] == "import"


@pytest.mark.parametrize(
    ("adapter", "options", "words"),
    [
        (BadSetup, {}, r"BadSetup.*setup\(\) raised OSError: no such model"),
        (BadPreload, {}, r"BadPreload.*preload\(\) raised OSError: no such file"),
        (Counter, {"adapter_args": {"begin": 1}}, "Counter.*its constructor raised TypeError"),
    ],
)
def test_adapter_that_cannot_be_constructed_is_named(
    new_pool: NewPool, profile: Any, adapter: Any, options: dict[str, Any], words: str
) -> None:
    pool = new_pool(profile, adapter, thread_safety=None, **options)
    with pytest.raises(errors.PoolNotReadyError, match=f"(?s)'mine'.*{words}"):
        pool.await_ready(LONG)
    with pytest.raises(errors.PoolNotReadyError, match=f"(?s){words}"):
        pool.execute("pid")


@pytest.mark.parametrize("profile", ["thread", "local"])
def test_adapter_that_is_not_thread_safe_is_reported_where_threads_share_it(
    new_pool: NewPool, profile: Any
) -> None:
    class Careless(Unsafe):
        """Warned of anew in each of these tests."""

    with pytest.warns(RuntimeWarning, match=r"Careless does not declare .* use profile='process'"):
        pool = new_pool(profile, Careless)
    assert pool.execute("ping") == "pong"
    with pytest.raises(errors.AdapterError, match=r"Unsafe does not declare .*ThreadSafeAdapter"):
        new_pool(profile, Unsafe, thread_safety="strict")
    alone = new_pool(profile, Unsafe, thread_safety="strict", threads_per_worker=1)
    assert alone.execute("ping") == "pong"


# Sessions and their variables


def test_session_that_expired_is_another_one_then(new_pool: NewPool, profile: Any) -> None:
    now = [1000.0]
    with snakepit.SessionStore(clock=lambda: now[0]) as store:
        pool = new_pool(profile, session_store=store)
        session = store.create_session("a", ttl=60)
        session.register_variable("total", "integer", 1)
        assert pool.execute("read", {"name": "total"}, session="a") == 1
        now[0] += 61
        with pytest.raises(errors.SessionNotFoundError, match=r"'a'.*has expired"):
            session.get_variable("total")
        with pytest.raises(errors.VariableNotFoundError, match="'a' has no variable 'total'"):
            pool.execute("read", {"name": "total"}, session="a")
        assert pool.execute("session_id", session="a") == "a"
        pool.stop()


def test_unknown_session_has_no_variables_and_is_named(pool: snakepit.Pool) -> None:
    with pytest.raises(errors.SessionNotFoundError, match=r"'nobody'.*ensure_session"):
        pool.session_store.get_session("nobody")
    with pytest.raises(errors.VariableNotFoundError, match="'nobody' has no variable 'x'"):
        pool.execute("read", {"name": "x"}, session="nobody")
    with pytest.raises(TypeError, match="session must be a string, not 7"):
        pool.execute("echo", {"value": 1}, session=7)  # type: ignore[arg-type]


def test_session_over_the_quota_is_refused_and_the_others_go_on(
    new_pool: NewPool, profile: Any
) -> None:
    with snakepit.SessionStore(2) as store:
        pool = new_pool(profile, session_store=store)
        pool.session("a").register_variable("total", "integer", 0)
        pool.session("b")
        with pytest.raises(errors.SessionQuotaError, match=r"'c'.*max_sessions"):
            pool.session("c")
        with pytest.raises(errors.SessionQuotaError, match=r"'c'.*max_sessions") as caught:
            pool.execute("add_to", {"name": "total", "amount": 1}, session="c")
        assert caught.value.details == {"session": "c", "max_sessions": 2}
        # What needs nothing of the store runs.
        assert pool.execute("echo", {"value": 1}, session="c") == 1
        assert pool.execute("add_to", {"name": "total", "amount": 1}, session="a") == 1
        store.delete_session("b")
        pool.session("c").register_variable("total", "integer", 5)
        assert pool.execute("add_to", {"name": "total", "amount": 1}, session="c") == 6
        pool.stop()


def test_variable_of_the_wrong_type_is_refused_and_keeps_its_value(pool: snakepit.Pool) -> None:
    session = pool.session("a")
    session.register_variable("total", "integer", 3, {"max": 10})
    for amount, words in ((0.5, "total.*integer.*3.5"), (100, "total.*103.*max")):
        with pytest.raises(errors.VariableError, match=f"(?s){words}") as caught:
            pool.execute("add_float", {"name": "total", "amount": amount}, session="a")
        assert caught.value.details["variable"] == "total" and isinstance(caught.value, ValueError)
    with pytest.raises(errors.VariableNotFoundError, match="did you mean 'total'"):
        pool.execute("read", {"name": "totl"}, session="a")
    assert pool.execute("read", {"name": "total"}, session="a") == 3


# Streams


def test_stream_that_is_abandoned_ends_its_generator(pool: snakepit.Pool, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    stream = pool.stream("count", {"up_to": 10**9, "ended": str(ended)}, max_chunks=10)
    assert [next(stream), next(stream)] == [0, 1]
    del stream
    wait_until(ended.exists, "the generator to end")


def test_stream_is_consumed_once(pool: snakepit.Pool) -> None:
    stream = pool.stream("count", {"up_to": 5})
    assert [list(stream), list(stream)] == [[0, 1, 2, 3, 4], []]
    halves = pool.stream("count", {"up_to": 5})
    for chunk in halves:
        if chunk == 1:
            break
    assert list(halves) == [2, 3, 4]


def test_second_thread_that_reads_a_stream_is_told(pool: snakepit.Pool, tmp_path: Path) -> None:
    release = tmp_path / "release"
    stream = pool.stream("count_after", {"path": str(release)})
    first: list[int] = []
    reader = threading.Thread(target=lambda: first.extend(stream))
    reader.start()
    with pytest.raises(RuntimeError, match=r"is being read already.*one reader"):
        while True:  # until the thread is in there
            stream.poll()
    release.touch()
    reader.join(LONG)
    assert first == [0, 1, 2]


# Pools and their configuration


@pytest.fixture
def _no_pools_left() -> Iterator[None]:
    yield
    snakepit.stop(cancel_calls=True)


@pytest.mark.usefixtures("_no_pools_left")
def test_second_pool_of_a_name_is_refused_and_the_first_goes_on(profile: Any) -> None:
    shape = {"profile": profile, **PROFILES[profile]}
    snakepit.start(adapter=Probe, name="mine", **shape)
    with pytest.raises(errors.PoolExistsError, match=r"'mine'.*snakepit\.stop\('mine'\)"):
        snakepit.start({"pools": [{"name": "other"}, {"name": "mine"}], "adapter": Probe, **shape})
    assert list(snakepit.get_stats()) == ["mine"]
    assert snakepit.execute("echo", {"value": 1}, pool="mine") == 1


@pytest.mark.usefixtures("_no_pools_left")
@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ("pool_sise = 2", errors.ConfigError, r"snakepit.toml:6: .*did you mean 'pool_size'\?"),
        ('timeout = "5 minuts"', errors.ConfigError, r"snakepit.toml:6: .*'minuts'.*units are ms"),
        ('timeout = "5"', errors.ConfigError, r"snakepit.toml:6: .*has no unit; the units are"),
        ("adapter_args = 3", errors.ConfigError, r"snakepit.toml:6: .*must be a table"),
        ('adapter = "no_such:Api"', errors.AdapterError, "'no_such:Api'.*correct the name"),
    ],
)
def test_configuration_that_is_wrong_is_named_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, error: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = "" if wrong.startswith("adapter =") else f'adapter = "{Probe.__module__}:Probe"'
    pools = f'[[pools]]\nname = "a"\nadapter = "{Probe.__module__}:Probe"\n'
    Path("snakepit.toml").write_text(f'{pools}[[pools]]\nname = "b"\n{wrong}\n{adapter}\n')
    snakepit.start(adapter=Probe, name="before", profile="local", threads_per_worker=1)
    with pytest.raises(error, match=words):
        snakepit.start("snakepit.toml")
    assert list(snakepit.get_stats()) == ["before"]
    assert snakepit.execute("echo", {"value": 1}, pool="before") == 1
