"""What can be configured: the settings of a pool, and those of the whole process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator

from snakepit.config import checks
from snakepit.config.checks import Check, choice, count, count_up_to, optional, seconds, table_for
from snakepit.config.exceptions import with_classes
from snakepit.errors import ConfigError
from snakepit.pool.limits import PROFILES as TIMEOUT_PROFILES
from snakepit.pool.limits import check_together, heartbeat_problems, recycling_problems
from snakepit.resources import usable_cpus

__all__ = ["DEFAULT_POOL", "PROFILES", "PoolSettings", "ProcessSettings"]

DEFAULT_POOL = "default"
PROFILES = ("process", "thread", "local")
MOST_WORKERS = 1000
MOST_THREADS = 1000

TIMEOUT_SETTINGS = ("timeout", "stream_timeout", "queue_timeout")

# What only makes sense for workers that can be counted, replaced and given an environment.
FOR_PROCESSES = (
    "adapter_env",
    "blas_threads",
    "capacity_strategy",
    "health_interval",
    "heartbeat_interval",
    "heartbeat_timeout",
    "inline_threshold",
    "max_missed",
    "memory_threshold_mb",
    "mp_context",
    "pool_size",
    "preload",
    "snapshot_every",
    "snapshot_memory_mb",
    "start_method",
    "start_timeout",
    "startup_batch_delay_ms",
    "startup_batch_size",
    "worker_max_requests",
    "worker_ttl",
)
FOR_THREADS = ("threads_per_worker",)

# Objects of a program, which no text can name.
OBJECTS = ("mp_context", "session_store")


def fits(key: str, profile: object) -> bool:
    """Whether a setting means something for pools of this profile."""
    if profile == "local":
        return key not in FOR_PROCESSES
    return profile == "thread" or key not in FOR_THREADS


def misfit(key: str, profile: object) -> str | None:
    """Say why a setting means nothing for pools of this profile; None if it means something."""
    if fits(key, profile):
        return None
    if key in FOR_THREADS:
        return f"{key} is for the profiles 'thread' and 'local'"
    return f"{key} is for workers that are processes; profile 'local' has none"


class Contradictions(ValueError):
    """Settings that do not go together: `problems` has, for each, its name and a sentence."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = problems


def _by(check: Check) -> BeforeValidator:
    def validate(value: Any, info: ValidationInfo) -> Any:
        try:
            return check(info.field_name or "", value)
        except TypeError as error:
            # pydantic takes only a ValueError for the user's mistake.
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


Count: TypeAlias = Annotated[int, _by(count)]
Limit: TypeAlias = Annotated[int | None, _by(optional(count))]
Seconds: TypeAlias = Annotated[float, _by(seconds)]
TimeLimit: TypeAlias = Annotated[float | None, _by(optional(seconds))]


