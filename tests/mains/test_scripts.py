"""Functions, classes and globals of a program's main module."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.support import KINDS, run_clean, run_script, start_script

PROCESS_KINDS = ["template", "spawn", "forkserver", "fork"]


def options(kind: str) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in KINDS[kind].items())


def guarded(body: str, main: str, guard: bool) -> str:
    """Join the definitions and the main part of a program, with or without the guard."""
    body, main = textwrap.dedent(body), textwrap.dedent(main)
    if guard:
        main = "\nif __name__ == '__main__':\n" + textwrap.indent(main, "    ")
    return body + main


# Only the default start method promises to do without the guard.
GUARDS = [pytest.param(False, id="bare"), pytest.param(True, id="guarded")]


@pytest.mark.parametrize("guard", GUARDS)
def test_functions_lambdas_and_helpers(tmp_path: Path, guard: bool) -> None:
    body = """
        import math
        import snakepit

        FACTOR = 3

        def helper(n):
            return n * FACTOR

        def task(n):
            return helper(n) + math.floor(0.5)
        """
    main = """
        with snakepit.Executor(2) as executor:
            print(executor.submit(task, 4).result(60))
            print(list(executor.map(task, range(5))))
            print(executor.submit(lambda n: helper(n) + 1, 4).result(60))
        """
    assert run_clean(guarded(body, main, guard), tmp_path) == ["12", "[0, 3, 6, 9, 12]", "13"]


@pytest.mark.parametrize("start_method", PROCESS_KINDS)
def test_guarded_script_with_every_start_method(tmp_path: Path, start_method: str) -> None:
    body = """
        import os
        import snakepit

        class Point:
            def __init__(self, x):
                self.x = x

        def task(point):
            assert isinstance(point, Point)
            return Point(point.x + 1), os.getpid()
        """
    main = f"""
        with snakepit.Executor(2, {options(start_method)}) as executor:
            point, pid = executor.submit(task, Point(1)).result(60)
            print(type(point) is Point, point.x, pid != os.getpid())
        """
    assert run_clean(guarded(body, main, True), tmp_path) == ["True 2 True"]


def test_the_script_itself_runs_once(tmp_path: Path) -> None:
    source = """
        import snakepit
        print("top")
        with snakepit.Executor(2) as executor:
            print(sorted(executor.map(abs, range(-3, 1))))
        """
    assert run_clean(source, tmp_path) == ["top", "[0, 1, 2, 3]"]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("method", PROCESS_KINDS)
def test_global_that_the_initializer_sets(tmp_path: Path, guard: bool, method: str) -> None:
    if method != "template" and not guard:
        pytest.skip("only the default start method promises to do without the guard")
    body = """
        import snakepit

        MODEL = None

        def init(value):
            global MODEL
            MODEL = {"value": value}

        def task(n):
            return MODEL["value"] + n

        def helper():
            return MODEL

        def task_with_helper():
            return helper()["value"]

        class User:
            def use(self):
                return MODEL["value"]
        """
    main = f"""
        with snakepit.Executor(2, initializer=init, initargs=(100,), {options(method)}) as executor:
            print([executor.submit(task, n).result(60) for n in range(5)])
            print(list(executor.map(task, range(5))))
            print(executor.submit(task_with_helper).result(60))
            print(executor.submit(lambda: MODEL["value"]).result(60))
            print(executor.submit(User().use).result(60))
            executor.submit(__import__("os")._exit, 1).exception(60)
            print(executor.submit(task, 7).result(60))
        print(MODEL)
        """
    assert run_clean(guarded(body, main, guard), tmp_path) == [
        "[100, 101, 102, 103, 104]",
        "[100, 101, 102, 103, 104]",
        "100",
        "100",
        "100",
        "107",
        "None",
    ]


@pytest.mark.parametrize("guard", GUARDS)
def test_global_that_was_never_defined_at_home(tmp_path: Path, guard: bool) -> None:
    """The usual pattern of documentation: the initializer creates the name."""
    body = """
        import snakepit

        def init():
            global CONNECTION
            CONNECTION = "open"

        def task():
            return CONNECTION
        """
    main = """
        with snakepit.Executor(2, initializer=init) as executor:
            print([executor.submit(task).result(60) for _ in range(4)])
        """
    assert run_clean(guarded(body, main, guard), tmp_path) == [str(["open"] * 4)]


@pytest.mark.parametrize("guard", GUARDS)
def test_global_state_of_a_worker_lasts(tmp_path: Path, guard: bool) -> None:
    body = """
        import snakepit

        CACHE = {}
        COUNT = 0

        def remember(n):
            CACHE[n] = n * n
            return len(CACHE)

        def bump():
            global COUNT
            COUNT += 1
            return COUNT

        def look():
            return COUNT, len(CACHE)
        """
    main = """
        with snakepit.Executor(1) as executor:
            print([executor.submit(remember, n).result(60) for n in range(4)])
            print([executor.submit(bump).result(60) for _ in range(4)])
            print(executor.submit(look).result(60))
        print(COUNT, CACHE)
        """
    assert run_clean(guarded(body, main, guard), tmp_path) == [
        "[1, 2, 3, 4]",
        "[1, 2, 3, 4]",
        "(4, 4)",
        "0 {}",
    ]


def test_global_that_the_caller_rebinds_is_seen(tmp_path: Path) -> None:
    """A change inside the object that a global names is not: the function keeps its snapshot."""
    source = """
        import snakepit

        SCALE = 1
        TABLE = {"a": 1}

        def task(n):
            return n * SCALE + TABLE["a"]

        with snakepit.Executor(1) as executor:
            print(executor.submit(task, 10).result(60))
            SCALE = 2
            print(executor.submit(task, 10).result(60))
            TABLE["a"] = 5
            print(executor.submit(task, 10).result(60))
            TABLE = {**TABLE}
            print(executor.submit(task, 10).result(60))
            futures = []
            for SCALE in range(5):
                futures.append(executor.submit(task, 10))
            print([future.result(60) for future in futures])
        """
    assert run_clean(source, tmp_path) == ["11", "21", "21", "25", "[5, 15, 25, 35, 45]"]


def test_initializer_and_changes_of_the_caller_together(tmp_path: Path) -> None:
    """A change at home of one global does not undo what the worker did to another."""
    source = """
        import snakepit

        MODEL = None
        SCALE = 1

        def init():
            global MODEL
            MODEL = 100

        def task():
            return MODEL * SCALE

        with snakepit.Executor(1, initializer=init) as executor:
            print(executor.submit(task).result(60))
            SCALE = 2
            print(executor.submit(task).result(60))
            SCALE = 3
            print(list(executor.map(lambda _: task(), range(2))))
        """
    assert run_clean(source, tmp_path) == ["100", "200", "[300, 300]"]


@pytest.mark.parametrize("guard", GUARDS)
def test_classes_keep_their_identity(tmp_path: Path, guard: bool) -> None:
    body = """
        import abc, dataclasses, enum, typing
        import snakepit

        class Base(abc.ABC):
            registry = []

            @abc.abstractmethod
            def value(self): ...

        class Derived(Base):
            def __init__(self, x):
                super().__init__()
                self.x = x

            def value(self):
                return self.x

            @property
            def double(self):
                return 2 * self.x

            @classmethod
            def made(cls, x):
                return cls(x)

        @dataclasses.dataclass
        class Record:
            name: str
            items: list = dataclasses.field(default_factory=list)

        @dataclasses.dataclass(frozen=True, slots=True)
        class Frozen:
            name: str

        class Colour(enum.Enum):
            RED = 1

        class Pair(typing.NamedTuple):
            a: int
            b: int

        class Slotted:
            __slots__ = ("a",)

        class MyError(Exception):
            pass

        class Meta(type):
            def __call__(cls, *args):
                made = super().__call__(*args)
                made.by_meta = True
                return made

        class Made(metaclass=Meta):
            pass

        T = typing.TypeVar("T")

        class Box(typing.Generic[T]):
            def __init__(self, item):
                self.item = item

        def check(derived, record, frozen, colour, pair):
            assert type(derived) is Derived and isinstance(derived, Base)
            assert type(record) is Record and type(frozen) is Frozen
            assert colour is Colour.RED and type(pair) is Pair
            assert hash(frozen) == hash(Frozen("f"))
            return Derived(derived.x + 1), Record("r", [1]), Frozen("f"), Colour.RED, Pair(1, 2)

        def fail():
            raise MyError("mine")
        """
    main = """
        with snakepit.Executor(2) as executor:
            for _ in range(3):
                values = Derived(1), Record("r"), Frozen("f"), Colour.RED, Pair(3, 4)
                got = executor.submit(check, *values).result(60)
                assert [type(a) is type(b) for a, b in zip(values, got)] == [True] * 5
                assert isinstance(got[0], Base) and got[0].double == 4
                assert got[1] == Record("r", [1]) and got[2] == Frozen("f")
                assert got[3] is Colour.RED and got[4] == (1, 2)
            assert type(executor.submit(Derived, 5).result(60)) is Derived
            assert type(executor.submit(Derived.made, 5).result(60)) is Derived
            assert executor.submit(Derived(6).value).result(60) == 6
            assert type(executor.submit(Slotted).result(60)) is Slotted
            assert executor.submit(Made).result(60).by_meta is True
            box = executor.submit(Box, 5).result(60)
            assert type(box) is Box and box.item == 5
            assert executor.submit(lambda: Derived).result(60) is Derived
            assert executor.submit(isinstance, Derived(1), Base).result(60) is True
            for got in executor.map(Derived, range(20)):
                assert type(got) is Derived
            try:
                executor.submit(fail).result(60)
            except MyError as error:
                print(error)
        """
    assert run_clean(guarded(body, main, guard), tmp_path) == ["mine"]


def test_class_that_the_caller_defines_anew_is_another(tmp_path: Path) -> None:
    """A class arrives once: attributes that the caller sets on it later stay with the caller."""
    source = """
        import snakepit

        class Thing:
            kind = "old"

            def tell(self):
                return self.kind + "!"

        with snakepit.Executor(1) as executor:
            thing = Thing()
            print(executor.submit(thing.tell).result(60))
            Thing.kind = "new"
            print(executor.submit(thing.tell).result(60))

            class Thing:
                def tell(self):
                    return "another class"

            print(executor.submit(Thing().tell).result(60))
            print(executor.submit(thing.tell).result(60))
        """
    assert run_clean(source, tmp_path) == ["old!", "old!", "another class", "old!"]


def test_decorated_and_cached_functions(tmp_path: Path) -> None:
    source = """
        import functools
        import snakepit

        def logged(function):
            @functools.wraps(function)
            def wrapper(*args):
                return ("logged", function(*args))
            return wrapper

        @logged
        def task(n):
            return n + 1

        @functools.lru_cache
        def cached(n):
            return n * 2

        @functools.singledispatch
        def dispatch(value):
            return "any"

        @dispatch.register
        def _(value: int):
            return "int"

        def uses_cached(n):
            return cached(n) + cached(n)

        with snakepit.Executor(2) as executor:
            print(executor.submit(task, 1).result(60))
            print(executor.submit(uses_cached, 3).result(60))
            print(executor.submit(cached, 3).result(60))
        """
    assert run_clean(source, tmp_path) == ["('logged', 2)", "12", "6"]


def test_modules_beside_the_script(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "VALUE = 1\ndef task():\n    return VALUE\nclass Thing:\n    pass\n"
        "def bump():\n    global VALUE\n    VALUE += 1\n    return VALUE\n"
    )
    source = """
        import beside
        import snakepit
        with snakepit.Executor(1) as executor:
            print(executor.submit(beside.task).result(60))
            print(type(executor.submit(beside.Thing).result(60)) is beside.Thing)
            print([executor.submit(beside.bump).result(60) for _ in range(3)])
            print(beside.VALUE)
        """
    assert run_clean(source, tmp_path) == ["1", "True", "[2, 3, 4]", "1"]


def test_script_run_from_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "beside.py").write_text("def task():\n    return 'found'\n")
    (place / "script.py").write_text(
        "import beside, snakepit\n"
        "with snakepit.Executor(1) as executor:\n"
        "    print(executor.submit(beside.task).result(60))\n"
    )
    script = start_script(None, tmp_path, command=["place/script.py"])
    outcome = script.finish()
    assert (outcome.stdout, outcome.stderr) == ("found\n", "")
    script.expect_nothing_left()


@pytest.mark.parametrize("method", ["template", "spawn"])
def test_module_run_as_main(tmp_path: Path, method: str) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("def helped(n):\n    return n + 1\n")
    (package / "__main__.py").write_text(
        "import snakepit\n"
        "from .helper import helped\n"
        "class Thing:\n    pass\n"
        "def task(n):\n    return helped(n), Thing()\n"
        "if __name__ == '__main__':\n"
        f"    with snakepit.Executor(1, start_method={method!r}) as executor:\n"
        "        n, thing = executor.submit(task, 1).result(60)\n"
        "        print(n, type(thing) is Thing)\n"
    )
    script = start_script(None, tmp_path, command=["-m", "package"])
    outcome = script.finish()
    assert (outcome.stdout, outcome.stderr) == ("2 True\n", "")
    script.expect_nothing_left()


COMMAND = """
import snakepit
OFFSET = 5
class Thing: pass
def task(n): return n + OFFSET
with snakepit.Executor(2) as executor:
    print(executor.submit(task, 1).result(60))
    print(list(executor.map(lambda n: task(n) * 2, range(3))))
    print(type(executor.submit(Thing).result(60)) is Thing)
