"""From what several sources say, in whatever spelling, to the settings of each pool.

Each source is first brought to one form (`Layer`): settings of the process, settings that stand
outside of any pool, and those of each pool, all by their present names. Then the layers are laid
over each other, and each value keeps the place that it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from snakepit.config.checks import is_never
from snakepit.config.models import DEFAULT_POOL, PoolSettings, ProcessSettings, fits
from snakepit.config.positions import KeyPath
from snakepit.config.sources import Source, shown
from snakepit.options import option_hint

__all__ = ["Item", "Layer", "Merged", "layer_of", "merge", "name_of_single"]

POOL_KEYS = frozenset(PoolSettings.model_fields)
PROCESS_KEYS = frozenset(ProcessSettings.model_fields)

# Other spellings of a setting, and what a number of theirs is multiplied with.
ALIASES: dict[str, tuple[str, float]] = {
    "adapter_module": ("adapter", 1),
    "worker_profile": ("profile", 1),
    "thread_safety": ("thread_safety_checks", 1),
    "pool_max_queue_size": ("max_queue_size", 1),
    "pool_queue_timeout": ("queue_timeout", 0.001),
    "pool_startup_timeout": ("start_timeout", 0.001),
}
HEARTBEAT: dict[str, tuple[str, float]] = {
    "interval": ("heartbeat_interval", 1),
    "timeout": ("heartbeat_timeout", 1),
    "max_missed": ("max_missed", 1),
    "ping_interval_ms": ("heartbeat_interval", 0.001),
    "timeout_ms": ("heartbeat_timeout", 0.001),
    "max_missed_heartbeats": ("max_missed", 1),
}
OF_HEARTBEAT = ("heartbeat_timeout", "max_missed")  # what means nothing where there is none

# What the flat form once held and pools have no use for, and what to do about it.
GONE = {
    "grpc_config": "workers need no ports; remove it",
    "grpc_host": "workers need no ports; remove it",
    "grpc_listener": "workers need no ports; remove it",
    "grpc_port": "workers need no ports; remove it",
    "log_level": "set the level of the logger 'snakepit' of the logging module",
    "python_executable": "workers run the interpreter of the program that starts them; remove it",
    "wire_protocol": "there is one encoding; remove it",
    "worker_init_timeout": "is now start_timeout, in seconds",
    "worker_health_check_interval": "is now heartbeat_interval, in seconds",
    "worker_shutdown_grace_period": "is now stop_grace.terminate, in seconds",
}


@dataclass(frozen=True)
class Item:
    """A value, and where it stands: the place, and the path there."""

    value: Any
    place: str
    path: KeyPath

    def problem(self, message: str) -> str:
        """A line about this value."""
        return f"{self.place}: {shown(self.path)}: {message}"


@dataclass
class Layer:
    """One source in the present form.

    `name`: that of the one pool that what stands outside of any describes. `wins`: that has the
    last word over what earlier layers say in a pool, too.
    """

    wins: bool = False
    name: Item | None = None
    pooling: Item | None = None
    process: dict[str, Item] = field(default_factory=dict)
    shared: dict[str, Item] = field(default_factory=dict)
    pools: dict[str, dict[str, Item]] = field(default_factory=dict)
    starts: dict[str, Item] = field(default_factory=dict)  # where each pool begins


def layer_of(source: Source, problems: list[str]) -> Layer:
    """Bring a source to the present form; what it says wrongly is added to `problems`."""
    return _LayerReader(source, problems).read()


class _LayerReader:
    def __init__(self, source: Source, problems: list[str]) -> None:
        self._source = source
        self._problems = problems
        self._layer = Layer()

    def read(self) -> Layer:
        layer = self._layer
        flat: dict[str, Item] = {}
        for key, value in self._source.data.items():
            item = self._item(value, (key,))
            if key == "pooling_enabled":
                if isinstance(value, bool):
                    layer.pooling = item
                else:
                    self._problems.append(item.problem(f"must be true or false, not {value!r}"))
            elif key == "pools":
                self._pools(item)
            elif key in PROCESS_KEYS:
                layer.process[key] = item
            elif key == "name":
                self._name(item)
            else:
                flat[key] = item
        layer.shared = self._settings(flat, {*PROCESS_KEYS, "pools", "pooling_enabled"})
        return layer

    def _name(self, item: Item) -> None:
        if self._source.is_environment:
            self._problems.append(item.problem("a variable names no pool; remove it"))
        elif not isinstance(item.value, str) or not item.value.strip():
            self._problems.append(
                item.problem(f"must be text that is not empty, not {item.value!r}")
            )
        else:
            self._layer.name = item

    def _item(self, value: Any, path: KeyPath) -> Item:
        return Item(value, self._source.where(path), path)

    def _pools(self, item: Item) -> None:
        """Take the pools, as a list of tables, or as tables by name."""
        entries: Iterable[tuple[KeyPath, Any]]
        if isinstance(item.value, Mapping):
            entries = [(("pools", name), value) for name, value in item.value.items()]
        elif isinstance(item.value, list | tuple):
            entries = [(("pools", place), value) for place, value in enumerate(item.value)]
            if not entries:
                self._problems.append(
                    item.problem("is empty: name at least one pool, with its adapter")
                )
        else:
            self._problems.append(item.problem(f"must be a list of tables, not {item.value!r}"))
            return
        for path, value in entries:
            self._pool(self._item(value, path), alone=len(item.value) == 1)

    def _pool(self, entry: Item, *, alone: bool) -> None:
        if not isinstance(entry.value, Mapping):
            self._problems.append(entry.problem(f"must be a table, not {entry.value!r}"))
            return
        raw = {key: self._item(value, (*entry.path, key)) for key, value in entry.value.items()}
        settings = self._settings(raw, set())
        named = entry.path[-1]
        if isinstance(named, str):
            name: Any = named
            if "name" in settings and settings["name"].value != named:
                self._problems.append(
                    settings["name"].problem(f"the table is named {named!r} already; remove it")
                )
        elif "name" in settings:
            name = settings["name"].value
        elif alone:
            name = DEFAULT_POOL
        else:
            self._problems.append(entry.problem("has no name; give it one"))
            name = None
        if name is not None and (not isinstance(name, str) or not name.strip()):
            problem = f"must be text that is not empty, not {name!r}"
            self._problems.append(settings.get("name", entry).problem(problem))
            name = None
        if name in self._layer.pools:
            first = self._layer.starts[name]
            self._problems.append(
                entry.problem(
                    f"there is a pool named {name!r} already, {shown(first.path)} ({first.place}); "
                    "rename one"
                )
            )
            name = None
        if name is None:
            # Its other settings are checked none the less.
            name = shown(entry.path)
        if not self._source.is_environment:
            # A variable can set a value of a pool, but never makes one.
            settings["name"] = settings.get("name", Item(name, entry.place, entry.path))
        self._layer.pools[name] = settings
        self._layer.starts[name] = entry

    def _settings(self, raw: Mapping[str, Item], beside: set[str]) -> dict[str, Item]:
        """Bring a pool's settings to their present names; `beside`: other names that are known."""
        found: dict[str, Item] = {}
        inner: dict[str, Item] = {}
        for key, item in raw.items():
            if key == "heartbeat":
                self._heartbeat(item, found)
            elif key == "pool_config":
                inner = self._inner(item)
            else:
                self._setting(key, item, found, ALIASES, POOL_KEYS, beside)
        # What stands outside of pool_config wins over what stands in it.
        return {**self._settings(inner, set()), **found} if inner else found

    def _inner(self, item: Item) -> dict[str, Item]:
        if not isinstance(item.value, Mapping):
            self._problems.append(item.problem(f"must be a table, not {item.value!r}"))
            return {}
        return {key: self._item(value, (*item.path, key)) for key, value in item.value.items()}

    def _setting(
        self,
        key: Any,
        item: Item,
        found: dict[str, Item],
        aliases: Mapping[str, tuple[str, float]],
        known: Iterable[str],
        beside: Iterable[str],
    ) -> None:
        name, factor = aliases.get(key, (key, 1))
        if name not in POOL_KEYS or (aliases is HEARTBEAT and key not in aliases):
            if key in GONE and aliases is not HEARTBEAT:
                self._problems.append(item.problem(GONE[key]))
            else:
                names = {*known, *aliases, *beside, "heartbeat"}
                self._problems.append(
                    item.problem(f"unknown setting{option_hint(str(key), names)}")
                )
            return
        if name in found:
            other = shown(found[name].path)
            self._problems.append(item.problem(f"means the same as {other}; keep one of them"))
            return
        value = item.value
        if factor != 1 and isinstance(value, int | float) and not isinstance(value, bool):
            value = value * factor
        found[name] = Item(value, item.place, item.path)

    def _heartbeat(self, item: Item, found: dict[str, Item]) -> None:
        table = self._inner(item)
        enabled = table.pop("enabled", None)
        if enabled is not None and not isinstance(enabled.value, bool):
            self._problems.append(enabled.problem(f"must be true or false, not {enabled.value!r}"))
        for key, entry in table.items():
            self._setting(key, entry, found, HEARTBEAT, (), {"enabled"})
        if enabled is not None and enabled.value is False:
            # Switched off, the rest of the table may stay as it is.
            for name in OF_HEARTBEAT:
                found.pop(name, None)
            found["heartbeat_interval"] = Item(None, enabled.place, enabled.path)


