"""Making worker processes: what each is given, and what it must not inherit."""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import popen_fork, resource_tracker
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any

from snakepit.errors import EncodeError
from snakepit.lifecycle import run_id as run_ids
from snakepit.lifecycle.autopsy import Recording
from snakepit.lifecycle.blas import SHARE, blas_environment
from snakepit.lifecycle.environment import NameWithEnvironment
from snakepit.lifecycle.template import Template, TemplateContext
from snakepit.worker.process import PassedDescriptor, WorkerSpec, worker_main

if TYPE_CHECKING:
    from snakepit.lifecycle.worker import Worker
    from snakepit.pool.pool import PoolConfig, ProcessPool

ARENA_PATIENCE = 30.0  # seconds that a call without a deadline waits for arena memory


class Launcher:
    """Starts a pool's worker processes: from its template, or by a context of multiprocessing.

    It holds the lifeline: a pipe whose reading end each worker has, and whose writing end only this
    process has, so that workers learn of its death. Raises EncodeError for an initializer that
    cannot be pickled.
    """

    def __init__(self, pool: ProcessPool, config: PoolConfig) -> None:
        self._pool = pool
        self._config = config
        threads_share = config.blas_threads is None and config.threads
        self._env = {
            **blas_environment(
                SHARE if threads_share else config.blas_threads,
                config.size,
                {**os.environ, **config.env},
            ),
            **config.env,
        }
        self._initializer = _pickle_initializer(config)
        self.template: Template | None = None  # unless a context starts them
        self._context: BaseContext
        if config.context is None:
            # What only workers of several threads need is imported once for all of them, too.
            needs = ("snakepit.worker.threads",) if config.threads else ()
            self.template = Template(
                (*needs, *config.preload), self._env, config.template_hook, config.adapter
            )
            self._context = TemplateContext(self.template)
        else:
            self._context = config.context
        self.forks = self._context.get_start_method() == "fork"
        self.recordings: dict[int, Recording] = {}  # by lane, of workers that are about to start
        self._lifeline: tuple[int, int] | None = None
        self._newest: Any = None  # the process started last; the supervisor may not know it yet

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that workers make."""
        return self._config.adapter

    def steps(self) -> str:
        """Say what a worker runs of its adapter before it is ready, where it has one."""
        return "" if self.adapter is None else f" ({self._work()})"

    def lateness(self) -> str:
        """Say of a worker that it was not ready in time, and what to do about that."""
        return (
            f"was not ready within start_timeout={self._config.start_timeout:g} s and was ended "
            f"for it: {self._work()} takes longer, or hangs; raise start_timeout if it needs longer"
        )

    def _work(self) -> str:
        if self.adapter is None:
            return "its initializer, or what that imports,"
        first = "" if self.template is not None else "import, preload(), "
        return f"the {first}constructor or setup() of adapter {self.adapter}"

    def open(self) -> None:
        """Open the lifeline: an unused pool holds no descriptors."""
        self._lifeline = os.pipe()

    def close(self) -> None:
        """Let go of the lifeline: workers that are still there end."""
        if self._lifeline is not None:
            for fd in self._lifeline:
                os.close(fd)
            self._lifeline = None

    def start_template(self) -> None:
        """Start the template, if there is one and it does not run."""
        if self.template is not None:
            self.template.start()

    def stop_template(self) -> None:
        """Stop the template, if there is one."""
        if self.template is not None:
            self.template.stop()

    def start(self, lane: int, client: int, spare: bool = False) -> Any:
        """Start a worker process for a lane; a spare waits until another leaves."""
        assert self._lifeline is not None
        pool = self._pool
        link = pool.nested.open_link(lane, client)
        recording = self.recordings[lane] = Recording()
        passed = [
            pool.scheduler.control.fd, self._lifeline[0], link.theirs.fileno(), recording.fd
        ]  # fmt: skip
        # A plain fork inherits descriptors, and `forget_in_child` closes the pool's own in every
        # child.
        copies = [os.dup(fd) for fd in passed] if self.forks else []
        spec = self._spec(lane, client, copies or passed)
        for each in range(lane, lane + pool.threads):
            pool.roster.prepare(each, client)
        if spare:
            pool.roster.hold(lane)
        try:
            # With a hard limit of tasks, the place of a spare is about to be free.
            idly = spare and self._config.recycling.max_tasks is None
            return self._start(spec, in_no_hurry=idly)
        finally:
            link.close_theirs()
            for fd in copies:
                os.close(fd)

    def _spec(self, lane: int, client: int, descriptors: list[int]) -> WorkerSpec:
        control, lifeline, link, recording = descriptors
        pool, config = self._pool, self._config
        return WorkerSpec(
            pool=pool.name,
            lane=lane,
            client=client,
            control=PassedDescriptor(control),
            arena=PassedDescriptor(pool.scheduler.arena.fd),
            lifeline=PassedDescriptor(lifeline),
            link=PassedDescriptor(link),
            recording=PassedDescriptor(recording),
            threshold=config.inline_threshold,
            patience=ARENA_PATIENCE,
            initializer=self._initializer,
            env=self._env,
            max_tasks=config.recycling.max_tasks,
            worn_after=config.recycling.tasks_until_worn() or None,
            workers=pool.capacity,
            threads=config.threads,
            run_id=run_ids.current(),
        )

    def _start(self, spec: WorkerSpec, *, in_no_hurry: bool) -> Any:
        name = f"snakepit-{self._pool.name}-{spec.lane}"
        if self.template is None:
            name = NameWithEnvironment(name, self._env)
        process = self._context.Process(  # type: ignore[attr-defined]
            target=worker_main, args=(spec,), name=name
        )
        self._newest = process
        if self.template is not None:
            process.in_no_hurry = in_no_hurry
        try:
            with self._held_interrupt():
                process.start()
        except OSError as error:
            if self.forks:
                _close_pipes(error)
            raise
        return process

    @contextmanager
    def _held_interrupt(self) -> Iterator[None]:
        """Keep Ctrl-C from a new process until it ignores it; here another thread sees to it.

        The template's workers ignore it from the first, and the fork server is the program's.
        """
        method = self._context.get_start_method()
        if self.template is not None or method == "forkserver":
            yield
            return
        if method == "spawn":
            # Which lets SIGINT through when it starts: before, that is.
            resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def forget_in_child(self, workers: Iterable[Worker]) -> None:
        """In a forked child: let go of what would keep the owner's processes alive."""
        self.close()
        if self.template is not None:
            self.template.forget_in_child()
        # Else multiprocessing would try to join them when the child ends.
        children: set[Any] = multiprocessing.process._children  # type: ignore[attr-defined]
        children.difference_update([*(worker.process for worker in workers), self._newest])


def _close_pipes(error: OSError) -> None:
    """Close the pipes that multiprocessing has opened for a fork that was refused: it does not."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is popen_fork.Popen._launch.__code__:  # type: ignore[attr-defined]
            for name in ("parent_r", "child_w", "child_r", "parent_w"):
                if name in frame.f_locals:
                    os.close(frame.f_locals[name])


def _pickle_initializer(config: PoolConfig) -> bytes | None:
    if config.initializer is None:
        return None
    from snakepit.pickling import careful_dumps

    try:
        return careful_dumps((config.initializer, config.initargs))
    except Exception as error:
        raise EncodeError(
            f"cannot pickle the initializer {config.initializer!r} and its arguments: "
            f"{type(error).__name__}: {error}"
        ) from error
