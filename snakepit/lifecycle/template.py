"""The owner's side of the template: a multiprocessing context that forks processes from it."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import context, popen_fork, process, reduction, spawn, util
from typing import Any

from snakepit import errors
from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.autopsy import signal_name
from snakepit.lifecycle.identity import process_state
from snakepit.lifecycle.registry import registry
from snakepit.worker.template import TemplateDup, TemplateProcess

# Seconds until a template that does not answer is given up. It answers in a millisecond. So that
# nobody waits for that who has others to see to, `reap` is called in a thread of its own, and
# `spawn` only of a template that runs.
ANSWER_PATIENCE = 3.0
KILL_PATIENCE = 0.5  # seconds that a killed template has to be gone before a thread waits for it


def can_use_template() -> bool:
    """Whether this system has what the template needs: fork, pidfds, passing of descriptors."""
    if not (hasattr(os, "fork") and hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return sys.platform == "linux"


class Template:
    """One template process.

    `env` is in force before anything is imported, `preload` are modules that it imports, `hook` is
    a pickled (function, args) that it calls then, which loads `adapter`.
    Started by `start` or `begin`, which return at once. What it reports is to be read by
    `take_report` once its descriptor is readable; then `spawn` can be called. Thread-safe.
    """

    def __init__(
        self,
        preload: tuple[str, ...],
        env: dict[str, str],
        hook: bytes | None = None,
        adapter: str | None = None,
    ) -> None:
        self._preload = preload
        self._hook = hook
        self._adapter = adapter
        self._env = env
        self._lock = threading.RLock()  # a signal handler may start the pool again, on top
        self._socket: socket.socket | None = None
        # Both ends, from before the process exists: for children of ours that are forked meanwhile.
        self._ends: tuple[socket.socket, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self.launches = 0  # processes started so far
        self.started = 0.0  # the monotonic time when the last of them was
        self._row = 0  # of the process registry

    def start(self) -> None:
        """Start the process, if it does not run."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._socket is not None:
            return
        ours, theirs = self._ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from snakepit.worker.template import main; main({theirs.fileno()})"
        )
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        row = self._row = registry.reserve("template")
        executable = os.fsdecode(spawn.get_executable())
        try:
            with theirs, contextlib.ExitStack() as stack:
                hook = None if self._hook is None else stack.enter_context(_passed(self._hook))
                self._process = subprocess.Popen(
                    [executable, *flags, "-c", code, run_ids.FLAG, run_ids.current()],
                    pass_fds=[theirs.fileno(), *([] if hook is None else [hook])],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self._env, run_ids.ENVIRONMENT: run_ids.current()},
                    # Its own group from the first instruction on: a Ctrl-C in the terminal while it
                    # boots is the owner's business.
                    process_group=0,
                )
        except BaseException as error:
            ours.close()
            registry.release(row)
            if not isinstance(error, OSError):
                raise
            raise errors.PoolNotReadyError(
                f"the template process cannot be started with {executable!r}: {error}; see that "
                "sys.executable (or what multiprocessing.set_executable() was given) can be run",
                details={"executable": executable},
            ) from error
        registry.activate(row, self._process.pid)
        self.launches += 1
        self.started = time.monotonic()
        preparation = spawn.get_preparation_data("snakepit-template")
        preparation.pop("init_main_from_name", None)
        main_file = preparation.pop("init_main_from_path", None)
        preparation["main_file"] = main_file
        preparation["authkey"] = bytes(preparation["authkey"])
        ours.send(pickle.dumps((preparation, self._preload, hook)))
        self._socket = ours
        self._ready = False

    def begin(self) -> int:
        """Start the process, if it does not run; return the descriptor on which it will report.

        -1 once it is ready.
        """
        with self._lock:
            self._start()
            return -1 if self._ready or self._socket is None else self._socket.fileno()

    def take_report(self) -> str | None:
        """Read the report that has come; from then on the process is ready.

        Returns what its owner is to be warned of, if anything. Raises PoolNotReadyError when it
        cannot start, or is gone; then it is given up.
        """
        with self._lock:
            if self._ready or self._socket is None:
                return None
            self._socket.settimeout(ANSWER_PATIENCE)
            try:
                answer = self._socket.recv(1 << 20)
            except OSError:
                answer = b""
            if not answer:
                code = self._discard()
                how = signal_name(code)
                how = f"was killed by {how}" if how is not None else f"exited with code {code}"
                how = "closed its socket" if code is None else how
                raise errors.PoolNotReadyError(
                    f"the template process {how} before it was ready, while it {self.doing()}; "
                    "what it may have written to stderr is in this process's",
                    details=self._details(),
                )
            report = pickle.loads(answer)
            if isinstance(report, tuple):
                self._discard()
                summary, text, details = report
                raise errors.PoolNotReadyError(
                    f"the template process cannot start: {summary}",
                    details={"traceback": text, **self._details(), **details},
                ) from errors.RemoteTraceback(text)
            self._ready = True
        return self._warning(report)

    def _warning(self, threads: list[str]) -> str | None:
        if not threads:
            return None
        who = "what it preloads"
        start = "an initializer"
        if self._adapter is not None:
            who = f"import or preload() of adapter {self._adapter}"
            start = "setup()"
        names = ", ".join(map(repr, threads))
        return (
            f"{who} left threads running in the template process ({names}): they will not run in "
            f"the workers, which are forked from it; start them in {start}"
        )

    def give_up(self, seconds: float, start_timeout: float) -> errors.PoolNotReadyError:
        """End a process that was not ready in `seconds`; return the error that says so."""
        with self._lock:
            self._discard()
        limit, enough = f"start_timeout={start_timeout:g} s", ""
        if seconds != start_timeout:
            limit = f"{seconds:g} s, the least that it has ({limit})"
            enough = f" above {seconds:g} s"
        return errors.PoolNotReadyError(
            f"the template process was not ready within {limit}: it still {self.doing()}; preload "
            f"less, or raise start_timeout{enough}",
            details={**self._details(), "start_timeout": start_timeout},
        )

    def _details(self) -> dict[str, Any]:
        adapter = {} if self._adapter is None else {"adapter": self._adapter}
        return {"preload": self._preload, **adapter}

    def runs(self) -> bool:
        """Whether the process can answer: it is not stopped, and not held up in the kernel."""
        template = self._process
        # Gone, it says so at once when it is asked.
        return template is None or process_state(template.pid) in ("S", "R", "Z", "X", "")

    def is_traced(self) -> bool:
        """Whether a debugger has stopped the process."""
        template = self._process
        return template is not None and process_state(template.pid) == "t"

    def give_up_stalled(self) -> errors.PoolNotReadyError:
        """End a process that does not run; return the error that says so."""
        with self._lock:
            self._discard()
        return errors.PoolNotReadyError(
            f"the template process has not run for {ANSWER_PATIENCE:g} s; a new one is started"
        )

    @property
    def preloads(self) -> bool:
        """Whether it imports anything but what every worker needs."""
        return bool(self._preload)

    def doing(self) -> str:
        """Say what it does before it is ready."""
        names = ", ".join(self._preload)
        doing = [f"imported what is to be preloaded ({names})"] if names else []
        if self._adapter is not None:
            doing.append(f"ran the import or preload() of adapter {self._adapter}")
        return ", or ".join(doing) or "started"

    def spawn(self, fds: list[int], *, in_no_hurry: bool = False) -> tuple[int, int]:
        """Fork a worker that gets the descriptors `fds`; returns its pid and a pidfd.

        `in_no_hurry`: it starts in time that nobody else wants.
        """
        request = b"spare" if in_no_hurry else b"spawn"
        with self._lock:
            if not self._ready or self._socket is None:
                raise errors.PoolNotReadyError("the template process is not ready to fork workers")
            try:
                socket.send_fds(self._socket, [request], fds)
                answer, pidfds, _, _ = socket.recv_fds(self._socket, 256, 1)
                if not answer:
                    raise ConnectionResetError("it closed its socket")
            except OSError as error:
                self._discard()
                raise errors.PoolNotReadyError(
                    f"the template process is gone ({error}); a new one is started"
                ) from error
        if not pidfds:
            reason = answer.decode(errors="replace")
            raise errors.PoolNotReadyError(f"the template process cannot fork a worker: {reason}")
        return int(answer), pidfds[0]

    def reap(self, pid: int) -> tuple[int, int] | None:
        """Return the exit code of a dead worker (negative: its signal) and its peak memory.

        None if they are not known.
        """
        with self._lock:
            try:
                # One that is still importing has forked nobody, and its report is no answer.
                if self._socket is None or not self._ready:
                    return None
                self._socket.send(str(pid).encode())
                answer = self._socket.recv(64)
                if answer == b"unknown":
                    return None
                code, memory = answer.split()
                return int(code), int(memory)
            except (OSError, ValueError):
                self._discard()
                return None

    def abandon(self) -> None:
        """End a template that is still importing, from any thread: nobody waits for it longer."""
        template = self._process
        if template is not None and not self._ready:
            template.kill()

    def _discard(self) -> int | None:
        """End the process, if it runs; return its exit code (negative: its signal)."""
        code = None
        self._ready = False
        self._hang_up()
        if self._process is not None:
            code = _end(self._process, self._row)
            self._process = None
        return code

    def stop(self) -> None:
        """End the process and wait for it."""
        with self._lock:
            self._hang_up()
            if self._process is not None:
                if self._ready:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(1.0)
                _end(self._process, self._row)
                self._process = None

    def _hang_up(self) -> None:
        """Close the socket, by which the process learns that it is to end."""
        if self._socket is not None:
            # A child that was forked past Python, by C, has the socket too: closed here alone, it
            # would tell nothing.
            with contextlib.suppress(OSError):  # The process is gone.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def forget_in_child(self) -> None:
        """In a forked child: let go of the socket, whose end tells the process of its owner's."""
        # No lock: who held it is not here.
        for end in self._ends:
            end.close()