"""
COMMAND_OUTPUT = ["6", "[10, 12, 14]", "True"]


def test_command_given_on_the_command_line(tmp_path: Path) -> None:
    script = start_script(None, tmp_path, command=["-c", COMMAND])
    outcome = script.finish()
    assert (outcome.lines, outcome.stderr) == (COMMAND_OUTPUT, "")
    script.expect_nothing_left()


@pytest.mark.parametrize("command", [["-"], []])
def test_program_read_from_standard_input(tmp_path: Path, command: list[str]) -> None:
    script = start_script(None, tmp_path, command=command, stdin=subprocess.PIPE)
    outcome = script.finish(stdin=COMMAND)
    assert (outcome.lines, outcome.stderr) == (COMMAND_OUTPUT, "")
    script.expect_nothing_left()


def test_traceback_shows_the_lines_of_the_script(tmp_path: Path) -> None:
    source = """
        import snakepit
        def task():
            raise LookupError("boom")  # the line in question
        with snakepit.Executor(1) as executor:
            executor.submit(task).result(60)
        """
    outcome = run_script(source, tmp_path)
    assert outcome.returncode == 1
    assert "# the line in question" in outcome.stderr


def test_exec_and_runpy(tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(
        "import snakepit\n"
        "K = 3\n"
        "def task(n):\n    return n * K\n"
        "with snakepit.Executor(1) as executor:\n"
        "    print(executor.submit(task, 5).result(60))\n"
    )
    source = """
        import runpy
        runpy.run_path("inner.py", run_name="__main__")
        namespace = {"__name__": "__main__"}
        exec(open("inner.py").read(), namespace)
        """
    assert run_clean(source, tmp_path) == ["15", "15"]


def test_main_that_reads_standard_input_itself(tmp_path: Path) -> None:
    """Workers leave the caller's input alone."""
    source = """
        import sys, snakepit
        def peek():
            return sys.stdin.readline() if sys.stdin else ""
        with snakepit.Executor(1) as executor:
            print(repr(executor.submit(peek).result(60)))
            print(repr(sys.stdin.readline()))
        """
    script = start_script(source, tmp_path, stdin=subprocess.PIPE)
    outcome = script.finish(stdin="a line\n")
    assert outcome.lines == ["''", "'a line\\n'"], outcome
    script.expect_nothing_left()


