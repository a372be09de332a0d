"""Interactive sessions: what is redefined between two calls is what the next call runs."""

from __future__ import annotations

import errno
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from tests.support import LONG, SCRIPT_VARIABLE, Script, run_clean, script_environment, start_script

SESSION = textwrap.dedent(
    """
    import snakepit
    executor = snakepit.Executor(2)
    def helper(n): return n + 1

    def task(n): return helper(n) * FACTOR

    FACTOR = 10
    print("answer", executor.submit(task, 1).result(60))
    FACTOR = 100
    print("answer", executor.submit(task, 1).result(60))
    def helper(n): return n + 2

    print("answer", executor.submit(task, 1).result(60))
    def task(n): return -helper(n)

    print("answer", executor.submit(task, 1).result(60))
    print("answer", list(executor.map(task, range(3))))
    class Thing:
        value = 1

    print("answer", type(executor.submit(Thing).result(60)) is Thing)
    class Thing:
        value = 2

    print("answer", type(executor.submit(Thing).result(60)) is Thing)
    print("answer", executor.submit(lambda: Thing().value).result(60))
    executor.submit(lambda: 1 // 0).result(60)
    print("answer", executor.submit(task, 5).result(60))
    """
)
ANSWERS = ["20", "200", "300", "-3", "[-2, -3, -4]", "True", "True", "2", "-7"]


def answers(text: str) -> list[str]:
    """Return what the session printed, whatever prompts stand before it."""
    return re.findall(r"^(?:>>> |\.\.\. )*answer (.*?)\r?$", text, re.MULTILINE)


def test_piped_interactive_shell(tmp_path: Path) -> None:
    script = start_script(None, tmp_path, command=["-i", "-q"], stdin=subprocess.PIPE)
    outcome = script.finish(stdin=SESSION)
    assert answers(outcome.stdout) == ANSWERS, outcome
    assert "ZeroDivisionError" in outcome.stderr
    script.expect_nothing_left()


def test_interactive_shell_on_a_terminal(tmp_path: Path) -> None:
    shown, status = on_a_terminal([sys.executable, "-q"], SESSION + "exit()\n", tmp_path)
    assert status == 0
    assert answers(shown) == ANSWERS, shown
    assert "ZeroDivisionError" in shown


def test_interrupt_at_a_terminal(tmp_path: Path) -> None:
    """Ctrl-C goes to the foreground process group: the call ends, the shell and pool go on."""
    session = textwrap.dedent(
        """
        import snakepit, time
        executor = snakepit.Executor(2)
        print("answer", executor.submit(pow, 2, 3).result(60))
        future = executor.submit(time.sleep, 600)
        print("waiting"); future.result()
        \x03
        future.stop()
        print("answer", executor.submit(pow, 2, 4).result(60))
        executor.shutdown()
        print("answer", "end")
        exit()
        """
    )
    shown, status = on_a_terminal([sys.executable, "-q"], session, tmp_path)
    assert status == 0, shown
    assert answers(shown) == ["8", "16", "end"], shown
    assert "KeyboardInterrupt" in shown


def on_a_terminal(command: list[str], session: str, directory: Path) -> tuple[str, int]:
    """Type `session` line by line, each after the prompt, and return what the screen showed."""
    mark = uuid.uuid4().hex
    environment = script_environment(
        mark, {"TERM": "dumb", "PYTHON_BASIC_REPL": "1", "PYTHON_COLORS": "0"}
    )
    assert environment[SCRIPT_VARIABLE] == mark
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(directory)
        os.execve(command[0], command, environment)
    shown = b""
    lines = session.splitlines(keepends=True)
    deadline = time.monotonic() + LONG
    try:
        seen = 0
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.05)[0]:
                try:
                    piece = os.read(terminal, 65536)
                except OSError as error:
                    if error.errno != errno.EIO:  # what Linux says when the other side is closed
                        raise
                    break
                if not piece:
                    break
                shown += piece
            prompts = len(re.findall(rb"(?:^|\n)(?:>>> |\.\.\. )", shown))
            if lines and lines[0].startswith("\x03"):
                if b"\nwaiting" in shown:
                    lines.pop(0)
                    time.sleep(0.2)
                    os.write(terminal, b"\x03")
            elif lines and prompts > seen:
                seen = prompts
                os.write(terminal, lines.pop(0).encode())
        else:
            pytest.fail(f"the session hangs: {shown.decode()}")
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(terminal)
        script = Script(None, mark)  # type: ignore[arg-type]
        script.expect_nothing_left()
    return shown.decode(), status


