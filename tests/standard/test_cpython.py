"""CPython's own tests of executors, run on Snakepit's; where the interpreter comes with them.

Python 3.12 made a package of them, whose mixins can be taken one by one. Left out are, each with
its reason in `LEFT_OUT`, tests that look at private attributes or make an executor of the standard
library's, one in which a crash is meant to break the whole pool, one of Windows, and two that
sleep for seconds or count on a call having begun.

Whole modules that are not here:

- test_init asks for the attribute `_broken` and for what the standard library logs;
  tests/executor/test_workers.py has initializers, and those that fail.
- test_deadlock asks for the manager's thread and its pipe, and that a crash breaks the pool;
  tests/executor/test_pickling.py has deaths while pickling, tests/faults/test_crashes.py others.
- test_thread_pool adds to ExecutorTest, which is here, only tests of `_max_workers` and `_threads`,
  one of fork and the standard library's lock, and two of map: tests/executor/test_map.py.
- test_future is of the standard library's own Future, ThreadPoolShutdownTest of its threads.
"""

from __future__ import annotations

import importlib
import multiprocessing
import unittest
from typing import Any, ClassVar

import pytest

import snakepit

PACKAGE = "test.test_concurrent_futures"
pytest.importorskip(f"{PACKAGE}.executor", reason="this interpreter comes without its tests")

MIXINS = {
    "as_completed": ("test_as_completed", "AsCompletedTests"),
    "executor": ("executor", "ExecutorTest"),
    "shutdown": ("test_shutdown", "ExecutorShutdownTest"),
    "wait": ("test_wait", "WaitTests"),
}
PROCESS_MIXINS = {
    "process_executor": ("test_process_pool", "ProcessPoolExecutorTest"),
    "process_shutdown": ("test_shutdown", "ProcessPoolShutdownTest"),
}
SCRIPT = "its script names an executor of the standard library's"
PRIVATE = "reads private attributes"
LEFT_OUT = {
    "test_hang_issue12364": "sleeps for seconds; tests/executor/test_shutdown.py has the case",
    "test_interpreter_shutdown": SCRIPT,
    "test_submit_after_interpreter_shutdown": SCRIPT,
    "test_hang_gh83386": SCRIPT,
    "test_hang_gh94440": SCRIPT,
    "test_max_workers_too_large": "is of Windows",
    "test_killed_child": "a crash is meant to break the whole pool",
    "test_saturation": PRIVATE,
    "test_idle_process_reuse_one": PRIVATE,
    "test_idle_process_reuse_multiple": PRIVATE,
    "test_max_tasks_per_child": PRIVATE,
    "test_max_tasks_per_child_defaults_to_spawn_context": PRIVATE,
    "test_max_tasks_early_shutdown": "makes an executor of the standard library's",
    "test_python_finalization_error": SCRIPT,
    "test_processes_terminate": PRIVATE,
    "test_context_manager_shutdown": PRIVATE,
    "test_del_shutdown": PRIVATE,
    "test_shutdown_no_wait": PRIVATE,
    "test_cancel_futures_wait_false": SCRIPT,
    "test_cancel_futures": "counts on a call having begun by then",
    "test_traceback": "asks for a private class; tests/executor/test_errors.py has the case",
    "test_free_reference": "looks for references in private attributes",
}


class OnSnakepit(unittest.TestCase):
    """Makes the executor that the mixins use."""

    worker_count = 5
    options: ClassVar[dict[str, Any]] = {}

    def setUp(self) -> None:
        self.executor_type = snakepit.Executor
        self.executor: Any = snakepit.Executor(self.worker_count, **self.options)

    def get_context(self) -> Any:
        return multiprocessing.get_context("spawn")

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        self.executor = None


def _make(name: str, module: str, mixin: str, options: dict[str, Any]) -> type[unittest.TestCase]:
    base = getattr(importlib.import_module(f"{PACKAGE}.{module}"), mixin)
    body: dict[str, Any] = {"options": options, "__module__": __name__}
    for test, reason in LEFT_OUT.items():
        if hasattr(base, test):
            body[test] = unittest.skip(reason)(getattr(base, test))
    return type(name, (base, OnSnakepit), body)


for _name, _place in {**MIXINS, **PROCESS_MIXINS}.items():
    globals()[f"TestProcesses_{_name}"] = _make(f"TestProcesses_{_name}", *_place, {})
for _name, _place in MIXINS.items():
    globals()[f"TestThreads_{_name}"] = _make(f"TestThreads_{_name}", *_place, {"profile": "local"})
