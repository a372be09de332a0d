"""Adapters that show what adapters can do; examples, benchmarks and tests use them."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from snakepit.adapters.adapter import Adapter, tool
from snakepit.adapters.thread_safe import ThreadSafeAdapter, thread_safe_method
from snakepit.errors import VariableError

__all__ = ["ShowcaseAdapter", "ThreadedShowcaseAdapter"]


class ShowcaseAdapter(Adapter):
    """One tool for each feature; state that stays in its worker is `calls` and `cache`.

    The notes of a strict session go with it where it moves; its visits are a variable of it.
    """

    words: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, greeting: str = "pong") -> None:
        self.greeting = greeting
        self.calls: Counter[str] = Counter()
        self.cache: dict[str, Any] = {}
        self.notes: dict[str, list[str]] = {}  # by session
        self.worn = False
        self.started = 0.0

    @classmethod
    def preload(cls) -> None:
        """Load what all workers share, here a few words."""
        cls.words = frozenset(("a", "an", "and", "of", "or", "the", "to"))

    def setup(self) -> None:
        self.started = time.monotonic()

    def teardown(self) -> None:
        self.cache.clear()

    def health(self) -> bool:
        return not self.worn

    def _count(self, name: str) -> None:
        self.calls[name] += 1

    # -- plain calls -------------------------------------------------------------------------------

    @tool(idempotent=True)
    def ping(self) -> str:
        """Answer, from whichever worker is free."""
        self._count("ping")
        return self.greeting

    @tool
    def echo(self, message: Any) -> Any:
        """Return the message."""
        return message

    @tool
    def add(self, a: float, b: float) -> float:
        """Return the sum of two numbers."""
        self._count("add")
        return a + b

    @tool
    def process_text(
        self,
        text: str,
        operation: Literal["upper", "lower", "reverse", "length", "words"] = "upper",
    ) -> Any:
        """Change a text, or count in it; "words" counts those that mean something."""
        self._count("process_text")
        if operation == "upper":
            return text.upper()
        if operation == "lower":
            return text.lower()
        if operation == "reverse":
            return text[::-1]
        if operation == "length":
            return len(text)
        return sum(word.lower() not in self.words for word in text.split())

    @tool
    def get_stats(self) -> dict[str, Any]:
        """Return what this worker has done so far."""
        self._count("get_stats")
        return {
            "pid": os.getpid(),
            "uptime": time.monotonic() - self.started,
            "calls": dict(self.calls),
            "cached": len(self.cache),
        }

    @tool
    def adapter_info(self) -> dict[str, Any]:
        """Return what this adapter is, and where it runs."""
        return {
            "adapter": type(self).__name__,
            "tools": self.supported_commands(),
            "thread_safe": self.__thread_safe__,
            "python": sys.version.split()[0],
            "pid": os.getpid(),
            "thread": threading.get_ident(),
        }

    @tool
    def remember(self, key: str, value: Any = None) -> Any:
        """Return what this worker remembers under a key, after remembering a value if given one."""
        if value is not None:
            self.cache[key] = value
        return self.cache.get(key)

    @tool
    def wear_out(self) -> None:
        """Have this worker say that it is not fit for more, so that it is replaced."""
        self.worn = True

    @tool
    def fail(self, message: str = "as asked") -> None:
        """Raise ValueError, which the caller gets with the worker's traceback."""
        raise ValueError(message)

    # -- what the hooks of calls do --------------------------------------------------------------

    @tool
    def greet(self, name: str) -> str:
        """Greet somebody; the hooks see to the name and the sentence."""
        return f"hello {name}"

    def validate_command(self, command: str, args: dict[str, Any]) -> None:
        if command == "greet" and not args["name"].strip():
            raise ValueError("there is nobody to greet: name is blank")

    def prepare_args(self, command: str, args: dict[str, Any]) -> dict[str, Any]:
        return {"name": args["name"].strip().title()} if command == "greet" else args

    def process_response(self, command: str, response: Any) -> Any:
        return f"{response}!" if command == "greet" else response

    @classmethod
    def command_timeout(cls, command: str, args: dict[str, Any]) -> float | None:
        # A second for each item, where that is more than the tool has anyway.
        return max(60.0, len(args["items"])) if command == "batch_process" else None

    # -- sessions ----------------------------------------------------------------------------------

    def _session(self) -> Any:
        if self.session is None:
            raise ValueError("this tool is for calls in a session: give session=…")
        return self.session

    @tool
    def visit(self) -> int:
        """Count the visits in a variable of the session, which owner and workers share."""
        session = self._session()
        if not session.list_variables("visits"):
            try:
                session.register_variable("visits", "integer", 0, {"min": 0})
            except VariableError:
                pass  # another worker was faster
        visits: int = session.update_variable("visits", lambda count: count + 1)
        return visits

    @tool
    def ask_host(self, name: str, value: Any = None) -> Any:
        """Call a function that the owner registered for the session."""
        return self._session().call_tool(name, value)

    @tool
    def note(self, text: str) -> list[str]:
        """Add a note to those of the session, which its worker keeps; return them all."""
        notes = self.notes.setdefault(self._session().id, [])
        notes.append(text)
        return list(notes)

    def snapshot(self, session: str) -> list[str]:
        return list(self.notes.get(session, ()))

    def restore(self, session: str, state: list[str]) -> None:
        self.notes[session] = state

    # -- work --------------------------------------------------------------------------------------

    @tool
    def compute(self, n: int, operation: Literal["primes", "sum", "fibonacci"] = "primes") -> int:
        """Compute in pure Python: how many primes are below n, the sum below n, or fibonacci(n)."""
        self._count("compute")
        if operation == "sum":
            return sum(range(n))
        if operation == "fibonacci":
            a, b = 0, 1
            for _ in range(n):
                a, b = b, a + b
            return a
        return sum(all(k % d for d in range(2, math.isqrt(k) + 1)) for k in range(2, n))

    @tool
    def matrix_multiply(self, a: Any, b: Any) -> Any:
        """Return the product of two matrices: arrays, which travel by shared memory, or lists."""
        import numpy

        self._count("matrix_multiply")
        return numpy.asarray(a) @ numpy.asarray(b)

    @tool(timeout=60)
    def batch_process(
        self, items: list[Any], operation: Literal["square", "double", "text"] = "square"
    ) -> list[Any]:
        """Do the same with each item of a list."""
        self._count("batch_process")
        if operation == "text":
            return [str(item) for item in items]
        return [item * item if operation == "square" else 2 * item for item in items]

    @tool(thread_sensitive=True)
    def stress_test(self, seconds: float = 0.1, megabytes: int = 1) -> dict[str, Any]:
        """Keep a CPU and some memory busy for a while, or until the call is asked to stop."""
        from snakepit.worker.context import cancelled

        self._count("stress_test")
        ballast = bytearray(megabytes << 20)
        end = time.perf_counter() + seconds
        rounds = 0
        while time.perf_counter() < end and not cancelled():
            rounds += 1
            ballast[rounds % len(ballast)] = rounds & 0xFF
        return {"rounds": rounds, "megabytes": megabytes, "pid": os.getpid()}

    # -- streams -----------------------------------------------------------------------------------

    @tool(streaming=True)
    def ping_stream(self, count: int = 5) -> Iterator[dict[str, Any]]:
        """Yield `count` numbered answers."""
        for number in range(1, count + 1):
            yield {"number": number, "of": count, "answer": self.greeting}

    @tool(streaming=True)
    def stream_progress(self, steps: int = 10, seconds: float = 0.0) -> Iterator[dict[str, Any]]:
        """Yield the progress of a long piece of work, each step of which takes `seconds`."""
        for step in range(1, steps + 1):
            time.sleep(seconds)
            yield {"step": step, "steps": steps, "percent": round(100 * step / steps, 1)}


class ThreadedShowcaseAdapter(ThreadSafeAdapter, ShowcaseAdapter):
    """The same for several threads on one instance: what they share changes under the lock."""

    def _count(self, name: str) -> None:
        with self.acquire_lock():
            self.calls[name] += 1
        self.set_thread_local("calls", self.get_thread_local("calls", 0) + 1)

    @tool
    @thread_safe_method
    def remember(self, key: str, value: Any = None) -> Any:
        """Return what all threads remember under a key, after remembering a value if given one."""
        return super().remember(key, value)

    @tool
    @thread_safe_method
    def note(self, text: str) -> list[str]:
        """Add a note to those of the session, which this instance keeps; return them all."""
        return super().note(text)

    @tool
    def get_stats(self) -> dict[str, Any]:
        """Return what this instance has done so far, and this thread of it."""
        with self.acquire_lock():
            stats = super().get_stats()
        return {
            **stats,
            "thread_calls": self.get_thread_local("calls", 0),
            "locking": self.get_stats_dict(),
        }
