"""What workers run in these tests."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from tests.executor.tasks import Gate


def wait_below(depth: int, started: Gate, release: Gate) -> None:
    if depth:
        wait_below(depth - 1, started, release)
    else:
        started.open()
        release.wait()


def fail_once_and_wait(failed: Gate, started: Gate, release: Gate) -> None:
    if not failed.is_open():
        failed.open()
        raise OSError("the first time it fails")
    wait_below(0, started, release)


def wait_in_generator(started: Gate, release: Gate) -> int:
    def numbers() -> Iterator[int]:
        started.open()
        release.wait()
        yield 1

    return sum(numbers())


def wait_in_c_with_the_gil(pipe: str, started: Gate) -> None:
    """Block in open() of a named pipe without giving the GIL back."""
    function = ctypes.PyDLL(None).open
    started.open()
    os.close(function(pipe.encode(), os.O_RDONLY))


def wait_for_item(release: Gate, item: int) -> int:
    release.wait()
    return item


def churn(seed: int, release: Gate) -> int:
    """Recurse, raise and allocate, in code that is made anew each time, until told to end."""
    rounds = 0
    while rounds == 0 or not release.is_open():
        name = f"made_{seed}_{rounds}"
        source = f"def {name}(n): return [n] if n == 0 else {name}(n - 1) + [n]"
        space: dict[str, object] = {}
        exec(compile(source, f"<made {seed} {rounds}>", "exec"), space)
        made = space[name]
        for depth in (0, 3, 50, 200):
            assert len(made(depth)) == depth + 1  # type: ignore[operator]
        for depth in range(20):
            try:
                fall(depth)
            except ValueError:
                rounds += 1
        del made, space
    return rounds


def fall(depth: int) -> None:
    if depth == 0:
        raise ValueError("the bottom")
    try:
        list(map(fall, (depth - 1 for _ in range(2))))
    finally:
        _ = [bytearray(64) for _ in range(depth)]


def initialise_slowly(started: Gate, release: Gate) -> None:
    started.open()
    release.wait()
