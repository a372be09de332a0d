"""The module-level API: named pools of one program, and calls of their tools.

    snakepit.start(adapter="app.models:Model", pool_size=4)
    snakepit.execute("predict", {"text": "…"})
    snakepit.stop()

Pools of any kinds run side by side under their names; `snakepit.Pool` is the same without names.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from snakepit.errors import PoolExistsError, PoolNotFoundError
from snakepit.options import did_you_mean
from snakepit.pool.terms import CallWays, StreamWays
from snakepit.pools import Pool

if TYPE_CHECKING:
    from snakepit.config import Config
    from snakepit.pool.streams import Stream

__all__ = [
    "await_ready",
    "execute",
    "execute_in_session",
    "execute_in_session_stream",
    "execute_stream",
    "get_pool",
    "get_stats",
    "list_workers",
    "recycle_worker",
    "run_as_script",
    "start",
    "stop",
    "stream",
]

T = TypeVar("T")


class CallInPool(CallWays, total=False):
    """What `execute` takes of a call in a session."""

    pool: str
    timeout: float | str | None


class StreamInPool(StreamWays, total=False):
    """What `stream` takes of a stream in a session."""

    pool: str
    timeout: float | str | None


# Of these options of `Pool` None is the default; in a configuration it would be no limit.
_NOT_SAID_BY_NONE = frozenset(
    {
        "adapter",
        "adapter_args",
        "adapter_env",
        "health_interval",
        "max_queue_size",
        "queue_timeout",
        "start_timeout",
        "stream_timeout",
        "threads_per_worker",
        "timeout",
        "timeout_profile",
    }
)

INTERRUPTED = 130  # as a shell reports a program that SIGINT ended

_pools: dict[str, Pool] = {}
# Re-entrant: a signal handler may stop the pools. Never held while a pool starts or ends.
_lock = threading.RLock()


def start(config: Any = None, **options: Any) -> dict[str, Pool]:
    """Start named pools and return them by name; the workers start in the background.

    `config`: a dict of the settings of one pool with its `adapter` (its name is "default" unless it
    says another), or {"pools": [such dicts]}; or a path of a TOML file, or a
    `snakepit.config.Config`. `options`: more of the same, which win, also over what a pool says
    itself. Without an adapter or pools in either, the nearest snakepit.toml or pyproject.toml is
    read. All are read by `snakepit.config.load_config`, and variables SNAKEPIT_* win over them; in
    a dict or in `options` there may also be objects, such as a class, a `RetryPolicy`, a
    `session_store` or an `mp_context`, and None means what it means to `Pool`. If one pool cannot
    start, none does.

    Without the extra `config` a dict and `options` are those of `Pool`, by its names alone; for a
    file, and where a variable SNAKEPIT_* sets an option, ModuleNotFoundError says what to install.

    Raises PoolExistsError for a name that is taken, ConfigError (a ValueError) with all that is
    wrong in the settings, and what `Pool` raises.
    """
    pools: list[Pool] = []
    try:
        for settings in _settings(config, options):
            pools.append(_new_pool(settings))  # noqa: PERF401 - those made so far are to be ended
        _register(pools)
    except BaseException:
        for pool in pools:
            pool.stop(cancel_calls=True)
        raise
    return {pool.name: pool for pool in pools}


def _settings(config: Any, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the adapter and the options of each pool."""
    if config is not None and not isinstance(config, Mapping | str | os.PathLike):
        from snakepit.config import Config

        if not isinstance(config, Config):
            raise TypeError(f"start() takes a dict, a path or a Config, not {config!r}")
        if options:
            raise TypeError(
                f"a Config is complete, and start() takes no {next(iter(options))!r} beside it: "
                "give that to load_config()"
            )
        return _of_config(config)
    if isinstance(config, Mapping):
        config = _said(config)
    options = _said(options)
    try:
        # Lazily: what checks configurations is heavy, and an extra.
        from snakepit.config import load_config
    except ModuleNotFoundError:
        if isinstance(config, str | os.PathLike) or not (config or options):
            raise
        return _options_of_pools(config or {}, options)
    return _of_config(load_config(config, **options))


