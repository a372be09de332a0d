"""The pools that are compared, each behind the same methods, each used as its documentation says.

Imports of the peers are inside the methods: whoever runs one of them in a fresh process pays for
that one alone.
"""

import copy
import importlib
import importlib.metadata
import importlib.util
import multiprocessing as mp
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Protocol

from benches import work


class Handle(Protocol):
    """A call under way."""

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the call and return its value, or raise its exception."""


class AsyncHandle:
    """A call under way, for peers whose handles follow multiprocessing.Pool."""

    __slots__ = ("_result",)

    def __init__(self, result: Any) -> None:
        self._result = result

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the call and return its value, or raise its exception."""
        return self._result.get(timeout)


class Peer:
    """One pool of workers, started and closed once.

    `preload` are modules that every worker must have imported before its first call, by the
    quickest means that the peer offers.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    module: ClassVar[str] = "concurrent.futures.process"
    distribution: ClassVar[str | None] = None
    chunks: ClassVar[tuple[int, ...]] = (64, 256, 1024, 4096)
    slow: ClassVar[bool] = False  # more than a millisecond a call: asked for fewer calls
    most_workers: ClassVar[int] = 1000

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        """Make the pool. Workers may start later: whoever needs them ready runs a call on each."""
        raise NotImplementedError

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        """Begin a call."""
        raise NotImplementedError

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Begin a call and wait for its value: one round trip."""
        raise NotImplementedError

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        """Submit `count` equal calls, then collect their values."""
        raise NotImplementedError

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        """Begin a call without arguments; `done` is called with something when it has ended."""
        raise NotImplementedError

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        """Return `fn` over `items`, in order; a peer without chunks ignores `chunk`."""
        raise NotImplementedError

    def close(self) -> None:
        """End the pool and its workers, and wait until they have ended."""
        raise NotImplementedError