def test_large_globals_travel_once(tmp_path: Path) -> None:
    """A table that a function refers to is not sent again with each of a thousand calls."""
    source = """
        import snakepit
        TABLE = list(range(300_000))
        def task(n):
            return TABLE[n]
        with snakepit.Executor(1) as executor:
            assert executor.submit(task, 5).result(60) == 5
            first = executor.stats()
            futures = [executor.submit(task, n) for n in range(100)]
            assert [future.result(60) for future in futures] == list(range(100))
            last = executor.stats()
        sent = max(last.bytes_in - first.bytes_in, last.bytes_out - first.bytes_out)
        print(sent < 5_000_000, sent if sent >= 5_000_000 else "")
        """
    assert run_clean(source, tmp_path) == ["True "]


def test_warnings_and_flags_are_those_of_the_caller(tmp_path: Path) -> None:
    source = """
        import sys, snakepit
        def flags():
            return sys.flags.optimize, sys.flags.dev_mode, sys.flags.utf8_mode, sys.warnoptions
        with snakepit.Executor(1) as executor:
            print(executor.submit(flags).result(60) == flags())
        """
    script = start_script(source, tmp_path, flags=["-O", "-X", "utf8", "-W", "ignore::UserWarning"])
    outcome = script.finish()
    assert (outcome.stdout, outcome.stderr) == ("True\n", "")
    script.expect_nothing_left()


def test_functions_that_are_changed_in_place(tmp_path: Path) -> None:
    body = """
        import snakepit

        def task(n=1, *, m=1):
            return n, m

        def other(n=1, *, m=1):
            return "other"
        """
    main = """
        with snakepit.Executor(1) as executor:
            print(executor.submit(task).result(60))
            task.__defaults__ = (2,)
            print(executor.submit(task).result(60))
            task.__kwdefaults__ = {"m": 3}
            print(executor.submit(task).result(60))
            task.__code__ = other.__code__
            print(executor.submit(task).result(60))
        """
    expected = ["(1, 1)", "(2, 1)", "(2, 3)", "other"]
    assert run_clean(guarded(body, main, guard=False), tmp_path) == expected