def _of_config(config: Config) -> list[dict[str, Any]]:
    config.apply_process_settings()
    return [{"adapter": pool.adapter, **pool.to_options()} for pool in config.pools]


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what None says nothing of, also in pools."""
    said = {k: v for k, v in settings.items() if v is not None or k not in _NOT_SAID_BY_NONE}
    pools = said.get("pools")
    if isinstance(pools, list | tuple):
        said["pools"] = [_said(pool) if isinstance(pool, Mapping) else pool for pool in pools]
    return said


def _options_of_pools(
    config: Mapping[str, Any], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Take a dict and keywords for options of `Pool`, where nothing can read a configuration."""
    from snakepit.environment import PREFIX, PROCESS_SETTINGS, setting_variables

    for variable in setting_variables():
        if variable.removeprefix(PREFIX).lower() not in PROCESS_SETTINGS:
            raise ModuleNotFoundError(
                f"{variable} is set, and what reads it needs pydantic: "
                "pip install 'snakepit-pool[config]', or unset it",
                name="pydantic",
            )
    own = {**config, **options}.get("pools", [{}])
    if not isinstance(own, list | tuple) or not all(isinstance(pool, Mapping) for pool in own):
        raise TypeError(f"pools is a list of dicts, one for each pool, not {own!r}")
    if not own:
        raise ValueError("pools is empty: name at least one pool, with its adapter")
    if "pools" in options:
        found = [{**config, **options, **pool} for pool in own]
    else:
        found = [{**config, **pool, **options} for pool in own]
    return [{name: pool[name] for name in pool if name != "pools"} for pool in found]


def _new_pool(settings: dict[str, Any]) -> Pool:
    adapter = settings.pop("adapter", None)
    if adapter is None:
        raise ValueError(
            f"pool {settings.get('name', 'default')!r} has no adapter: give a subclass of "
            "snakepit.Adapter, or its name as 'package.module:Class'"
        )
    return Pool(adapter, **settings)


def _register(pools: list[Pool]) -> None:
    with _lock:
        names = set(_pools)
        for pool in pools:
            if pool.name in names:
                raise PoolExistsError.of(pool.name)
            names.add(pool.name)
        _pools.update((pool.name, pool) for pool in pools)
    try:
        for pool in pools:
            pool.start()
    except BaseException:
        _strike_off(pools)
        raise


def _strike_off(pools: list[Pool]) -> None:
    """Take pools off the list of those that run, whose names may be others' by now."""
    with _lock:
        for pool in pools:
            if _pools.get(pool.name) is pool:
                del _pools[pool.name]


def _running() -> list[Pool]:
    """Return the pools that run, by name."""
    with _lock:
        return [pool for _, pool in sorted(_pools.items())]


def stop(name: str | None = None, *, cancel_calls: bool = False) -> None:
    """Stop a pool, or all; calls that were taken are finished first, unless `cancel_calls`.

    Raises PoolNotFoundError for a name that no pool has.
    """
    with _lock:
        pools = _running() if name is None else [get_pool(name)]
        _strike_off(pools)
    _end(pools, cancel_calls)


def _end(pools: list[Pool], cancel_calls: bool) -> None:
    # All are closed before any is waited for.
    for wait in (False, True):
        for pool in pools:
            pool.stop(wait, cancel_calls=cancel_calls)


def get_pool(name: str = "default") -> Pool:
    """Return a running pool. Raises PoolNotFoundError, which names the nearest."""
    pool = _pools.get(name)
    if pool is None:
        running = [each.name for each in _running()]
        hint = did_you_mean(name, running) or (
            f"; those that run are {', '.join(running)}"
            if running
            else "; none runs: call snakepit.start() first"
        )
        raise PoolNotFoundError(
            f"no pool is named {name!r}{hint}", details={"wanted": name, "pools": running}
        )
    return pool


def await_ready(name: str | None = None, timeout: float | str | None = 15.0) -> None:
    """Wait until a pool's workers, or those of all pools, can take calls.

    `timeout`: seconds for each pool, or text such as "30s"; None: any time. Raises TimeoutError,
    PoolNotReadyError, PoolNotFoundError.
    """
    for pool in _running() if name is None else [get_pool(name)]:
        pool.await_ready(timeout)


def execute(
    command: str,
    args: Mapping[str, Any] | None = None,
    *,
    pool: str = "default",
    timeout: float | str | None = None,
    session_id: str | None = None,
    **ways: Unpack[CallWays],
) -> Any:
    """Run a tool of a named pool and return its value (see `Pool.execute`, also for `ways`)."""
    args = {} if args is None else args
    return get_pool(pool).execute(command, args, timeout=timeout, session=session_id, **ways)


def stream(
    command: str,
    args: Mapping[str, Any] | None = None,
    *,
    pool: str = "default",
    timeout: float | str | None = None,
    session_id: str | None = None,
    **ways: Unpack[StreamWays],
) -> Stream[Any]:
    """Run a streaming tool of a named pool; return an iterator of its chunks (`Pool.stream`)."""
    args = {} if args is None else args
    return get_pool(pool).stream(command, args, timeout=timeout, session=session_id, **ways)