class PoolSettings(BaseModel):
    """The settings of one pool. Times are in seconds unless the name says otherwise.

    A time may be given as a number or as text with a unit ("30m"), a limit as "none" where there
    should be none. `model_fields_set` holds the names of what was set; the rest are defaults, which
    the pool itself decides. Raises pydantic's ValidationError, a ValueError; `load_config` and
    `validate_pool_config` raise ConfigError instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: Annotated[str, _by(checks.text)] = DEFAULT_POOL
    adapter: Annotated[Any, _by(checks.adapter)]
    profile: Annotated[str, _by(choice(*PROFILES))] = "process"
    pool_size: Limit = None
    threads_per_worker: Annotated[int, _by(count_up_to(MOST_THREADS))] = 10
    max_workers: Annotated[int, _by(count_up_to(MOST_WORKERS))] = MOST_WORKERS
    capacity_strategy: Annotated[str, _by(choice("pool", "profile", "hybrid"))] = "pool"
    adapter_args: Annotated[dict[str, Any], _by(checks.adapter_args)] = {}
    adapter_env: Annotated[dict[str, str], _by(checks.environment)] = {}
    affinity: Annotated[str, _by(choice("hint", "strict_queue", "strict_fail_fast"))] = "hint"
    timeout_profile: Annotated[str, _by(choice(*TIMEOUT_PROFILES))] = "balanced"
    timeout: TimeLimit = None
    stream_timeout: TimeLimit = None
    queue_timeout: TimeLimit = None
    max_queue_size: Limit = 1000
    worker_ttl: TimeLimit = None
    worker_max_requests: Limit = None
    memory_threshold_mb: Annotated[float | None, _by(optional(checks.megabytes))] = None
    thread_safety_checks: Annotated[str | None, _by(checks.thread_safety)] = "warn"
    heartbeat_interval: TimeLimit = 1.0
    heartbeat_timeout: Seconds = 10.0
    max_missed: Count = 3
    startup_batch_size: Limit = None
    startup_batch_delay_ms: Annotated[float, _by(checks.milliseconds)] = 0.0
    start_method: Annotated[
        str | None, _by(optional(choice("template", "forkserver", "spawn", "fork")))
    ] = None
    start_timeout: Seconds = 60.0
    preload: Annotated[tuple[str, ...], _by(checks.module_names)] = ()
    blas_threads: Annotated[int | str | None, _by(optional(checks.blas_threads))] = None
    stop_grace: Annotated[Any, _by(optional(checks.graces))] = None
    snapshot_every: Annotated[int | str | None, _by(optional(checks.snapshot_every))] = 1
    snapshot_memory_mb: Annotated[float, _by(checks.megabytes)] = 1024.0
    health_interval: TimeLimit = None
    inline_threshold: Annotated[int, _by(checks.inline_threshold)] = 10_240
    mp_context: Annotated[Any, _by(optional(checks.context))] = None
    session_store: Annotated[Any, _by(optional(checks.session_store))] = None
    retry: Annotated[Any, _by(optional(table_for("RetryPolicy")))] = None
    breaker: Annotated[Any, _by(optional(table_for("CircuitBreaker")))] = None

    @model_validator(mode="after")
    def _together(self) -> PoolSettings:
        problems: list[tuple[str, str]] = []
        if self.pool_size is not None and self.pool_size > self.max_workers:
            message = f"must be at most max_workers ({self.max_workers}), not {self.pool_size}"
            problems.append(("pool_size", f"pool_size {message}"))
        given = (
            getattr(self, key) if key in self.model_fields_set else None for key in TIMEOUT_SETTINGS
        )
        try:
            check_together(*given)
        except ValueError as error:
            problems.append(("queue_timeout", str(error)))
        if self.profile != "local":
            problems += heartbeat_problems(
                self.heartbeat_interval, self.heartbeat_timeout, self.max_missed
            )
            problems += recycling_problems(self.worker_ttl, self.worker_max_requests)
        if self.preload and (self.mp_context or self.start_method not in (None, "template")):
            problems.append(("preload", "preload needs start_method='template'"))
        if self.mp_context and self.start_method is not None:
            problems.append(("mp_context", "give mp_context or start_method, not both"))
        for key in (*FOR_PROCESSES, *FOR_THREADS):
            why = misfit(key, self.profile) if key in self.model_fields_set else None
            # What is off or empty asks for nothing.
            if why is not None and (getattr(self, key) or key in FOR_THREADS):
                problems.append((key, why))
        if problems:
            raise Contradictions(problems)
        return self

    def to_options(self) -> dict[str, Any]:
        """Return the keyword arguments for `Pool(adapter, **options)`: `name`, and what was set.

        The adapter is not among them. Retry policies and circuit breakers are made here, so that
        each pool has a breaker of its own. Raises ConfigError if an exception class that they name
        by its module is not there, or is none that they take.
        """
        options: dict[str, Any] = {"name": self.name}
        for key in PoolSettings.model_fields:
            if key in self.model_fields_set and key not in _NOT_OPTIONS:
                value = getattr(self, key)
                # To a pool None means its default.
                options[key] = math.inf if value is None and key in _UNLIMITED else value
        if "thread_safety_checks" in self.model_fields_set:
            options["thread_safety"] = self.thread_safety_checks
        for key, maker in (("retry", "RetryPolicy"), ("breaker", "CircuitBreaker")):
            if isinstance(options.get(key), Mapping):
                options[key] = _made(key, maker, self.name, options[key])
        return options

    def effective(self) -> dict[str, Any]:
        """Return every setting with the value that is in force, the defaults filled in.

        The objects that only a program can give are left out where there are none.
        """
        values = {key: getattr(self, key) for key in PoolSettings.model_fields}
        values = {key: value for key, value in values.items() if value or key not in OBJECTS}
        if self.pool_size is None and self.profile != "local":
            values["pool_size"] = default_pool_size(self.max_workers)
        if self.profile == "process":
            values["threads_per_worker"] = 1
        limits = TIMEOUT_PROFILES[self.timeout_profile]
        unset = set(TIMEOUT_SETTINGS) - self.model_fields_set
        return values | {key: getattr(limits, key) for key in unset}


# `name` is there already, and the others mean something to the configuration alone.
_NOT_OPTIONS = {"name", "adapter", "max_workers", "thread_safety_checks"}
_UNLIMITED = {*TIMEOUT_SETTINGS, "health_interval", "max_queue_size"}


def _made(key: str, maker: str, pool: str, arguments: Mapping[str, Any]) -> Any:
    import snakepit

    if maker == "CircuitBreaker":
        arguments = {"name": pool, **arguments}
    try:
        return getattr(snakepit, maker)(**with_classes(arguments, imported=True))
    except (TypeError, ValueError) as error:
        raise ConfigError.of([f"pool {pool!r}: {key}: {error}"]) from error


def default_pool_size(most: int = MOST_WORKERS) -> int:
    """Return how many workers a pool has that names no number: two for each usable CPU."""
    return min(2 * usable_cpus(), most)


class ProcessSettings(BaseModel):
    """Settings of the whole process; each is also an environment variable, SNAKEPIT_ and its name.

    `data_dir`, `instance_name`, `instance_token`: where the process registry is, and what keeps
    programs on one host apart. `arena_bytes`: the most shared memory that the process takes, bytes
    or text such as "2GiB". `shared_memory`: "memfd" or "file". None: as the parts that read the
    variables decide.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Annotated[str | None, _by(checks.path)] = None
    instance_name: Annotated[str | None, _by(checks.text)] = None
    instance_token: Annotated[str | None, _by(checks.text)] = None
    arena_bytes: Annotated[int | None, _by(checks.size_in_bytes)] = None
    shared_memory: Annotated[str | None, _by(choice("memfd", "file"))] = None
