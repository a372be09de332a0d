"""The showcase adapters: what examples and guides build on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import snakepit
from snakepit import ShowcaseAdapter, ThreadedShowcaseAdapter
from tests.support import LONG, wait_until

TOOLS: dict[str, tuple[dict[str, Any], Any]] = {
    "ping": ({}, "pong"),
    "echo": ({"message": [1, 2]}, [1, 2]),
    "add": ({"a": 1, "b": 2.5}, 3.5),
    "process_text": ({"text": "the cat and a hat", "operation": "words"}, 2),
    "remember": ({"key": "k", "value": 3}, 3),
    "compute": ({"n": 100}, 25),
    "batch_process": ({"items": [1, 2, 3]}, [1, 4, 9]),
    "greet": ({"name": " ada "}, "hello Ada!"),
}


kinds = pytest.mark.parametrize(
    ("adapter", "options"),
    [
        (ShowcaseAdapter, {"pool_size": 1}),
        (
            ThreadedShowcaseAdapter,
            {"profile": "thread", "pool_size": 1, "threads_per_worker": 2},
        ),
        (ThreadedShowcaseAdapter, {"profile": "local", "threads_per_worker": 2}),
    ],
    ids=["process", "thread", "local"],
)


@kinds
def test_every_tool_answers(adapter: Any, options: dict[str, Any]) -> None:
    with snakepit.Pool(adapter, **options, thread_safety="strict") as pool:
        for name, (args, value) in TOOLS.items():
            assert pool.execute(name, args) == value, name
        product = pool.execute("matrix_multiply", {"a": [[1, 2]], "b": [[3], [4]]})
        assert product.tolist() == [[11]]
        info = pool.execute("adapter_info")
        assert set(info["tools"]) == set(pool.tools())
        stats = pool.execute("get_stats")
        assert stats["calls"]["ping"] == 1 and stats["cached"] == 1
        assert pool.execute("stress_test", {"seconds": 0.01})["rounds"] > 0
        with pytest.raises(ValueError, match="as asked"):
            pool.execute("fail")
        with pytest.raises(ValueError, match="nobody to greet"):
            pool.execute("greet", {"name": " "})
        with pytest.raises(ValueError, match="give session="):
            pool.execute("visit")


@kinds
def test_sessions_have_variables_host_tools_and_notes(
    adapter: Any, options: dict[str, Any]
) -> None:
    if options.get("pool_size"):
        options = {**options, "pool_size": 2}
    with snakepit.Pool(adapter, **options) as pool:
        visits = [pool.submit("visit", session="a") for _ in range(10)]
        assert sorted(visit.result() for visit in visits) == list(range(1, 11))
        assert pool.session("a").get_variable("visits") == 10
        pool.register_tool("a", "upper", str.upper)
        assert pool.execute("ask_host", {"name": "upper", "value": "x"}, session="a") == "X"
        assert pool.execute("note", {"text": "1"}, session="a") == ["1"]


def test_notes_go_with_a_session_that_moves() -> None:
    with snakepit.Pool(ShowcaseAdapter, pool_size=2, affinity="strict_queue") as pool:
        assert pool.execute("note", {"text": "1"}, session="a") == ["1"]
        pool.await_ready(LONG)
        pool.move_session("a")
        assert pool.execute("note", {"text": "2"}, session="a") == ["1", "2"]


def test_a_worker_that_is_worn_out_is_replaced() -> None:
    with snakepit.Pool(ShowcaseAdapter, pool_size=1) as pool:
        first = pool.execute("adapter_info")["pid"]
        pool.execute("wear_out")
        wait_until(lambda: pool.execute("adapter_info")["pid"] != first, "another worker")


def test_a_tool_that_has_much_to_do_has_the_time_for_it() -> None:
    for items, seconds in ((3, 60), (600, 600)):
        args = {"items": [1] * items}
        assert ShowcaseAdapter.command_timeout("batch_process", args) == seconds
    assert ShowcaseAdapter.command_timeout("ping", {}) is None


@kinds
def test_streams_yield_in_order(adapter: Any, options: dict[str, Any]) -> None:
    with snakepit.Pool(adapter, **options) as pool:
        chunks = pool.stream("ping_stream", {"count": 3})
        assert [chunk["number"] for chunk in chunks] == [1, 2, 3]
        parts = pool.stream("stream_progress", {"steps": 2})
        assert [part["percent"] for part in parts] == [50.0, 100.0]

        async def main() -> list[int]:
            return [chunk["number"] async for chunk in pool.astream("ping_stream", {"count": 2})]

        assert asyncio.run(main()) == [1, 2]