def execute_stream(
    command: str,
    args: Mapping[str, Any] | None,
    callback: Callable[[Any], Any],
    *,
    session_id: str | None = None,
    **options: Unpack[StreamInPool],
) -> None:
    """Run a streaming tool and call `callback` with each chunk, in this thread, until the end.

    A callback that returns `snakepit.HALT` ends the stream. `options`: those of `stream`.
    """
    stream(command, args, session_id=session_id, **options).for_each(callback)


def execute_in_session(
    session_id: str,
    command: str,
    args: Mapping[str, Any] | None = None,
    **options: Unpack[CallInPool],
) -> Any:
    """Run a tool in a session (see `execute`)."""
    return execute(command, args, session_id=session_id, **options)


def execute_in_session_stream(
    session_id: str,
    command: str,
    args: Mapping[str, Any] | None,
    callback: Callable[[Any], Any],
    **options: Unpack[StreamInPool],
) -> None:
    """Run a streaming tool in a session (see `execute_stream`)."""
    execute_stream(command, args, callback, session_id=session_id, **options)


def get_stats(pool: str | None = None) -> dict[str, Any]:
    """Return what a pool saw, or {name: that} of all (see `Pool.get_stats`)."""
    if pool is not None:
        return get_pool(pool).get_stats()
    return {each.name: each.get_stats() for each in _running()}


def list_workers(pool: str | None = None) -> list[dict[str, Any]]:
    """Return the workers of a pool, or of all; each says its `pool` (see `Pool.list_workers`)."""
    pools = _running() if pool is None else [get_pool(pool)]
    return [{"pool": one.name, **worker} for one in pools for worker in one.list_workers()]


def recycle_worker(
    pool: str = "default",
    worker_id: int | None = None,
    *,
    wait: bool = True,
    timeout: float | str | None = None,
) -> None:
    """Replace a worker of a named pool (`id` in `list_workers`), or all (`Pool.recycle_worker`)."""
    get_pool(pool).recycle_worker(worker_id, wait=wait, timeout=timeout)


def run_as_script(
    function: Callable[[], T],
    *,
    timeout: float | None = 15.0,
    exit_mode: Literal["none", "exit"] = "none",
    stop_mode: Literal["if_started", "always", "never"] = "if_started",
    config: Any = None,
    **options: Any,
) -> T:
    """Start pools, wait until they are ready, run `function`, stop them; return what it returned.

    Nothing is left behind, also when `function` raises or Ctrl-C comes: then calls under way are
    given up. `config` and `options`: as for `start`; without any, the pools that run are taken, or
    those that `function` starts. `timeout`: seconds to wait for readiness. `stop_mode`: stop what
    was started since ("if_started"), "always" everything, or "never". `exit_mode`: "exit" ends the
    program by sys.exit: with 0; with 1 after printing what `function` raised; after Ctrl-C with 130
    and one line. Without it, KeyboardInterrupt goes on to the caller like all that is raised. At a
    second Ctrl-C the workers are killed.
    """
    _check_mode("exit_mode", exit_mode, ("none", "exit"))
    _check_mode("stop_mode", stop_mode, ("if_started", "always", "never"))
    before = _running()
    code = 1
    try:
        try:
            if config is not None or options:
                start(config, **options)
            await_ready(None, timeout)
            value = function()
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
            raise
        except Exception:
            if exit_mode == "none":
                raise
            sys.excepthook(*sys.exc_info())
        finally:
            if stop_mode != "never":
                always = stop_mode == "always"
                _stop_script([p for p in _running() if always or p not in before], code)
    except KeyboardInterrupt:
        if exit_mode == "none":
            raise
        print("snakepit: interrupted", file=sys.stderr)
        code = INTERRUPTED
    if exit_mode == "exit":
        sys.exit(code)
    return value


def _stop_script(pools: list[Pool], code: int) -> None:
    """Stop the pools of a script that ends so; at Ctrl-C give up what runs, at a second kill."""
    _strike_off(pools)
    try:
        _end(pools, cancel_calls=code != 0)
    except KeyboardInterrupt:
        from snakepit.pool.endings import end_interrupted

        end_interrupted([pool._engine for pool in pools], again=code == INTERRUPTED)
        for pool in pools:
            pool.stop()
        # Of two, the first goes on.
        if code != INTERRUPTED:
            raise


def _check_mode(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
