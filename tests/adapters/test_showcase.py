"""The showcase adapters: what examples and guides build on."""

from __future__ import annotations

from typing import Any

import pytest

import snakepit
from snakepit import ShowcaseAdapter, ThreadedShowcaseAdapter

TOOLS: dict[str, tuple[dict[str, Any], Any]] = {
    "ping": ({}, "pong"),
    "echo": ({"message": [1, 2]}, [1, 2]),
    "add": ({"a": 1, "b": 2.5}, 3.5),
    "process_text": ({"text": "the cat and a hat", "operation": "words"}, 2),
    "remember": ({"key": "k", "value": 3}, 3),
    "compute": ({"n": 100}, 25),
    "batch_process": ({"items": [1, 2, 3]}, [1, 4, 9]),
}


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        (ShowcaseAdapter, {"pool_size": 1}),
        (ThreadedShowcaseAdapter, {"profile": "local", "threads_per_worker": 2}),
    ],
)
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


def test_streams_yield_in_order() -> None:
    adapter = ShowcaseAdapter()
    assert [chunk["number"] for chunk in adapter.ping_stream(3)] == [1, 2, 3]
    assert [chunk["percent"] for chunk in adapter.stream_progress(2)] == [50.0, 100.0]