def _end(process: subprocess.Popen[bytes], row: int) -> int | None:
    """Kill a process, wait for it and strike out its `row`; return its exit code.

    None where it does not die yet: the kernel may hold it up, as may a debugger. A thread waits for
    it then, for who ends it has others to see to.
    """
    process.kill()
    try:
        code = process.wait(KILL_PATIENCE)
    except subprocess.TimeoutExpired:
        waiting = threading.Thread(
            target=_bury, args=(process, row), name="snakepit-template-reaper", daemon=True
        )
        # Without room for another thread, `subprocess` collects it when it starts the next process.
        with contextlib.suppress(RuntimeError):
            waiting.start()
        return None
    registry.release(row)
    return code


def _bury(process: subprocess.Popen[bytes], row: int) -> None:
    process.wait()
    registry.release(row)


@contextlib.contextmanager
def _passed(content: bytes) -> Iterator[int]:
    """Give a descriptor from which a child reads `content`, whenever it comes to that.

    Nobody has to write while it reads, as into a pipe, and it may be larger than a message.
    """
    fd = os.memfd_create("snakepit-passed")
    try:
        with open(fd, "wb", closefd=False) as stream:
            stream.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


class TemplatePopen(popen_fork.Popen):
    """What multiprocessing asks of a started process, for one forked from a template."""

    method = "template"
    status_unknown = False
    peak_memory: int | None = None  # bytes, once it is reaped
    DupFd = TemplateDup

    def __init__(self, process_obj: TemplateProcess) -> None:
        self._fds: list[int] = []
        self._template: Template = process_obj.template
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return len(self._fds) - 1

    def _launch(self, process_obj: Any) -> None:
        data = io.BytesIO()
        context.set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(process_obj, data)
        finally:
            context.set_spawning_popen(None)
        surroundings = os.getcwd(), sys.path, bytes(process.current_process().authkey)
        work = pickle.dumps((*surroundings, data.getvalue()))
        life_reader, life_writer = os.pipe()
        try:
            with _passed(work) as fd:
                self.pid, self.sentinel = self._template.spawn(
                    [fd, life_reader, *self._fds], in_no_hurry=process_obj.in_no_hurry
                )
        except BaseException:
            os.close(life_writer)
            raise
        finally:
            os.close(life_reader)
        close_fds = util.close_fds  # type: ignore[attr-defined]
        self.finalizer = util.Finalize(self, close_fds, (self.sentinel, life_writer))

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        # Only the supervisor has it reaped, who waits for it. Whoever else looks, as
        # multiprocessing does at each start of a process, might have to wait for the template.
        if self.returncode is None and flag != os.WNOHANG:
            poller = select.poll()
            poller.register(self.sentinel, select.POLLIN)
            poller.poll()
            known = self._template.reap(self.pid) or self._reap_adopted()
            self.status_unknown = known is None
            self.returncode, self.peak_memory = known or (255, None)
        return self.returncode

    def _reap_adopted(self) -> tuple[int, None] | None:
        """Collect a worker whose template is gone, if this process is who inherits orphans."""
        try:
            result = os.waitid(os.P_PIDFD, self.sentinel, os.WEXITED | os.WNOHANG)
        except OSError:
            return None
        if result is None:
            return None
        killed = result.si_code != os.CLD_EXITED
        return -result.si_status if killed else result.si_status, None

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            try:
                signal.pidfd_send_signal(self.sentinel, sig)
            except ProcessLookupError:
                pass


class TemplateContext(context.BaseContext):
    """A multiprocessing context whose `Process` objects are forked from one template."""

    _name = "template"

    def __init__(self, template: Template) -> None:
        self.template = template

    def Process(self, *args: Any, **kwargs: Any) -> TemplateProcess:
        return TemplateProcess(TemplatePopen, self.template, *args, **kwargs)

    def get_start_method(self, allow_none: bool = False) -> str:
        return self._name
