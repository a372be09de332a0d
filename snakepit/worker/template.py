"""The template: a clean, single-threaded process that workers are forked from in a millisecond.

    owner                                   template
    Template()  --- exec python ----------> main(): prepare, preload, freeze
    spawn()     --- "spawn" + pipe + fds -> fork ---> worker: run the process object in the pipe
                <-- pid, pidfd ------------
    reap(pid)   --- "reap" ---------------> waitpid
                <-- status ----------------

One request at a time, so the template needs no SIGCHLD handler, no thread and no table. The owner
learns of a death from the pidfd and then asks for the status. When the owner goes, the socket
closes and the template ends.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import traceback
import types
from multiprocessing import process, spawn, util
from typing import Any

# What every worker needs: imported once, here.
WORKER_MODULES = (
    "snakepit.worker.process",
    "snakepit.worker.loop",
    "snakepit.worker.context",
    "snakepit.pool.memory",
    "snakepit._core.lane",
    "snakepit._core.lifeline",
    "snakepit._core.stacks",
    "snakepit.lifecycle.template",
    "snakepit.pickling",
)

_inherited: list[int] = []


class TemplateDup:
    """A descriptor that came with the request, by its place among them."""

    def __init__(self, place: int) -> None:
        self.place = place

    def detach(self) -> int:
        return _inherited[self.place]


def main(fd: int) -> None:
    """Serve one owner until it closes the socket `fd`."""
    connection = socket.socket(fileno=fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    try:
        preparation, preload = pickle.loads(connection.recv(1 << 20))
        _prepare(preparation)
        for name in (*WORKER_MODULES, *preload):
            importlib.import_module(name)
        report: Any = None
    except BaseException as error:
        report = (f"{type(error).__name__}: {error}", traceback.format_exc())
    connection.send(pickle.dumps(report))
    if report is not None:
        return
    # What exists now is never garbage: keep the collector from touching, and so copying, these
    # pages in workers.
    gc.collect()
    gc.freeze()
    while True:
        request, fds, _, _ = socket.recv_fds(connection, 64, 250)
        if not request:
            os._exit(0)
        if request == b"spawn":
            _spawn(connection, fds)
        else:
            connection.send(str(_exit_code(int(request))).encode())


def _exit_code(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # Forked by a template before us.
        return 255
    return os.waitstatus_to_exitcode(status)


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


def _spawn(connection: socket.socket, fds: list[int]) -> None:
    # Imported modules may have threads by now; they are not in the child, as after any fork.
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            connection.close()
            code = _run_worker(fds)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            util._flush_std_streams()  # type: ignore[attr-defined]
            os._exit(code)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    try:
        socket.send_fds(connection, [str(pid).encode()], [pidfd])
    finally:
        os.close(pidfd)


def _run_worker(fds: list[int]) -> int:
    global _inherited
    pipe, sentinel, *_inherited = fds
    os.setpgid(0, 0)
    with open(pipe, "rb") as stream:
        folder, path, authkey = pickle.load(stream)
        if os.getcwd() != folder:
            os.chdir(folder)
        sys.path[:] = path
        process.current_process().authkey = authkey
        child = pickle.load(stream)
    if "numpy.random" in sys.modules:
        # Python reseeds its own generator after a fork; numpy's would give every worker the same
        # numbers.
        sys.modules["numpy.random"].seed()
    return int(child._bootstrap(parent_sentinel=sentinel))