NOTEBOOK = """
import __main__, code, sys

shell = code.InteractiveInterpreter(__main__.__dict__)
number = 0

def run(cell):
    global number
    number += 1
    import linecache, textwrap
    cell = textwrap.dedent(cell)
    name = f"<ipython-input-{{number}}>"
    linecache.cache[name] = (len(cell), None, cell.splitlines(True), name)
    compiled = compile(cell, name, "exec")
    shell.runcode(compiled)

run('''
    import snakepit
    executor = snakepit.Executor(2, {options})
''')
"""


def notebook(*cells: str, options: str = "") -> str:
    source = NOTEBOOK.format(options=options)
    for cell in cells:
        source += f"\nrun({textwrap.dedent(cell)!r})\n"
    return source + "\nexecutor.shutdown()\n"


def test_notebook_redefines_a_function(tmp_path: Path) -> None:
    source = notebook(
        "def task(n): return n + 1",
        "print(executor.submit(task, 1).result(60))",
        "def task(n): return n + 2",
        "print(executor.submit(task, 1).result(60))",
    )
    assert run_clean(source, tmp_path) == ["2", "3"]


def test_notebook_redefines_a_helper(tmp_path: Path) -> None:
    source = notebook(
        "def deepest(n): return n + 1",
        "def helper(n): return deepest(n)",
        "def task(n): return helper(n)",
        "print(executor.submit(task, 1).result(60))",
        "def deepest(n): return n + 10",
        "print(executor.submit(task, 1).result(60))",
        "print(list(executor.map(task, range(3))))",
    )
    assert run_clean(source, tmp_path) == ["2", "11", "[10, 11, 12]"]


def test_notebook_changes_a_global(tmp_path: Path) -> None:
    source = notebook(
        "A, B = 1, [1]",
        "def task(): return A + sum(B)",
        "print(executor.submit(task).result(60))",
        "A = 5",
        "print(executor.submit(task).result(60))",
        "B = [*B, 10]",
        "print(executor.submit(task).result(60))",
        "del A",
        "try:\n    executor.submit(task).result(60)\nexcept NameError as error:\n    print('gone')",
        "A = 'x'; B = []",
        "try:\n    executor.submit(task).result(60)\nexcept TypeError as error:\n    print('type')",
    )
    assert run_clean(source, tmp_path) == ["2", "6", "16", "gone", "type"]


def test_notebook_changes_types_of_a_global(tmp_path: Path) -> None:
    """Equal is not the same: 1, 1.0 and True differ although `==` does not tell."""
    source = notebook(
        "V = 1",
        "def task(): return repr(V)",
        "print(executor.submit(task).result(60))",
        "V = 1.0",
        "print(executor.submit(task).result(60))",
        "V = True",
        "print(executor.submit(task).result(60))",
        "V = [0.0]",
        "print(executor.submit(task).result(60))",
        "V = [-0.0]",
        "print(executor.submit(task).result(60))",
    )
    assert run_clean(source, tmp_path) == ["1", "1.0", "True", "[0.0]", "[-0.0]"]


