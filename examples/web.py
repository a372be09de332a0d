"""A web service (Starlette) over a pool: an answer by `aexecute`, a streamed one by `astream`."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count, islice

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from snakepit import Adapter, Pool, Stream, errors, tool


class Arithmetic(Adapter):
    """Work that would keep an event loop from everything else."""

    @tool
    def factorise(self, number: int) -> list[int]:
        """The prime factors of a number, each as often as it divides it."""
        factors, divisor = [], 2
        while divisor * divisor <= number:
            while number % divisor == 0:
                factors.append(divisor)
                number //= divisor
            divisor += 1
        return [*factors, number] if number > 1 else factors

    @tool(streaming=True)
    def primes(self, above: int, most: int = 5) -> Iterator[str]:
        """The next primes above a number, a line each."""
        return islice((f"{n}\n" for n in count(above + 1) if len(self.factorise(n)) == 1), most)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the pool while the application runs."""
    with Pool(Arithmetic, pool_size=2, timeout=2.0) as app.state.pool:
        await asyncio.to_thread(app.state.pool.await_ready, 60)
        yield


async def factorise(request: Request) -> Response:
    """POST {"number": n}: its factors. The pool checks the arguments."""
    return JSONResponse(await request.app.state.pool.aexecute("factorise", await request.json()))


class Streamed(StreamingResponse):
    """A response that closes its stream when it ends, also because its client has left."""

    media_type = "text/plain"
    body_iterator: Stream[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.body_iterator:
            await super().__call__(scope, receive, send)


async def primes(request: Request) -> Response:
    """GET: the next primes, each as soon as it is found."""
    return Streamed(request.app.state.pool.astream("primes", request.path_params))


STATUS: dict[type[Exception], int] = {
    ValueError: 400,  # no JSON
    errors.ToolArgumentError: 422,
    errors.PoolSaturatedError: 503,
    errors.TaskTimeoutError: 504,
}


async def explain(request: Request, exc: Exception) -> Response:
    """What a client is told when its call fails."""
    return JSONResponse({"error": str(exc)}, next(STATUS[k] for k in STATUS if isinstance(exc, k)))


routes = [Route("/factors", factorise, methods=["POST"]), Route("/primes/{above:int}", primes)]
app = Starlette(False, routes, exception_handlers=dict.fromkeys(STATUS, explain), lifespan=lifespan)


async def main() -> None:
    """Ask the service, without a port: for what it can do, for too much, and for nonsense."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    async with app.router.lifespan_context(app), client:
        numbers = [2**61 - 1, *range(10**6, 10**6 + 50), "7"]
        calls = [client.post("/factors", json={"number": number}) for number in numbers]
        late, *fine, wrong = await asyncio.gather(*calls)
        print(f"{sum(answer.status_code == 200 for answer in fine)} answers, {fine[0].json()} ...")
        print(*(f"{a.status_code} {a.json()['error']}" for a in (late, wrong)), sep="\n")
        print("primes:", (await client.get("/primes/1000000")).text.split())


if __name__ == "__main__":
    asyncio.run(main())
