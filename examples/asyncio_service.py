"""A TCP service that stays responsive while worker processes do its CPU-bound work.

Each line of a client is a text to hash; the answer is its PBKDF2 key, which is made to be slow.
"""

import asyncio
import hashlib
from time import perf_counter

from snakepit import Executor

CLIENTS, REQUESTS, ROUNDS = 4, 5, 50_000


def derive(password: bytes) -> bytes:
    """The slow part: some 20 ms of CPU."""
    return hashlib.pbkdf2_hmac("sha256", password, b"salt", ROUNDS).hex().encode()


async def serve(
    executor: Executor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one client's lines in turn; other clients are served meanwhile."""
    while line := await reader.readline():
        key: bytes = await asyncio.wrap_future(executor.submit(derive, line.strip()))
        writer.write(key + b"\n")
        await writer.drain()
    writer.close()


async def ask(port: int, client: int) -> list[bytes]:
    """One client: send requests, each after the answer to the last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for number in range(REQUESTS):
        writer.write(f"client {client} password {number}\n".encode())
        answers.append((await reader.readline()).strip())
    writer.close()
    await writer.wait_closed()
    return answers


async def worst_delay(stopped: asyncio.Event) -> float:
    """How late the event loop ever was for a 5 ms timer, in seconds."""
    worst = 0.0
    while not stopped.is_set():
        begin = perf_counter()
        await asyncio.sleep(0.005)
        worst = max(worst, perf_counter() - begin - 0.005)
    return worst


async def main() -> None:
    """Run the service, its clients and a probe of the event loop."""
    with Executor() as executor:
        executor.wait_ready()
        server = await asyncio.start_server(lambda r, w: serve(executor, r, w), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        stopped = asyncio.Event()
        probe = asyncio.create_task(worst_delay(stopped))
        begin = perf_counter()
        answers = await asyncio.gather(*(ask(port, client) for client in range(CLIENTS)))
        seconds = perf_counter() - begin
        stopped.set()
        print(f"{CLIENTS} clients, {sum(map(len, answers))} answers in {seconds:.2f} s")
        print(f"the event loop was at most {1000 * await probe:.1f} ms late")

        # An event loop takes the executor as it takes any other.
        key = await asyncio.get_running_loop().run_in_executor(
            executor, derive, b"client 0 password 0"
        )
        print("run_in_executor gives the same key:", key == answers[0][0])
        server.close()
        await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