def test_notebook_global_array_is_bound_anew(tmp_path: Path) -> None:
    source = notebook(
        "import numpy\nA = numpy.zeros(100_000)",
        "def task(): return float(A.sum())",
        "print(executor.submit(task).result(60))",
        "A = A.copy(); A[5] = 3",
        "print(executor.submit(task).result(60))",
    )
    assert run_clean(source, tmp_path) == ["0.0", "3.0"]


def test_notebook_redefines_a_class(tmp_path: Path) -> None:
    source = notebook(
        "class Thing:\n    def tell(self): return 'old'",
        "old = Thing()",
        "print(executor.submit(lambda: Thing().tell()).result(60))",
        "class Thing:\n    def tell(self): return 'new'",
        "print(executor.submit(lambda: Thing().tell()).result(60))",
        "print(executor.submit(lambda t: t.tell(), old).result(60))",
        "print(type(executor.submit(Thing).result(60)) is Thing)",
        "back = executor.submit(lambda t: t, old).result(60)",
        "print(type(back) is type(old), type(back) is Thing)",
    )
    assert run_clean(source, tmp_path) == ["old", "new", "old", "True", "True False"]


def test_notebook_with_an_initializer(tmp_path: Path) -> None:
    source = notebook(
        "MODEL = None\ndef init(v):\n    global MODEL\n    MODEL = v\n",
        "executor.shutdown()\nexecutor = snakepit.Executor(1, initializer=init, initargs=(7,))",
        "def task(): return MODEL",
        "print(executor.submit(task).result(60))",
        "def task(): return ('again', MODEL)",
        "print(executor.submit(task).result(60))",
        "MODEL = 'set at home'",
        "print(executor.submit(task).result(60))",
    )
    assert run_clean(source, tmp_path) == ["7", "('again', 7)", "('again', 'set at home')"]


def test_notebook_state_of_a_worker_lasts(tmp_path: Path) -> None:
    source = notebook(
        "executor.shutdown()\nexecutor = snakepit.Executor(1)",
        "CACHE = {}",
        "def put(k, v): CACHE[k] = v; return sorted(CACHE)",
        "print(executor.submit(put, 'a', 1).result(60))",
        "print(executor.submit(put, 'b', 1).result(60))",
        "def get(k): return CACHE.get(k)",
        "print(executor.submit(get, 'b').result(60))",
    )
    assert run_clean(source, tmp_path) == ["['a']", "['a', 'b']", "1"]


def test_notebook_imports_later(tmp_path: Path) -> None:
    source = notebook(
        "def task(): return json.dumps([1])",
        "import json",
        "print(executor.submit(task).result(60))",
        "import string as json",
        "print(executor.submit(lambda: json.digits).result(60))",
    )
    assert run_clean(source, tmp_path) == ["[1]", "0123456789"]


def test_notebook_traceback_shows_the_cell(tmp_path: Path) -> None:
    source = notebook(
        "def task():\n    raise LookupError('boom')  # in the cell",
        "import traceback\n"
        "try:\n    executor.submit(task).result(60)\n"
        "except LookupError as error:\n"
        "    text = ''.join(traceback.format_exception(error))\n"
        "    print('ipython-input' in text, 'in task' in text)",
    )
    assert run_clean(source, tmp_path) == ["True True"]


def test_ipython(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    script = start_script(
        None,
        tmp_path,
        command=["-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner"],
        stdin=subprocess.PIPE,
        env={"IPYTHONDIR": str(tmp_path / "ipython")},
    )
    session = [
        "import snakepit; executor = snakepit.Executor(2)",
        "def task(n): return n + 1\n",
        "print('answer', executor.submit(task, 1).result(60))",
        "def task(n): return n + 2\n",
        "print('answer', executor.submit(task, 1).result(60))",
        "executor.shutdown()",
    ]
    outcome = script.finish(stdin="\n".join(session) + "\n")
    assert re.findall(r"answer (\d)", outcome.stdout) == ["2", "3"], outcome
    script.expect_nothing_left()
