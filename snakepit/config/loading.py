"""Loading a configuration: read every source, merge, check, and say all that is wrong at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from snakepit.config.checks import Problems
from snakepit.config.merging import Item, Layer, layer_of, merge, name_of_single
from snakepit.config.models import (
    DEFAULT_POOL,
    PROFILES,
    TIMEOUT_SETTINGS,
    Contradictions,
    PoolSettings,
    ProcessSettings,
    fits,
    misfit,
)
from snakepit.config.sources import (
    FILE,
    PROJECT_FILE,
    find_file,
    from_arguments,
    from_environment,
    from_file,
    in_order,
    variable_part,
)
from snakepit.environment import PREFIX
from snakepit.errors import ConfigError, PoolNotFoundError
from snakepit.options import did_you_mean, shortened

__all__ = [
    "Config",
    "get_pool_config",
    "get_pool_configs",
    "load_config",
    "look_at",
    "normalize_pool_config",
    "thread_profile",
    "validate_pool_config",
]

DEFAULT = "default"
MISSING_ADAPTER = "missing:Adapter"  # stands for one, so that the other settings can be checked

ConfigSource = str | os.PathLike[str] | Mapping[str, Any] | None
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Config:
    """A configuration that has been checked.

    `pools`: their settings, in the order of the sources. `process`: the settings of the process.
    `file`: the file that was read, None if none was. `provenance`: where each value that is not a
    default came from, such as "snakepit.toml:4" or "environment SNAKEPIT_POOL_SIZE", by path:
    "pools.NAME.SETTING", or the name of a setting of the process.
    """

    pools: tuple[PoolSettings, ...]
    process: ProcessSettings = field(default_factory=ProcessSettings)
    file: Path | None = None
    provenance: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def pool(self, name: str = DEFAULT_POOL) -> PoolSettings:
        """Return the settings of a pool. Raises PoolNotFoundError."""
        for pool in self.pools:
            if pool.name == name:
                return pool
        names = [pool.name for pool in self.pools]
        raise PoolNotFoundError(
            f"no pool named {name!r} is configured; there are: {', '.join(names) or 'none'}"
            f"{did_you_mean(name, names)}",
            details={"wanted": name, "pools": names},
        )

    def values(self) -> Iterator[tuple[str, str, Any, str]]:
        """Yield each pool's name, setting, value that is in force, and where that came from."""
        for pool in self.pools:
            for key, value in pool.effective().items():
                source = self.provenance.get(f"pools.{pool.name}.{key}", DEFAULT)
                if (
                    source == DEFAULT
                    and key in TIMEOUT_SETTINGS
                    and "timeout_profile" in pool.model_fields_set
                ):
                    source = f"timeout_profile {pool.timeout_profile}"
                yield pool.name, key, value, source

    def apply_process_settings(self) -> None:
        """Put the settings of the process into its environment, where its parts look for them.

        They are in force for what is made after this: call it before the first pool is.
        """
        for key, value in self.process:
            if value is not None:
                os.environ[PREFIX + key.upper()] = str(value)


def load_config(source: ConfigSource = None, **overrides: Any) -> Config:
    """Read, merge and check the configuration.

    `source`: a TOML file, a dict, or None: the nearest snakepit.toml or pyproject.toml with a table
    [tool.snakepit], from the current folder upward, or the file that SNAKEPIT_CONFIG names. None is
    looked for if `overrides` say themselves which pools there are (`pools`, `adapter`).
    `overrides`: settings that win over those of `source`, also over a pool's own. Variables
    SNAKEPIT_* win over both.

    Raises ConfigError with all problems, one a line; TypeError for another kind of source.
    """
    return _unless_wrong(*look_at(source, **overrides))


def look_at(source: ConfigSource = None, **overrides: Any) -> tuple[Config, list[str]]:
    """Return what could be read of a configuration, and all that is wrong with it, a line each.

    As `load_config`. Of a pool that is wrong what is right is there; MISSING_ADAPTER stands for an
    adapter that is not.
    """
    problems: list[str] = []
    layers: list[Layer] = []
    file: Path | None = None
    if isinstance(source, Mapping):
        layers.append(layer_of(from_arguments(source), problems))
    elif isinstance(source, str | os.PathLike):
        file = Path(source)
    elif source is not None:
        raise TypeError(f"a configuration is a file, a dict or None, not {source!r}")
    elif not overrides.keys() & {"pools", "adapter", "adapter_module"}:
        file = find_file()
    if file is not None:
        layers.append(layer_of(from_file(file), problems))
    if overrides:
        layers.append(replace(layer_of(from_arguments(overrides), problems), wins=True))
    single = name_of_single(layers, problems)
    names = [name for layer in layers for name in layer.pools] or [single]
    parts = {variable_part(name): name for name in names}
    layers.append(layer_of(from_environment(parts, problems), problems))
    return _checked(layers, single, file, problems, searched=source is None and file is None)


