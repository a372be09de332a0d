"""A web service (Starlette) over a pool: an answer by `aexecute`, a streamed one by `astream`.

Here httpx calls it without a port. Any ASGI server serves it as well: `uvicorn examples.web:app`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from snakepit import Adapter, Pool, errors, tool


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
    def primes(self, above: int) -> Iterator[int]:
        """The primes above a number, without an end."""
        while True:
            above += 1
            if len(self.factorise(above)) == 1:
                yield above


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the pool while the application runs."""
    with Pool(Arithmetic, pool_size=2, timeout=2.0) as app.state.pool:
        await asyncio.to_thread(app.state.pool.await_ready)
        yield


async def factorise(request: Request) -> Response:
    """POST {"number": n}: its factors. The pool checks the arguments."""
    return JSONResponse(await request.app.state.pool.aexecute("factorise", await request.json()))


async def primes(request: Request) -> Response:
    """GET: the next five primes, each as soon as it is found. To go away ends the generator."""
    pool: Pool = request.app.state.pool

    async def lines() -> AsyncIterator[str]:
        async with aclosing(pool.astream("primes", request.path_params)) as found:
            for _ in range(5):
                yield f"{await anext(found)}\n"

    return StreamingResponse(lines(), media_type="text/plain")


STATUS: dict[type[Exception], int] = {
    ValueError: 400,  # no JSON
    errors.ToolArgumentError: 422,
    errors.PoolSaturatedError: 503,
    errors.TaskTimeoutError: 504,
}


async def explain(request: Request, error: Exception) -> Response:
    """What a client is told when its call fails."""
    status = next(STATUS[kind] for kind in STATUS if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status)


routes = [Route("/factors", factorise, methods=["POST"]), Route("/primes/{above:int}", primes)]
app = Starlette(False, routes, exception_handlers=dict.fromkeys(STATUS, explain), lifespan=lifespan)


async def main() -> None:
    """Ask the service: for what it can do, for too much, and for nonsense."""
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
    async with app.router.lifespan_context(app), client:
        numbers = [2**61 - 1, *range(10**6, 10**6 + 50), "7"]
        calls = [client.post("/factors", json={"number": number}) for number in numbers]
        late, *fine, wrong = await asyncio.gather(*calls)
        print(f"{sum(answer.status_code == 200 for answer in fine)} answers, {fine[0].json()} ...")
        print(late.status_code, late.json()["error"])
        print(wrong.status_code, wrong.json()["error"])
        print("primes:", (await client.get("/primes/1000000")).text.split())


if __name__ == "__main__":
    asyncio.run(main())
