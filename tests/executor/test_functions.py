"""Functions that only cloudpickle can carry, and the moment at which they are looked at."""

from __future__ import annotations

import enum
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

import snakepit
from tests.support import results

from . import tasks


def test_lambda(executor: snakepit.Executor) -> None:
    add: Any = lambda a, b=2: a + b  # noqa: E731
    assert executor.submit(add, 40).result(60) == 42


def test_nested_function(executor: snakepit.Executor) -> None:
    def outer(value: int) -> int:
        def inner() -> int:
            return value + 1

        return inner()

    assert executor.submit(outer, 1).result(60) == 2


def test_recursive_closure(executor: snakepit.Executor) -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert executor.submit(factorial, 20).result(60) == 2432902008176640000


def test_mutually_recursive_closures(executor: snakepit.Executor) -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert executor.submit(even, 10).result(60) is True


def test_function_as_argument_and_as_result(executor: snakepit.Executor) -> None:
    offset = 5
    assert executor.submit(lambda f, x: f(x), lambda x: x + offset, 1).result(60) == 6

    def make_adder(n: int) -> Callable[[int], int]:
        return lambda x: x + n

    assert executor.submit(make_adder, 10).result(60)(1) == 11


def test_function_that_uses_modules_of_its_surroundings(executor: snakepit.Executor) -> None:
    import json
    import math

    def work(value: float) -> str:
        return json.dumps([math.floor(value)])

    assert executor.submit(work, 2.5).result(60) == "[2]"


def test_decorated_function(executor: snakepit.Executor) -> None:
    def twice(function: Callable[[int], int]) -> Callable[[int], int]:
        @functools.wraps(function)
        def wrapper(value: int) -> int:
            return 2 * function(value)

        return wrapper

    @twice
    def work(value: int) -> int:
        return value + 1

    assert executor.submit(work, 1).result(60) == 4


def test_local_class_its_instances_and_their_methods(executor: snakepit.Executor) -> None:
    class Counter:
        step = 3

        def __init__(self, start: int) -> None:
            self.value = start

        def bump(self) -> Counter:
            self.value += self.step
            return self

        @classmethod
        def made(cls) -> Counter:
            return cls(1)

        @staticmethod
        def plain(value: int) -> int:
            return value

        def __eq__(self, other: object) -> bool:
            return type(other) is type(self) and other.__dict__ == self.__dict__

        __hash__ = None  # type: ignore[assignment]

    got = executor.submit(Counter(1).bump).result(60)
    assert type(got) is Counter
    assert got == Counter(4)
    assert executor.submit(Counter.made).result(60) == Counter(1)
    assert executor.submit(Counter.plain, 9).result(60) == 9
    assert executor.submit(Counter, 8).result(60) == Counter(8)


def test_local_dataclass_enum_and_named_tuple(executor: snakepit.Executor) -> None:
    @dataclass(frozen=True)
    class Point:
        x: int
        y: int = 2

    class Colour(enum.Enum):
        RED = "r"

    class Pair(NamedTuple):
        left: int
        right: int

    got = executor.submit(lambda *values: list(values), Point(1), Colour.RED, Pair(1, 2))
    point, colour, pair = got.result(60)
    assert type(point) is Point
    assert point == Point(1, 2)
    assert colour is Colour.RED
    assert type(pair) is Pair


def test_local_exception_can_be_caught(executor: snakepit.Executor) -> None:
    class LocalError(Exception):
        pass

    def work() -> None:
        raise LocalError("mine")

    with pytest.raises(LocalError, match="mine"):
        executor.submit(work).result(60)


# Each submit takes what the function is at that moment


@pytest.mark.processes
def test_captured_mutable_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    state = {"n": 0}

    def work() -> int:
        return state["n"]

    futures = []
    for number in range(200):
        state["n"] = number
        futures.append(executor.submit(work))
    assert results(futures) == list(range(200))


@pytest.mark.processes
def test_rebound_cell_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    number = 0

    def work() -> int:
        return number

    futures = []
    for number in range(50):  # noqa: B007 - the closure reads it
        futures.append(executor.submit(work))
    assert results(futures) == list(range(50))


