"""The loop of a worker: claim -> decode -> run -> encode -> publish."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from itertools import starmap
from typing import TYPE_CHECKING, Any

from snakepit._core.constants import CALL, CALL_EACH
from snakepit.errors import (
    ArenaFullError,
    DecodeError,
    EncodeError,
    FunctionLoadError,
    RemoteError,
    SnakepitError,
    TaskInterrupt,
    TaskStoppedError,
)
from snakepit.pool.memory import arena
from snakepit.worker import children

if TYPE_CHECKING:
    from snakepit._core.lane import WorkerLane

_LONGEST_TEXT = 4000


def run(lane: WorkerLane, max_tasks: int | None = None) -> bool:
    """Run tasks on `lane` until its worker has run `max_tasks`; False if it is told to end."""
    children.keep_those_so_far()
    while max_tasks is None or lane.completed < max_tasks:
        kind = lane.claim()
        if kind is None:
            return False
        run_claimed(lane, kind)
    return True


def run_claimed(lane: WorkerLane, kind: int) -> None:
    """Run the task that `lane` has claimed, and publish its answer."""
    try:
        function, arguments = lane.decode()
    except BaseException as error:
        _end_without_memory()
        answer_error(lane, _loading_error(error))
    else:
        # In functions of their own, so that arguments and result are gone, and with them the memory
        # that they view, before the answer is published.
        if kind == CALL:
            _run_call(lane, function, *arguments)
        else:
            _run_chunk(lane, kind, function, *arguments)
        del function, arguments
    lane.publish()


def _end_without_memory() -> None:
    """End this process if a task closed its descriptor of the shared memory: it is of no use.

    What it runs fails, as in a crash; its successor is sound.
    """
    if arena().usable:
        return
    with contextlib.suppress(BaseException):  # stderr may be closed, too
        print(
            "snakepit: this worker ends, for a task has closed its descriptor of the shared memory",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)


def _run_call(
    lane: WorkerLane, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        result = lane.call(function, args, kwargs)
    except BaseException as error:
        answer_error(lane, _judge(lane, error))
    else:
        if lane.interrupted:
            children.end_those_since(lane.claimed_ns, of_process=lane.alone)
        _answer(lane, result, 1, None, function)


def _run_chunk(lane: WorkerLane, kind: int, function: Callable[..., Any], items: list[Any]) -> None:
    results: list[Any] = []
    try:
        lane.call(_call_each, (function, kind, items, results), {})
    except BaseException as error:
        answer_error(lane, _judge(lane, error), results)
    else:
        if lane.interrupted:
            children.end_those_since(lane.claimed_ns)
        _answer(lane, results, len(results), results, function)


def _call_each(
    function: Callable[..., Any], kind: int, items: list[Any], results: list[Any]
) -> None:
    results.extend(map(function, items) if kind == CALL_EACH else starmap(function, items))
    if len(results) < len(items):
        # Within `map`, a StopIteration of the function looks like the end of the items.
        raise StopIteration


def _judge(lane: WorkerLane, error: BaseException) -> BaseException:
    """Return what a call has failed with: its own error, or that it was stopped."""
    if not lane.interrupted:
        return error
    # What the task was waiting for may be a process of its own, which nobody waits for now.
    children.end_those_since(lane.claimed_ns, of_process=lane.alone)
    if not isinstance(error, TaskInterrupt):
        return error
    stopped = TaskStoppedError(
        f"the task was stopped on request: {error}",
        details={"worker": lane.index, "pid": os.getpid()},
    )
    stopped.__cause__ = error
    return stopped


def call_chunk(function: Callable[..., Any], kind: int, items: list[Any]) -> list[Any]:
    """Call `function` with each item; what a nested `map` submits."""
    return list(map(function, items) if kind == CALL_EACH else starmap(function, items))


def _answer(
    lane: WorkerLane, value: Any, items: int, chunk: list[Any] | None, function: Any
) -> None:
    try:
        lane.encode(value, False, items)
    except BaseException as error:
        _end_without_memory()
        if chunk is not None and isinstance(error, EncodeError):
            from snakepit.pool.travel import unpicklable_item

            error = unpicklable_item(error, chunk, "result")
        if isinstance(error, EncodeError):
            error = _named(error, function)
        answer_error(lane, error)


def _named(error: EncodeError, function: Any) -> EncodeError:
    """Return the error of a result that cannot be pickled with the name of what returned it."""
    name = getattr(function, "__qualname__", None)
    if name is None or str(getattr(function, "__module__", "")).startswith("snakepit."):
        return error
    named = EncodeError(
        f"{error}; it is in what {name!r} returned", details={**error.details, "function": name}
    )
    named.__cause__ = error.__cause__
    return named


def answer_error(lane: WorkerLane, error: BaseException, done: list[Any] | None = None) -> None:
    """Encode an exception as the answer, with its traceback and what a chunk had done before it."""
    text = "".join(traceback.format_exception(error))
    if type(error).__module__ != "builtins" and not isinstance(error, SnakepitError):
        error = portable(error, text)
    for answer in (
        (error, text, done),
        (_stand_in(error, text), text, done),
        (_stand_in(error, text), text[-_LONGEST_TEXT:], None),
    ):
        try:
            lane.encode(answer, True, len(done or ()))
        except Exception as problem:
            _end_without_memory()
            if isinstance(problem, ArenaFullError):
                error = problem
            continue
        return


def portable(error: BaseException, text: str) -> BaseException:
    """Return `error`, or what stands in for it if it does not survive pickling."""
    from snakepit.pickling import careful_dumps

    try:
        copy = pickle.loads(careful_dumps(error))
    except BaseException:
        return _stand_in(error, text)
    return error if isinstance(copy, BaseException) else _stand_in(error, text)


def _stand_in(error: BaseException, text: str) -> SnakepitError:
    if isinstance(error, SnakepitError):
        return error
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    try:
        message = str(error)
    except Exception:
        message = "<its text cannot be had>"
    return RemoteError(
        f"{kind}: {message[-_LONGEST_TEXT:]} (the exception itself cannot be pickled)",
        details={
            "type": kind,
            "text": message[-_LONGEST_TEXT:],
            "traceback": text[-_LONGEST_TEXT:],
        },
    )


def _loading_error(error: BaseException) -> SnakepitError:
    """Say what could not be loaded, the function or its arguments."""
    summary = f"{type(error).__name__}: {error}"
    problem: SnakepitError
    if isinstance(error, ImportError | AttributeError):
        problem = FunctionLoadError(
            f"the worker cannot load the function or what its arguments need: {summary}; "
            "is the module importable from the worker's sys.path, and does it still have that name?"
        )
    else:
        problem = DecodeError(f"the worker cannot rebuild the arguments of the task: {summary}")
    problem.__cause__ = error
    return problem
