"""What callers get wrong: each error names the thing and the remedy, and the pool goes on.

Under every profile where it can happen. What a signature, a stream, a store or a configuration
makes of bad input by itself is tested with them.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import snakepit
from snakepit import errors
from tests.pools.adapters import (
    BadPreload,
    BadSetup,
    Counter,
    DiesInPreload,
    DiesInSetup,
    LeavesConstructor,
    LeavesLate,
    LeavesPreload,
    LeavesSetup,
    Probe,
    Threaded,
    Unsafe,
    WrongHooks,
    WrongNames,
    WrongTimeout,
)
from tests.pools.conftest import KINDS, one_worker
from tests.support import LONG, run_script, wait_until

NewPool = Callable[..., snakepit.Pool]


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


clock = Clock()


@pytest.fixture(scope="module", params=KINDS)
def profile(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def shared(profile: Any) -> Iterator[snakepit.Pool]:
    """A pool that the tests share, with a store of four sessions; all that is lazy in it awake."""
    with (
        snakepit.SessionStore(4, clock=clock) as store,
        snakepit.Pool(Probe, name="mine", session_store=store, **KINDS[profile]) as pool,
    ):
        pool.await_ready(LONG)
        pool.session("warm").register_variable("x", "integer", 1)
        assert pool.execute("read", {"name": "x"}, session="warm") == 1
        assert len(list(pool.stream("count", {"up_to": 1000}))) == 1000
        store.delete_session("warm")
        yield pool


@pytest.fixture
def pool(shared: snakepit.Pool) -> Iterator[snakepit.Pool]:
    """The pool that the tests share, which is as good as before after each of them."""
    workers = shared.get_stats()["workers"]
    yield shared
    for name in shared.session_store.list_sessions():
        shared.session_store.delete_session(name)
    calls = [shared.submit("echo", {"value": number}) for number in range(10)]
    assert [call.result(LONG) for call in calls] == list(range(10))
    stats = shared.get_stats()
    assert (stats["workers"], stats["queued"]) == (workers, 0)


@pytest.fixture
def new_pool() -> Iterator[NewPool]:
    made: list[snakepit.Pool] = []

    def make(profile: Any, adapter: Any = Probe, **options: Any) -> snakepit.Pool:
        for pool in made:
            pool.stop(cancel_calls=True)  # its name is the next one's
        made.append(snakepit.Pool(adapter, **{"name": "own", **KINDS[profile], **options}))
        return made[-1]

    yield make
    for pool in made:
        pool.stop(cancel_calls=True)


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


# One test looks at all of them: each has an audit of its own, which costs more than this.
WRONG_ARGUMENTS: list[tuple[Any, str | None, str]] = [
    ({}, "up_to", "argument 'up_to' is missing; it takes up_to: int"),
    ({"up_to": "3"}, "up_to", "argument 'up_to' must be int, not '3' (str)"),
    ({"up_to": 3, "fial": True}, "fial", "it has no argument 'fial'; did you mean 'fail'?"),
    ({"up_to": 3, "zzz": True}, "zzz", "it has no argument 'zzz'; it takes up_to: int, "),
    ({3: 3}, None, "names are strings, not 3"),
    ([3], None, "its arguments are a dict of names and values, not list"),
]


def test_wrong_arguments_are_named_before_a_worker_is_taken(pool: snakepit.Pool) -> None:
    submitted = pool.get_stats()["submitted"]
    for args, argument, words in WRONG_ARGUMENTS:
        with pytest.raises(errors.ToolArgumentError) as caught:
            pool.stream("count", args)
        assert f"tool 'count' of Probe: {words}" in str(caught.value)
        assert caught.value.details["argument"] == argument
        assert isinstance(caught.value, TypeError)
    with pytest.raises(errors.ToolArgumentError, match="argument 'value' is missing"):
        list(pool.map("echo", [{"value": 1}, {}]))
    assert pool.get_stats()["submitted"] <= submitted + 1  # what came before the wrong item


def test_tool_that_streams_and_one_that_does_not_are_told_apart(pool: snakepit.Pool) -> None:
    with pytest.raises(errors.ToolArgumentError, match=r"'count' streams; read it by stream\(\)"):
        pool.execute("count", {"up_to": 3})
    with pytest.raises(errors.ToolArgumentError, match=r"'count' streams; read it by stream\(\)"):
        pool.map("count", [{"up_to": 3}])
    with pytest.raises(errors.ToolArgumentError, match=r"'echo' .* call it by execute\(\)"):
        pool.stream("echo", {"value": 1})


# Adapters


IMPORTS: list[tuple[str | None, str]] = [
    (None, "No module named 'bad_service'; correct the name"),
    ("import no_such_library", "No module named 'no_such_library'; install it"),
    ("class Api(:", "SyntaxError"),
    ("raise OSError('no licence')", "OSError: no licence"),
    ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    ("Api = 3", "subclass of snakepit.Adapter"),
    ("class Apis: pass", "has no 'Api'; did you mean 'Apis'?"),
]


def test_adapter_that_cannot_be_imported_is_named(
    new_pool: NewPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for number, (source, words) in enumerate(IMPORTS):
        # Under a name of its own, since a module that was imported is not read again.
        name = f"bad_service_{number}"
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
            importlib.invalidate_caches()
        for profile in KINDS:
            with pytest.raises(errors.AdapterError) as caught:
                new_pool(profile, f"{name}:Api")
            assert words.replace("bad_service", name) in str(caught.value)
            assert caught.value.details["step"] == "import"
            if source != "Api = 3":
                assert caught.value.details["adapter"] == f"{name}:Api"
        sys.modules.pop(name, None)


UNMAKEABLE: list[tuple[Any, dict[str, Any], str]] = [
    (BadSetup, {}, r"BadSetup.*setup\(\) raised OSError: no such model"),
    (BadPreload, {}, r"BadPreload.*preload\(\) raised OSError: no such file"),
    (Counter, {"adapter_args": {"begin": 1}}, "Counter.*its constructor raised TypeError"),
    (LeavesPreload, {}, r"LeavesPreload.*preload\(\) raised SystemExit: no licence in preload"),
    (LeavesConstructor, {}, "LeavesConstructor.*its constructor raised SystemExit: no licence"),
    (LeavesSetup, {}, r"LeavesSetup.*setup\(\) raised SystemExit: no licence in setup"),
]


def test_adapter_that_cannot_be_made_is_named(new_pool: NewPool, profile: Any) -> None:
    size = {} if profile == "local" else {"pool_size": 1}
    for adapter, options, words in UNMAKEABLE:
        pool = new_pool(profile, adapter, thread_safety=None, **size, **options)
        with pytest.raises(errors.PoolNotReadyError, match=f"(?s)'own'.*{words}"):
            pool.await_ready(LONG)
        with pytest.raises(errors.PoolNotReadyError, match=f"(?s){words}") as broken:
            pool.execute("pid")
        # It would be the same each time, so once is enough.
        assert "in a row" not in str(broken.value)
        assert broken.value.details["adapter"].endswith(f":{adapter.__name__}")
        assert broken.value.details["step"] in ("preload", "construct", "setup")


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        (DiesInPreload, r"template process exited with code 3 .*import or preload\(\) of adapter"),
        (DiesInSetup, r"worker \d+ exited with code 3 .*the constructor or setup\(\) of adapter"),
    ],
)
def test_adapter_that_ends_its_process_is_named(
    new_pool: NewPool, profile: Any, adapter: Any, words: str
) -> None:
    if profile == "local":
        pytest.skip("it would end this process")
    pool = new_pool(profile, adapter, thread_safety=None, pool_size=1)
    with pytest.raises(errors.PoolNotReadyError, match=f"{words} .*{adapter.__name__}") as broken:
        pool.await_ready(LONG)
    assert broken.value.details["adapter"].endswith(f":{adapter.__name__}")
    assert "says why" not in str(broken.value)


def test_exit_in_health_or_teardown_of_an_adapter_ends_nothing_else(
    new_pool: NewPool, profile: Any, caplog: pytest.LogCaptureFixture
) -> None:
    size = {"health_interval": math.inf, "pool_size": 1} if profile != "local" else {}
    pool = new_pool(profile, LeavesLate, thread_safety=None, **size)
    pool.execute("pid")
    assert set(pool.check_health().values()) == {False}
    pool.stop()
    if profile == "local":
        assert "teardown() of adapter" in caplog.text


@pytest.mark.parametrize("method", ["template", "spawn", "fork"])
def test_argument_of_an_adapter_that_cannot_be_pickled_is_named(
    new_pool: NewPool, method: Any
) -> None:
    args = {"start": 1, "log": threading.Lock()}
    words = r"Counter: adapter_args\['log'\] cannot be pickled .*TypeError.*lock.*in setup\(\)"
    with pytest.raises(errors.EncodeError, match=words) as caught:
        new_pool("process", Counter, adapter_args=args, start_method=method)
    details = caught.value.details
    assert details["adapter"].endswith(":Counter")
    assert (details["step"], details["argument"]) == ("encode", "log")
    assert isinstance(caught.value.__cause__, TypeError)


def test_thread_that_preload_leaves_is_warned_of(
    new_pool: NewPool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = new_pool("process", Threaded)
    assert not pool.execute("is_alive")
    (warning,) = [message for message in caplog.messages if "refresher" in message]
    assert "pool own: import or preload() of adapter" in warning and "Threaded" in warning
    assert "start them in setup()" in warning
    caplog.clear()
    # Without a template it runs in each worker, and so do its threads.
    assert new_pool("process", Threaded, pool_size=1, start_method="spawn").execute("is_alive")
    assert not caplog.messages


def test_hook_that_returns_what_is_no_use_is_named(new_pool: NewPool, profile: Any) -> None:
    for adapter, returned in ((WrongHooks, "None"), (WrongNames, r"\{1: 'word'\}")):
        pool = new_pool(profile, adapter, thread_safety=None)
        words = rf"{adapter.__name__}: prepare_args\(\) must return .*dict.*, not {returned}"
        for name in ("shout", "whisper"):
            with pytest.raises(errors.AdapterError, match=words) as caught:
                pool.execute(name, {"word": "hey"})
            assert caught.value.details["step"] == "prepare_args"
            assert caught.value.details["tool"] == name
        with pytest.raises(errors.AdapterError, match=words):
            list(pool.stream("spell", {"word": "hey"}))
    pool = new_pool(profile, WrongTimeout, thread_safety=None)
    words = r"WrongTimeout: command_timeout\(\) must return seconds .*, not "
    with pytest.raises(errors.AdapterError, match=f"{words}'soon'") as caught:
        pool.execute("pid")
    assert (caught.value.details["step"], caught.value.details["tool"]) == (
        "command_timeout",
        "pid",
    )
    with pytest.raises(errors.AdapterError, match=rf"{words}\[1\]"):
        pool.stream("pids")


@pytest.mark.parametrize("threaded", ["thread", "local"])
def test_adapter_that_is_not_thread_safe_is_reported_where_threads_share_it(
    new_pool: NewPool, threaded: Any
) -> None:
    class Careless(Unsafe):
        """Warned of anew in each of these tests."""

    with pytest.warns(RuntimeWarning, match=r"Careless does not declare .* use profile='process'"):
        pool = new_pool(threaded, Careless)
    assert pool.execute("ping") == "pong"
    with pytest.raises(errors.AdapterError, match=r"Unsafe does not declare .*ThreadSafeAdapter"):
        new_pool(threaded, Unsafe, thread_safety="strict")
    alone = new_pool(threaded, Unsafe, name="alone", thread_safety="strict", threads_per_worker=1)
    assert alone.execute("ping") == "pong"


# Sessions and their variables


def test_session_that_expired_is_another_one_then(
    pool: snakepit.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    session = pool.session_store.create_session("a", ttl=60)
    session.register_variable("total", "integer", 1)
    assert pool.execute("read", {"name": "total"}, session="a") == 1
    clock.now += 61
    with pytest.raises(errors.SessionNotFoundError, match=r"'a'.*has expired"):
        session.get_variable("total")
    # As the sweep does: until then, for seconds, a worker may know what it has read.
    pool.session_store.cleanup_expired_sessions()
    assert not pool.session_store.session_exists("a")
    caplog.set_level("INFO", "snakepit")
    with pytest.raises(errors.VariableNotFoundError, match="'a' has no variable 'total'"):
        pool.execute("read", {"name": "total"}, session="a")
    assert any("session 'a' begins anew" in message for message in caplog.messages)
    assert pool.session_store.session_exists("a")
    assert pool.execute("session_id", session="a") == "a"


def test_unknown_session_has_no_variables_and_is_named(pool: snakepit.Pool) -> None:
    with pytest.raises(errors.SessionNotFoundError, match=r"'nobody'.*ensure_session"):
        pool.session_store.get_session("nobody")
    with pytest.raises(errors.VariableNotFoundError, match="'nobody' has no variable 'x'"):
        pool.execute("read", {"name": "x"}, session="nobody")
    with pytest.raises(TypeError, match="session must be a string, not 7"):
        pool.execute("echo", {"value": 1}, session=7)  # type: ignore[arg-type]


def test_session_over_the_quota_is_refused_and_the_others_go_on(pool: snakepit.Pool) -> None:
    pool.session("a").register_variable("total", "integer", 0)
    for name in "bcd":
        pool.session(name)
    with pytest.raises(errors.SessionQuotaError, match=r"'e'.*raise max_sessions"):
        pool.session("e")
    with pytest.raises(errors.SessionQuotaError, match=r"'e'.*raise max_sessions") as caught:
        pool.execute("add_to", {"name": "total", "amount": 1}, session="e")
    assert caught.value.details == {"session": "e", "max_sessions": 4}
    # Also one whose call needs nothing of the store: it would be kept there.
    with pytest.raises(errors.SessionQuotaError, match="'e'"):
        pool.execute("echo", {"value": 1}, session="e")
    assert pool.execute("echo", {"value": 1}) == 1
    assert pool.execute("add_to", {"name": "total", "amount": 1}, session="a") == 1
    pool.session_store.delete_session("b")
    pool.session("e").register_variable("total", "integer", 5)
    assert pool.execute("add_to", {"name": "total", "amount": 1}, session="e") == 6


def test_variable_of_the_wrong_type_is_refused_and_keeps_its_value(pool: snakepit.Pool) -> None:
    session = pool.session("a")
    session.register_variable("total", "integer", 3, {"max": 10})
    for value, words in ((0.5, "'total'.*integer.*0.5"), ("7", "integer"), (11, "11.*'max'")):
        with pytest.raises(errors.VariableError, match=f"(?s){words}") as caught:
            pool.execute("set_to", {"name": "total", "value": value}, session="a")
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
    assert list(stream) == [0, 1, 2, 3, 4]
    with pytest.raises(errors.StreamReadError, match="tool 'count' of pool 'mine' has ended"):
        list(stream)
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


def test_wrong_arguments_of_astream_are_told_at_the_call(pool: snakepit.Pool) -> None:
    with pytest.raises(errors.ToolNotFoundError, match="did you mean 'count'"):
        pool.astream("coun", {"up_to": 5})
    with pytest.raises(errors.ToolArgumentError, match="'upto'"):
        pool.astream("count", {"upto": 5})
    with pytest.raises(errors.ToolArgumentError, match=r"'echo' returns one value"):
        pool.astream("echo", {"value": 1})


def test_astream_is_consumed_once(pool: snakepit.Pool) -> None:
    async def main() -> None:
        stream = pool.astream("count", {"up_to": 5})
        assert [chunk async for chunk in stream] == [0, 1, 2, 3, 4]
        with pytest.raises(errors.StreamReadError, match="tool 'count' of pool 'mine' has ended"):
            async for _ in stream:
                pass

    asyncio.run(main())


def test_second_task_that_reads_astream_is_told(pool: snakepit.Pool, tmp_path: Path) -> None:
    release = tmp_path / "release"

    async def main() -> list[int]:
        stream = pool.astream("count_after", {"path": str(release)})

        async def read() -> list[int]:
            return [chunk async for chunk in stream]

        first = asyncio.create_task(read())
        await asyncio.sleep(0)  # to where it waits for the first chunk
        with pytest.raises(errors.StreamReadError, match=r"is being read already.*one reader"):
            await read()
        release.touch()
        return await first

    assert asyncio.run(main()) == [0, 1, 2]


def test_astream_that_is_left_ends_its_generator(pool: snakepit.Pool, tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    async def main() -> None:
        args = {"up_to": 10**9, "ended": str(ended)}
        async for chunk in pool.astream("count", args, max_chunks=10):
            if chunk == 1:
                break
        # Here, without a collection of asynchronous generators at the end of the loop.
        wait_until(ended.exists, "the generator to end")

    asyncio.run(main())


# Pools and their configuration


@pytest.fixture
def _no_pools_left() -> Iterator[None]:
    yield
    snakepit.stop(cancel_calls=True)


@pytest.mark.usefixtures("_no_pools_left")
def test_second_pool_of_a_name_is_refused_and_the_first_goes_on(profile: Any) -> None:
    shape = {**KINDS[profile], **one_worker(profile)}
    snakepit.start(adapter=Probe, name="own", **shape)
    with pytest.raises(errors.PoolExistsError, match=r"'own'.*snakepit\.stop\('own'\)"):
        snakepit.start({"pools": [{"name": "other"}, {"name": "own"}], "adapter": Probe, **shape})
    assert list(snakepit.get_stats()) == ["own"]
    assert snakepit.execute("echo", {"value": 1}, pool="own") == 1


WRONG_SETTINGS: list[tuple[str, type[Exception], str]] = [
    ("pool_sise = 2", errors.ConfigError, r"snakepit.toml:6: .*did you mean 'pool_size'\?"),
    ('timeout = "5 minuts"', errors.ConfigError, r"snakepit.toml:6: .*'minuts'.*units are ms"),
    ('timeout = "5"', errors.ConfigError, r"snakepit.toml:6: .*has no unit; the units are"),
    ("adapter_args = 3", errors.ConfigError, r"snakepit.toml:6: .*must be a table"),
    ('adapter = "no_such:Api"', errors.AdapterError, "'no_such:Api'.*correct the name"),
    ('adapter = "no_such"', errors.ConfigError, r"snakepit.toml:6: .*package\.module:Class"),
]


@pytest.mark.usefixtures("_no_pools_left")
def test_configuration_that_is_wrong_is_named_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = f'adapter = "{Probe.__module__}:Probe"'
    snakepit.start(adapter=Probe, name="before", profile="local", threads_per_worker=1)
    for wrong, error, words in WRONG_SETTINGS:
        adapter = "" if wrong.startswith("adapter =") else good
        text = f'[[pools]]\nname = "a"\n{good}\n[[pools]]\nname = "b"\n{wrong}\n{adapter}\n'
        Path("snakepit.toml").write_text(text)
        with pytest.raises(error, match=words):
            snakepit.start("snakepit.toml")
        assert list(snakepit.get_stats()) == ["before"]
    assert snakepit.execute("echo", {"value": 1}, pool="before") == 1


def test_a_module_that_workers_import_cannot_start_a_pool_meanwhile(tmp_path: Path) -> None:
    # Each of its workers would start one, and theirs, too.
    (tmp_path / "served.py").write_text(
        textwrap.dedent(
            """
            import snakepit

            class Model(snakepit.Adapter):
                @snakepit.tool
                def one(self) -> int:
                    return 1

            with snakepit.Pool("served:Model", pool_size=1) as pool:
                print(pool.execute("one"))
            """
        )
    )
    outcome = run_script("import runpy; runpy.run_path('served.py', run_name='__main__')", tmp_path)
    assert outcome.returncode == 1
    assert re.search(
        r"PoolNotReadyError: .*Model.*RuntimeError: module 'served', which workers import, starts "
        r'a pool while it is imported.*under if __name__ == "__main__":',
        outcome.stderr,
    )
