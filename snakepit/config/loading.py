"""Loading a configuration: read every source, merge, check, and say all that is wrong at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from snakepit.config.checks import nearest
from snakepit.config.merging import Item, Layer, layer_of, merge
from snakepit.config.models import (
    DEFAULT_POOL,
    TIMEOUT_SETTINGS,
    PoolSettings,
    ProcessSettings,
)
from snakepit.config.sources import (
    FILE,
    PREFIX,
    PROJECT_FILE,
    find_file,
    from_arguments,
    from_environment,
    from_file,
    variable_part,
)
from snakepit.errors import ConfigError, PoolNotFoundError

__all__ = [
    "Config",
    "get_pool_config",
    "get_pool_configs",
    "load_config",
    "normalize_pool_config",
    "thread_profile",
    "validate_pool_config",
]

DEFAULT = "default"

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
            f"{nearest(name, names)}",
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
    `overrides`: settings that win over those of `source`. Variables SNAKEPIT_* win over both.

    Raises ConfigError with all problems, one a line; TypeError for another kind of source.
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
        layers.append(layer_of(from_arguments(overrides), problems))
    layers.append(layer_of(from_environment(_pool_parts(layers), problems), problems))
    return _checked(layers, file, problems)


def _pool_parts(layers: list[Layer]) -> dict[str, str]:
    """The names of the pools, by what stands for them in a variable."""
    names = [name for layer in layers for name in layer.pools] or [DEFAULT_POOL]
    return {variable_part(name): name for name in names}


def _checked(layers: list[Layer], file: Path | None, problems: list[str]) -> Config:
    merged = merge(layers)
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
        items = {"adapter": Item("missing:Adapter", "", ()), **items}
        pool = _validated(PoolSettings, items, name, problems)
        if pool is not None:
            pools.append(pool)
    if not merged.pools and merged.pooling and not problems:
        problems.append(_nothing(file))
    if problems or process is None:
        # What stands outside of the pools is checked with each of them.
        raise ConfigError.of(list(dict.fromkeys(problems)))
    provenance = {key: item.place for key, item in merged.process.items()}
    for name, items in merged.pools.items():
        provenance.update({f"pools.{name}.{key}": item.place for key, item in items.items()})
    if not merged.pooling:
        pools = []
    return Config(tuple(pools), process, file, MappingProxyType(provenance))


def _nothing(file: Path | None) -> str:
    where = f"{file}: " if file is not None else ""
    searched = "" if file is not None else f" ({FILE} and {PROJECT_FILE} were looked for)"
    return f"{where}no pool is configured{searched}; name at least an adapter"


def _validated(
    model: type[Model], items: Mapping[str, Item], pool: str, problems: list[str]
) -> Model | None:
    values = {key: item.value for key, item in items.items()}
    if pool:
        values["name"] = pool
    try:
        return model(**values)
    except ValidationError as error:
        for problem in error.errors():
            cause = problem.get("ctx", {}).get("error")
            message = str(cause) if cause is not None else problem["msg"]
            key = str(problem["loc"][0]) if problem["loc"] else message.partition(" ")[0]
            item = items.get(key)
            if item is None:
                problems.append(f"pool {pool!r}: {key}: {message}")
            else:
                problems.append(item.problem(message))
        return None


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
    problems: list[str] = []
    data = {"pools": [{"name": DEFAULT_POOL, **pool}]}
    layer = layer_of(from_arguments(data), problems)
    return _checked([layer], None, problems).pools[0]


def normalize_pool_config(pool: Mapping[str, Any] | PoolSettings) -> dict[str, Any]:
    """Return all settings of one pool by their present names, defaults filled in.

    Raises ConfigError.
    """
    settings = pool if isinstance(pool, PoolSettings) else validate_pool_config(pool)
    return settings.effective()


def thread_profile(pool: Mapping[str, Any] | PoolSettings) -> bool:
    """Whether a pool's workers are processes of several threads."""
    if isinstance(pool, PoolSettings):
        return pool.profile == "thread"
    return "thread" in (pool.get("profile"), pool.get("worker_profile"))
