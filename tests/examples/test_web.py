"""What the example `web` promises beyond what it prints."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import LONG, need

need("starlette", "the example web is about starlette")
httpx = need("httpx", "the example web calls itself by httpx")

from examples.web import app  # noqa: E402 - after what it needs


@pytest.fixture(autouse=True)
def _no_pool_left() -> Iterator[None]:
    """Let go of the pool that the application, which is global, keeps after its end."""
    yield
    del app.state.pool


async def idle() -> None:
    """Wait until no call runs."""
    async with asyncio.timeout(LONG):
        while app.state.pool.get_stats()["busy"]:
            await asyncio.sleep(0.005)


def test_client_that_leaves_a_stream_ends_its_generator() -> None:
    scope = {"type": "http", "method": "GET", "path": "/primes/100000000000", "headers": []}
    sent: list[dict[str, Any]] = []

    async def main() -> None:
        first = asyncio.Event()

        async def receive() -> dict[str, str]:
            await first.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                first.set()
                await asyncio.Event().wait()  # a connection that takes no more

        async with app.router.lifespan_context(app):
            await app(scope, receive, send)  # type: ignore[arg-type] # plainer than an ASGI server's
            await idle()
            assert app.state.pool.get_stats()["busy"] == 0

    asyncio.run(main())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["body"] == b"100000000003\n"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "line 1"),
        (b"[1]", 422, "dict of names and values"),
        (b"{}", 422, "'number' is missing"),
        (b'{"numbr": 1}', 422, "did you mean 'number'?"),
    ],
)
def test_bad_request_is_told_what_is_wrong(body: bytes, status: int, said: str) -> None:
    async def main() -> Any:
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
        async with app.router.lifespan_context(app), client:
            return await client.post("/factors", content=body)

    answer = asyncio.run(main())
    assert answer.status_code == status
    assert said in answer.json()["error"]