def _checked(
    layers: list[Layer],
    single: str,
    file: Path | None,
    problems: list[str],
    *,
    searched: bool = False,
) -> tuple[Config, list[str]]:
    merged = merge(layers, single)
    process = _validated(ProcessSettings, merged.process, "", problems)
    pools: list[PoolSettings] = []
    for name, items in merged.pools.items():
        if "adapter" not in items and merged.pooling:
            first = next(iter(items.values()), Item(None, str(file or "configuration"), ()))
            problems.append(
                f"{first.place}: pool {name!r} has no adapter; "
                'give it one: adapter = "package.module:Class"'
            )
        # Without one, the other settings are still checked.
        whole = {"adapter": Item(MISSING_ADAPTER, "", ()), **items}
        pool = _validated(PoolSettings, whole, name, problems)
        pools.append(_right_parts(items, name) if pool is None else pool)
    if not merged.pools and merged.pooling and not problems:
        problems.append(_nothing(file, searched))
    provenance = {key: item.place for key, item in merged.process.items()}
    for name, items in merged.pools.items():
        provenance.update({f"pools.{name}.{key}": item.place for key, item in items.items()})
    if not merged.pooling:
        pools = []
    config = Config(tuple(pools), process or ProcessSettings(), file, MappingProxyType(provenance))
    # What stands outside of the pools is checked with each of them.
    return config, in_order(dict.fromkeys(problems), file)


def _unless_wrong(config: Config, problems: list[str]) -> Config:
    if problems:
        raise ConfigError.of(problems)
    return config


def _nothing(file: Path | None, searched: bool) -> str:
    where = f"{file}: " if file is not None else ""
    looked = f" ({FILE} and {PROJECT_FILE} were looked for)" if searched else ""
    return f"{where}no pool is configured{looked}; name at least an adapter"


def _validated(
    model: type[Model], items: Mapping[str, Item], pool: str, problems: list[str]
) -> Model | None:
    values = {key: item.value for key, item in items.items()}
    if pool:
        values["name"] = pool
    try:
        return model(**values)
    except ValidationError as error:
        found = _problems_in(error)
        wrong = {str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}
    if wrong and model is PoolSettings:
        found += _contradictions(values, wrong)
    for key, message in found:
        item = items.get(key)
        line = f"pool {pool!r}: {key}: {message}" if item is None else item.problem(message)
        problems.append(line)
    return None


def _right_parts(items: Mapping[str, Item], name: str) -> PoolSettings:
    """Return a pool of those settings that are right, and go together."""
    pool = PoolSettings(name=name, adapter=MISSING_ADAPTER)
    right = {"adapter": Item(MISSING_ADAPTER, "", ())}
    # What the others mean depends on the first two.
    for key in dict.fromkeys(("adapter", "profile", *items)):
        if key in items:
            more = {**right, key: items[key]}
            made = _validated(PoolSettings, more, name, [])
            pool, right = (pool, right) if made is None else (made, more)
    return pool


def _problems_in(error: ValidationError) -> list[tuple[str, str]]:
    """Each setting that is wrong, and why."""
    found: list[tuple[str, str]] = []
    for problem in error.errors():
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, Contradictions):
            found += cause.problems
        elif isinstance(cause, Problems):
            found += [(str(problem["loc"][0]), message) for message in cause.messages]
        else:
            message = str(cause) if cause is not None else problem["msg"]
            found.append((str(problem["loc"][0]), message))
    return found


def _contradictions(values: Mapping[str, Any], wrong: set[str]) -> list[tuple[str, str]]:
    """Hold settings against each other although some, `wrong`, are not right by themselves.

    pydantic does so only where all are; thus once more without them.
    """
    rest = {key: value for key, value in values.items() if key not in wrong}
    rest["adapter"] = MISSING_ADAPTER
    if "profile" in wrong:
        # Nobody knows which settings mean something for the one that was meant.
        rest = {key: rest[key] for key in rest if all(fits(key, known) for known in PROFILES)}
        found = []
    else:
        profile = values.get("profile", "process")
        found = [(key, why) for key in values if key in wrong and (why := misfit(key, profile))]
    try:
        PoolSettings(**rest)
    except ValidationError as error:
        found += _problems_in(error)
    return found


def get_pool_configs(source: ConfigSource = None, **overrides: Any) -> tuple[PoolSettings, ...]:
    """Return the settings of all pools; see `load_config`. Raises ConfigError."""
    return load_config(source, **overrides).pools


def get_pool_config(
    name: str = DEFAULT_POOL, source: ConfigSource = None, **overrides: Any
) -> PoolSettings:
    """Return the settings of one pool; see `load_config`. Raises ConfigError, PoolNotFoundError."""
    return load_config(source, **overrides).pool(name)


def validate_pool_config(pool: Mapping[str, Any]) -> PoolSettings:
    """Check the settings of one pool, as they stand in `pools`. Raises ConfigError.

    Without a name it is `default`. The environment is left out.
    """
    _check_dict(pool)
    problems: list[str] = []
    data = {"pools": [{"name": DEFAULT_POOL, **pool}]}
    layer = layer_of(from_arguments(data), problems)
    return _unless_wrong(*_checked([layer], DEFAULT_POOL, None, problems)).pools[0]


def _check_dict(pool: object) -> None:
    if not isinstance(pool, Mapping):
        raise ConfigError.of(
            [
                "the settings of one pool are a dict, such as {'adapter': 'package.module:Class'}, "
                f"not {shortened(pool)}; load_config() takes the path of a file"
            ]
        )


def normalize_pool_config(pool: Mapping[str, Any] | PoolSettings) -> dict[str, Any]:
    """Return all settings of one pool by their present names, defaults filled in.

    Raises ConfigError.
    """
    settings = pool if isinstance(pool, PoolSettings) else validate_pool_config(pool)
    return settings.effective()


def thread_profile(pool: Mapping[str, Any] | PoolSettings) -> bool:
    """Whether a pool's workers are processes of several threads. Raises ConfigError."""
    if isinstance(pool, PoolSettings):
        return pool.profile == "thread"
    _check_dict(pool)
    return "thread" in (pool.get("profile"), pool.get("worker_profile"))
