"""The template: a clean, single-threaded process that workers are forked from in a millisecond.

    owner                                   template
    Template()  --- exec python ----------> main(): prepare, preload, freeze
    spawn()     --- "spawn" + file + fds -> fork ---> worker: run the process object in the file
                <-- pid, pidfd ------------ or the reason, if it cannot fork
    reap(pid)   --- "reap" ---------------> waitpid
                <-- status, memory --------

One request at a time, so the template needs no SIGCHLD handler, no thread and no table. The owner
learns of a death from the pidfd and then asks for the status. When the owner goes, the socket
closes and the template ends.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
from multiprocessing import process, spawn, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit.worker.keeper import Keeper

from snakepit.worker import orphan, priority
from snakepit.worker.imports import import_for_pool

# What every worker needs: imported once, here.
WORKER_MODULES = (
    "snakepit.worker.process",
    "snakepit.worker.loop",
    "snakepit.worker.context",
    "snakepit.worker.orphan",
    "snakepit.worker.recording",
    "snakepit.worker.children",
    "snakepit.pool.memory",
    "snakepit._core.lane",
    "snakepit._core.lifeline",
    "snakepit._core.stacks",
    "snakepit.pickling",
)

MOST_OF_REASON = 200  # bytes
LEEWAY = 0.05  # seconds that workers have beyond their grace before the template ends them

_inherited: list[int] = []


class TemplateDup:
    """A descriptor that came with the request, by its place among them."""

    def __init__(self, place: int) -> None:
        self.place = place

    def detach(self) -> int:
        return _inherited[self.place]


class TemplateProcess(process.BaseProcess):
    """A process forked from `template`, as the owner has it and as it finds itself.

    Here, so that a worker need not load what only its owner does.
    """

    _start_method = None  # In the worker, the platform's default stays the default.

    def __init__(self, popen: Any, template: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.template = template
        self.in_no_hurry = False
        self._popen_class = popen

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # the name that multiprocessing calls
        return process_obj._popen_class(process_obj)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "template": None, "_popen_class": None}


def main(fd: int) -> None:
    """Serve one owner until it closes the socket `fd`."""
    from snakepit._core.lifeline import guard
    from snakepit.worker.keeper import Keeper

    connection = socket.socket(fileno=fd)
    run_id = sys.argv[-1]  # before the owner's arguments take its place
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Inherited from the owner they would be: a SIGCHLD that is ignored leaves no exit status, and a
    # signal that is blocked ends no worker.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    # An import may take for ever, and the owner may die meanwhile.
    guarded, guarding = os.pipe()
    guard(fd, guarded)
    module: str | None = None  # of the option `preload`, the one that is being imported
    try:
        preparation, preload, hook = pickle.loads(connection.recv(1 << 20))
        _prepare(preparation)
        # The collector would look through all that is loaded, again and again, and find nothing.
        gc.disable()
        for name in WORKER_MODULES:
            importlib.import_module(name)
        gc.freeze()
        gc.enable()
        for module in preload:
            import_for_pool(module)
        module = None
        if hook is not None:
            with open(hook, "rb") as stream:
                function, args = pickle.load(stream)
            function(*args)
        # By the names of the threads that are left: workers will not have them.
        report: Any = [
            thread.name
            for thread in threading.enumerate()
            if thread is not threading.main_thread()
        ]  # fmt: skip
    except BaseException as error:
        # Of an adapter's error, which adapter and which step; it may hold what cannot be pickled.
        details = getattr(error, "details", None) or {}
        named = {key: str(details[key]) for key in ("adapter", "step") if key in details}
        problem = f"{type(error).__name__}: {error}"
        if module is not None:
            named["module"] = module
            problem = (
                f"importing {module!r}, which the option preload names, raised {problem}; see that "
                f"a fresh interpreter can import {module!r}, or take it out of preload"
            )
        report = (problem, traceback.format_exc(), named)
    # No thread is left when workers are forked: the guard's end of the pipe closes after it.
    os.close(guarding)
    for _ in range(1000):  # bounded: threads of imported modules may open the number again
        if not _is_open(guarded):
            break
        time.sleep(0.0001)
    keeper = Keeper(run_id)
    connection.send(pickle.dumps(report))
    if isinstance(report, tuple):
        keeper.end_all()
        return
    priority.learn_whether_permitted()
    # What exists now is never garbage: keep the collector from touching, and so copying, these
    # pages in workers.
    gc.collect()
    gc.freeze()
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    poller.register(keeper, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if keeper.fileno() in ready:
            keeper.reap_strays()
        if fd not in ready:
            continue
        try:
            request, fds, _, _ = socket.recv_fds(connection, 64, 250)
            if request in (b"spawn", b"spare"):
                _spawn(connection, fds, keeper, in_no_hurry=request == b"spare")
            elif request:
                connection.send(_reap(int(request), keeper))
        except (BrokenPipeError, ConnectionResetError):
            request = b""  # The owner died while it asked.
        if not request:
            keeper.await_workers(orphan.GRACE + LEEWAY)
            keeper.end_all()
            os._exit(0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _reap(pid: int, keeper: Keeper) -> bytes:
    """Return exit code and peak memory in bytes; nothing is known of a child of somebody else's."""
    keeper.end_leftovers(pid)
    try:
        _, status, usage = os.wait4(pid, 0)
    except ChildProcessError:  # Forked by a template before us.
        return b"unknown"
    return b"%d %d" % (os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)


def _prepare(preparation: dict[str, Any]) -> None:
    """Take over the owner's path, folder and arguments.

    But not its main module: functions of that travel by value.
    """
    file = preparation.pop("main_file", None)
    spawn.prepare(preparation)
    module = types.ModuleType("__main__")
    if file is not None:
        module.__file__ = file
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _spawn(connection: socket.socket, fds: list[int], keeper: Keeper, *, in_no_hurry: bool) -> None:
    # Imported modules may have threads by now; they are not in the child, as after any fork.
    try:
        pid = os.fork()
    except OSError as error:  # of memory, or of processes: the owner tries again
        for fd in fds:
            os.close(fd)
        connection.send(str(error).encode()[:MOST_OF_REASON])
        return
    if pid == 0:
        code = 1
        try:
            connection.close()
            keeper.leave()
            code = _run_worker(fds, in_no_hurry=in_no_hurry)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            util._flush_std_streams()  # type: ignore[attr-defined]
            os._exit(code)
    keeper.workers.add(pid)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(connection, [str(pid).encode()], [pidfd])
    finally:
        os.close(pidfd)


def _run_worker(fds: list[int], *, in_no_hurry: bool) -> int:
    global _inherited
    work, sentinel, *_inherited = fds
    os.setpgid(0, 0)
    if in_no_hurry:
        priority.become_idle()
    # Here and below, what is as it was when the template started is left alone, and nothing is used
    # that does more than is needed: each page that is touched becomes this worker's own.
    chunks = []
    while chunk := os.read(work, 1 << 16):
        chunks.append(chunk)
    os.close(work)
    folder, path, authkey, pickled = pickle.loads(b"".join(chunks))
    if os.getcwd() != folder:
        os.chdir(folder)
    if sys.path != path:
        sys.path[:] = path
    if process.current_process().authkey != authkey:
        process.current_process().authkey = authkey
    child = pickle.loads(pickled)
    if "numpy.random" in sys.modules:
        # Python reseeds its own generator after a fork; numpy's would give every worker the same
        # numbers.
        sys.modules["numpy.random"].seed()
    return int(child._bootstrap(parent_sentinel=sentinel))