@pytest.mark.processes
def test_mutable_deep_in_a_closure_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    state: list[list[int]] = [[]]

    def inner() -> int:
        return sum(state[0])

    def work() -> int:
        return inner()

    futures = []
    for _ in range(50):
        state[0].append(1)
        futures.append(executor.submit(work))
    assert results(futures) == list(range(1, 51))


@pytest.mark.processes
def test_changed_defaults_and_attributes_are_taken_at_each_submit(
    executor: snakepit.Executor,
) -> None:
    def work(value: int = 0, *, key: int = 0) -> tuple[int, int, int]:
        return value, key, work.attribute  # type: ignore[attr-defined]

    futures = []
    for number in range(30):
        work.__defaults__ = (number,)
        work.__kwdefaults__ = {"key": number + 1}
        work.attribute = number + 2  # type: ignore[attr-defined]
        futures.append(executor.submit(work))
    assert results(futures) == [(n, n + 1, n + 2) for n in range(30)]


@pytest.mark.processes
def test_changed_code_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    def work() -> str:
        return "old"

    first = executor.submit(work)
    work.__code__ = (lambda: "new").__code__
    assert executor.submit(work).result(60) == "new"
    assert first.result(60) == "old"


@pytest.mark.processes
def test_bound_object_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    class Holder:
        value = 0

        def get(self) -> int:
            return self.value

    holder = Holder()
    futures = []
    for number in range(50):
        holder.value = number
        futures.append(executor.submit(holder.get))
    assert results(futures) == list(range(50))


@pytest.mark.processes
def test_partial_is_taken_at_each_submit(executor: snakepit.Executor) -> None:
    items: list[int] = []
    work = functools.partial(len, items)
    futures = []
    for _ in range(30):
        items.append(0)
        futures.append(executor.submit(work))
    assert results(futures) == list(range(1, 31))


@pytest.mark.processes
def test_changed_class_attribute_is_taken_with_a_new_class(executor: snakepit.Executor) -> None:
    def make(value: int) -> type[Any]:
        class Thing:
            number = value

        return Thing

    for number in range(5):
        cls = make(number)
        assert executor.submit(lambda c: c.number, cls).result(60) == number


@pytest.mark.processes
def test_arguments_are_taken_at_the_submit(executor: snakepit.Executor, gate: Any) -> None:
    """Also when the call must wait for a worker: what comes later changes nothing."""
    release = gate("release")
    blockers = [executor.submit(tasks.pid_after, release) for _ in range(4)]
    small, large = [0], [bytes(20_000)]
    futures = []
    for number in range(50):
        small[0] = number
        large[0] = bytes([number]) * 20_000
        futures.append(executor.submit(lambda s, b: (s[0], b[0][0], len(b[0])), small, large))
    release.open()
    results(blockers)
    assert results(futures) == [(n, n, 20_000) for n in range(50)]


@pytest.mark.processes
def test_functions_made_in_a_loop_are_told_apart(executor: snakepit.Executor) -> None:
    """Freed functions give their addresses to new ones: no memory of theirs may be used."""
    futures = [executor.submit(eval(f"lambda: {number}")) for number in range(2000)]
    assert results(futures) == list(range(2000))


@pytest.mark.processes
def test_thousands_of_functions_do_not_pile_up_in_a_worker(executor: snakepit.Executor) -> None:
    def memory() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    def submit(count: int) -> None:
        for number in range(count):
            ballast = bytes(5_000)
            assert executor.submit(lambda n=number, b=ballast: n).result(60) == number  # type: ignore[misc]

    submit(500)
    before = max(results(executor.submit(memory) for _ in range(8)))
    submit(4000)
    after = max(results(executor.submit(memory) for _ in range(8)))
    assert after - before < 10_000_000  # 4,000 functions with their ballast would be 20 MB


def test_threads_that_submit_the_same_closure(executor: snakepit.Executor) -> None:
    base = {"value": 7}

    def work(n: int) -> int:
        return base["value"] + n

    wrong: list[int] = []

    def submit() -> None:
        for n in range(200):
            if executor.submit(work, n).result(60) != 7 + n:
                wrong.append(n)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