class ExecutorPeer(Peer):
    """A peer that is a concurrent.futures.Executor."""

    _executor: Any

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        future: Handle = self._executor.submit(fn, *args)
        return future

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._executor.submit(fn, *args).result()

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        submit = self._executor.submit
        return [future.result() for future in [submit(fn, *args) for _ in range(count)]]

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        self._executor.submit(fn).add_done_callback(done)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        values: Iterable[Any] = self._executor.map(fn, items, chunksize=chunk)
        return values

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class Snakepit(ExecutorPeer):
    """The pool that this suite is about."""

    key = "snakepit"
    label = "Snakepit"
    module = "snakepit"
    distribution = "snakepit-pool"
    chunks = (0,)

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        snakepit = importlib.import_module("snakepit")
        self._executor = snakepit.Executor(workers, preload=tuple(preload))

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        # No chunk size: to choose it is the pool's own business.
        values: Iterable[Any] = self._executor.map(fn, items)
        return values

    def view(self, **terms: Any) -> Any:
        """Return a view of the pool whose calls carry these terms."""
        return self._executor.options(**terms)

    @property
    def executor(self) -> Any:
        """The executor itself, for what no peer has."""
        return self._executor

    def shared_array(self, nbytes: int) -> Any:
        """Return an array of float64 ones that lies in the arena already."""
        array = importlib.import_module("snakepit").shared_array(
            (nbytes // 8,), "f8", writable=True
        )
        array[:] = 1
        return array


class SnakepitTools(Snakepit):
    """The same calls as tools of an adapter in a `snakepit.Pool`."""

    key = "snakepit-tools"
    label = "Snakepit, tools"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        snakepit = importlib.import_module("snakepit")
        self._pool = snakepit.Pool(
            "benches.tools:Workbench", pool_size=workers, preload=tuple(preload)
        )
        self._pool.await_ready(60)
        self._terms: dict[str, Any] = {}

    def view(self, **terms: Any) -> "SnakepitTools":
        """Return a view of the pool whose calls carry these terms."""
        view = copy.copy(self)
        view._terms = terms
        return view

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        future: Handle = self._pool.submit(
            fn.__name__, {"array": args[0]} if args else {}, **self._terms
        )
        return future

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._pool.execute(fn.__name__, {"array": args[0]} if args else {}, **self._terms)

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        return [future.result() for future in [self.submit(fn, *args) for _ in range(count)]]

    def close(self) -> None:
        self._pool.stop()


class SnakepitThreads(Snakepit):
    """The same with one worker of as many threads as the others have workers."""

    key = "snakepit-thread"
    label = "Snakepit, profile thread"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        snakepit = importlib.import_module("snakepit")
        self._executor = snakepit.Executor(
            1, profile="thread", threads_per_worker=workers, preload=tuple(preload)
        )


class SnakepitLocal(Snakepit):
    """The same with threads of the caller's own process."""

    key = "snakepit-local"
    label = "Snakepit, profile local"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        snakepit = importlib.import_module("snakepit")
        self._executor = snakepit.Executor(workers, profile="local")


class ForkserverPPE(ExecutorPeer):
    """ProcessPoolExecutor over forkserver: the peer that the bars are held against."""

    key = "ppe"
    label = "ProcessPoolExecutor"
    method = "forkserver"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        from concurrent.futures import ProcessPoolExecutor

        context, initializer = _context(self.method, preload)
        initargs: Any = (preload,)
        self._executor = ProcessPoolExecutor(workers, context, initializer, initargs)


class SpawnPPE(ForkserverPPE):
    """The same over spawn: every worker imports for itself."""

    key = "ppe-spawn"
    label = "ProcessPoolExecutor, spawn"
    method = "spawn"


class ForkPPE(ForkserverPPE):
    """The same over fork: the quickest to start, and unsafe as soon as the owner has threads."""

    key = "ppe-fork"
    label = "ProcessPoolExecutor, fork"
    method = "fork"


class Threads(ExecutorPeer):
    """ThreadPoolExecutor: no processes, no copies, and one GIL."""

    key = "threads"
    label = "ThreadPoolExecutor"
    module = "concurrent.futures.thread"
    chunks = (0,)

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        self._executor = ThreadPoolExecutor(workers)


class Loky(ExecutorPeer):
    """loky.ProcessPoolExecutor."""

    key = "loky"
    label = "loky"
    module = "loky"
    distribution = "loky"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        loky = importlib.import_module("loky")
        self._executor = loky.ProcessPoolExecutor(
            workers, initializer=work.import_modules if preload else None, initargs=(preload,)
        )


class Pebble(ExecutorPeer):
    """pebble.ProcessPool."""

    key = "pebble"
    label = "pebble"
    module = "pebble"
    distribution = "pebble"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        pebble = importlib.import_module("pebble")
        context, initializer = _context("forkserver", preload)
        self._executor = pebble.ProcessPool(
            workers, initializer=initializer, initargs=(preload,), context=context
        )

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        future: Handle = self._executor.schedule(fn, args)
        return future

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._executor.schedule(fn, args).result()

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        schedule = self._executor.schedule
        return [future.result() for future in [schedule(fn, args) for _ in range(count)]]

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        self._executor.schedule(fn).add_done_callback(done)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        values: Iterable[Any] = self._executor.map(fn, items, chunksize=chunk).result()
        return values

    def close(self) -> None:
        self._executor.close()
        self._executor.join()


class MpPool(Peer):
    """multiprocessing.Pool."""

    key = "pool"
    label = "multiprocessing.Pool"
    module = "multiprocessing.pool"
    _pool: Any

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        context, initializer = _context("forkserver", preload)
        self._pool = context.Pool(workers, initializer, (preload,))

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        return AsyncHandle(self._pool.apply_async(fn, args))

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply(fn, args)

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        submit = self._pool.apply_async
        return [handle.get() for handle in [submit(fn, args) for _ in range(count)]]

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        self._pool.apply_async(fn, callback=done)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        values: Iterable[Any] = self._pool.imap(fn, items, chunksize=chunk)
        return values

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Mpire(MpPool):
    """mpire.WorkerPool."""

    key = "mpire"
    label = "mpire"
    module = "mpire"
    distribution = "mpire"

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        mpire = importlib.import_module("mpire")
        # It takes no context, but the forkserver's preloading is a setting of the process, so it
        # holds here too.
        _context("forkserver", preload)
        self._pool = mpire.WorkerPool(workers, start_method="forkserver", keep_alive=True)

    def map(self, fn: Callable[[Any], Any], items: Sequence[Any], chunk: int) -> Iterable[Any]:
        values: Iterable[Any] = self._pool.imap(fn, items, chunk_size=chunk)
        return values

    def close(self) -> None:
        self._pool.stop_and_join()


class Ray(Peer):
    """Tasks of a local Ray."""

    key = "ray"
    label = "Ray tasks"
    module = "ray"
    distribution = "ray"
    chunks = ()
    slow = True
    most_workers = 16

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        self._ray = importlib.import_module("ray")
        self._ray.init(
            num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error"
        )
        self._remote: dict[Callable[..., Any], Any] = {}

    def _begin(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        remote = self._remote.get(fn)
        if remote is None:
            remote = self._remote[fn] = self._ray.remote(fn)
        return remote.remote(*args)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        future: Future[Any] = self._begin(fn, args).future()
        return future

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._ray.get(self._begin(fn, args))

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        values: list[Any] = self._ray.get([self._begin(fn, args) for _ in range(count)])
        return values

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        self._begin(fn, ()).future().add_done_callback(done)

    def put(self, value: Any) -> Any:
        """Put a value into the object store; the reference is passed to calls in its stead."""
        return self._ray.put(value)

    def close(self) -> None:
        self._ray.shutdown()


class Dask(ExecutorPeer):
    """A local cluster of Dask distributed."""

    key = "dask"
    label = "Dask distributed"
    module = "distributed"
    distribution = "distributed"
    chunks = ()
    slow = True
    most_workers = 16

    def start(self, workers: int, preload: Sequence[str] = ()) -> None:
        distributed = importlib.import_module("distributed")
        self._cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None
        )
        self._executor = distributed.Client(self._cluster)
        if preload:
            self._executor.run(work.import_modules, preload)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Handle:
        future: Handle = self._executor.submit(fn, *args, pure=False)
        return future

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self._executor.submit(fn, *args, pure=False).result()

    def gather(self, fn: Callable[..., Any], count: int, *args: Any) -> list[Any]:
        submit = self._executor.submit
        values: list[Any] = self._executor.gather(
            [submit(fn, *args, pure=False) for _ in range(count)]
        )
        return values

    def notify(self, fn: Callable[..., Any], done: Callable[[Any], Any]) -> None:
        self._executor.submit(fn, pure=False).add_done_callback(done)

    def close(self) -> None:
        self._executor.close()
        self._cluster.close()


PEERS: dict[str, type[Peer]] = {
    peer.key: peer
    for peer in (
        Snakepit,
        SnakepitTools,
        SnakepitThreads,
        SnakepitLocal,
        ForkserverPPE,
        SpawnPPE,
        ForkPPE,
        MpPool,
        Loky,
        Pebble,
        Mpire,
        Threads,
        Ray,
        Dask,
    )
}


def unavailable(key: str) -> str | None:
    """Return why a peer cannot be measured here, or None if it can."""
    if issubclass(PEERS[key], Snakepit):
        try:
            importlib.import_module("snakepit").Executor  # noqa: B018
        except Exception as error:  # a checkout that was not built fails in many ways
            return f"import snakepit: {type(error).__name__}: {error}"
        return None
    return None if importlib.util.find_spec(PEERS[key].module) else "not installed"


def version(key: str) -> str:
    """Return the version of a peer's distribution, or "standard library"."""
    distribution = PEERS[key].distribution
    if distribution is None:
        return "standard library"
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return str(importlib.import_module(PEERS[key].module).__version__)


def _context(method: str, preload: Sequence[str]) -> tuple[Any, Any]:
    """Return a start method's context, set up to preload, and an initializer if it cannot."""
    context = mp.get_context(method)
    if not preload:
        return context, None
    if method == "forkserver":
        context.set_forkserver_preload(list(preload))
        return context, None
    if method == "fork":
        work.import_modules(preload)
        return context, None
    return context, work.import_modules
