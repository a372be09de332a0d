"""Signal handlers, finalisers and forked children that come at the worst moment.

A trace function stops the program between two lines of the code in question, and there the signal
is raised, the process forked: each of these moments comes by itself, too, only seldom.
"""

from __future__ import annotations

import sysconfig
import textwrap
from pathlib import Path

import pytest

from tests.support import run_clean

pytestmark = pytest.mark.processes

# A deadlock ends the script with its stack instead of the test's patience.
PRELUDE = """
import faulthandler, os, signal, sys, threading, warnings
import snakepit

warnings.simplefilter("ignore")  # of forks beside threads

faulthandler.dump_traceback_later(60, exit=True)

def disturb():
    signal.raise_signal(signal.SIGALRM)

def watch(names, visit):
    def each(frame, event, arg):
        if frame.f_code.co_name not in names or "snakepit" not in frame.f_code.co_filename:
            return None
        if event == "line":
            visit()
        return each
    return each
"""


def run(body: str, directory: Path) -> list[str]:
    return run_clean(PRELUDE + textwrap.dedent(body), directory)


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="what a function refers to is let go of by the garbage collector alone there",
)
def test_finaliser_of_a_global_submits(tmp_path: Path) -> None:
    body = """
        first, second = [1], [2]

        class Connection:
            def __del__(self):
                if OWNER and alive:
                    told.append(executor.submit(tell).result())

            def __reduce__(self):
                return int, ()

        def tell():
            return first

        def use():
            return connection is not None

        def other():
            return second

        OWNER, alive, told = False, True, []
        executor = snakepit.Executor(1)
        OWNER, connection = True, Connection()
        assert executor.submit(use).result()
        # The record of what was sent holds the last reference, until the next global is sent.
        del use
        connection = None
        print(executor.submit(other).result(), told)
        alive = False
        executor.shutdown()
        """
    assert run(body, tmp_path) == ["[2] [[1]]"]


def test_signal_handler_submits_while_a_global_is_noted(tmp_path: Path) -> None:
    body = """
        number, futures = 0, []

        def use():
            return number

        def handler(_signal, _frame):
            # The handler is what rebinds the name that the interrupted call is about to send.
            global number
            number += 1000
            futures.append((executor.submit(use), number))

        signal.signal(signal.SIGALRM, handler)
        with snakepit.Executor(1) as executor:
            executor.submit(use).result()
            for _ in range(3):
                number += 1
                sys.settrace(watch({"version", "_let_go"}, disturb))
                future = executor.submit(use)
                sys.settrace(None)
                assert future.result() <= number
                assert executor.submit(use).result() == number
            print(len(futures) > 10, all(f.result() == sent for f, sent in futures))
        """
    assert run(body, tmp_path) == ["True True"]


def test_signal_handler_needs_the_arena_while_it_is_made(tmp_path: Path) -> None:
    body = """
        import numpy
        shared = []
        signal.signal(signal.SIGALRM, lambda *_: shared.append(snakepit.shared_array(1000)))
        before = len(os.listdir("/proc/self/fd"))
        sys.settrace(watch({"_budget"}, disturb))
        shared.append(snakepit.shared_array(1000))
        sys.settrace(None)
        print(len(os.listdir("/proc/self/fd")) - before, len(shared) > 3)
        with snakepit.Executor(1) as executor:
            for array in shared:
                array[:] = 1
            futures = [executor.submit(numpy.sum, array) for array in shared]
            assert all(future.result() == 1000.0 for future in futures)
        """
    assert run(body, tmp_path) == ["1 True"]


def test_child_forked_while_another_thread_notes_a_global(tmp_path: Path) -> None:
    body = """
        number = [0]
        reached, forked = threading.Event(), threading.Event()

        def use():
            return number

        def visit():
            reached.set()
            forked.wait()

        def submit():
            sys.settrace(watch({"_let_go"}, visit))
            executor.submit(use).result()

        executor = snakepit.Executor(1)
        executor.submit(use).result()
        number = [1]
        thread = threading.Thread(target=submit)
        thread.start()
        reached.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            with snakepit.Executor(1) as own:
                right = own.submit(use).result() == [1]
            os._exit(0 if right else 1)
        forked.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        executor.shutdown()
        """
    assert run(body, tmp_path) == ["0"]


def test_reducer_of_a_class_waits_for_another_class(tmp_path: Path) -> None:
    """What users' code does while a class is pickled happens under no lock of the pool's."""
    body = """
        class Slow:
            def __reduce__(self):
                if not threads:
                    threads.append(threading.Thread(target=send, args=(Other(),)))
                    threads[0].start()
                    threads[0].join()
                return int, ()

        class Other:
            pass

        class Holder:
            slow = Slow()

        def send(value):
            print(executor.submit(type, value).result().__name__)

        threads = []
        with snakepit.Executor(1) as executor:
            send(Holder())
        """
    assert run(body, tmp_path) == ["Other", "Holder"]