@dataclass
class Merged:
    """All layers together."""

    pooling: bool
    process: dict[str, Item]
    pools: dict[str, dict[str, Item]]


def name_of_single(layers: list[Layer], problems: list[str]) -> str:
    """Return the name of the pool that is described outside of any, `default` unless one is given.

    With pools in a list there is none to name; that is added to `problems`.
    """
    named = [layer.name for layer in layers if layer.name is not None]
    if any(layer.pools for layer in layers):
        problems.extend(
            item.problem("pools are listed, each with its name; remove this one") for item in named
        )
        return DEFAULT_POOL
    return str(named[-1].value) if named else DEFAULT_POOL


def merge(layers: list[Layer], single: str = DEFAULT_POOL) -> Merged:
    """Lay the layers over each other, later ones on top.

    A pool has what it says itself, and of the rest what stands outside of any pool, as far as that
    means something for a pool of its profile. For the pool `single` the two are one: of the layers
    that have a value for it, the last decides.
    """
    pooling = True
    process: dict[str, Item] = {}
    shared: dict[str, Item] = {}
    own: dict[str, dict[str, Item]] = {}
    default: dict[str, Item] = {}
    for layer in layers:
        if layer.pooling is not None:
            pooling = bool(layer.pooling.value)
        process.update(layer.process)
        _lay(layer.shared, over=shared)
        if layer.wins:
            for settings in own.values():
                _give_way(settings, layer.shared)
                settings.update({k: item for k, item in layer.shared.items() if k in settings})
        for name, settings in layer.pools.items():
            _lay(settings, over=own.setdefault(name, {}))
        _lay(layer.shared, over=default)
        _lay(layer.pools.get(single, {}), over=default)
        if layer.name is not None:
            default["name"] = layer.name
    if not own and shared:
        own[single] = {}
    pools = {
        name: dict(default) if name == single else _completed(settings, shared)
        for name, settings in own.items()
    }
    return Merged(pooling, process, pools)


def _completed(own: dict[str, Item], shared: dict[str, Item]) -> dict[str, Item]:
    both = dict(shared)
    _lay(own, over=both)
    profile = both["profile"].value if "profile" in both else "process"
    return {key: item for key, item in both.items() if key in own or fits(key, profile)}


def _lay(settings: dict[str, Item], over: dict[str, Item]) -> None:
    _give_way(over, settings)
    over.update(settings)


def _give_way(below: dict[str, Item], above: dict[str, Item]) -> None:
    """Take out what `above` leaves without a meaning: the rest of a heartbeat that it ends."""
    interval = above.get("heartbeat_interval")
    if interval is not None and is_never(interval.value):
        for name in OF_HEARTBEAT:
            below.pop(name, None)
