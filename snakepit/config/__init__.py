"""The configuration of pools: TOML files, dicts, the environment; needs the extra `config`.

Neither `import snakepit` nor a worker imports this package.
"""

try:
    import pydantic  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "configuration needs pydantic: pip install 'snakepit-pool[config]'", name=error.name
    ) from error

from snakepit.config.loading import (
    Config,
    get_pool_config,
    get_pool_configs,
    load_config,
    normalize_pool_config,
    thread_profile,
    validate_pool_config,
)
from snakepit.config.models import PoolSettings, ProcessSettings
from snakepit.config.sources import find_file

__all__ = [
    "Config",
    "PoolSettings",
    "ProcessSettings",
    "find_file",
    "get_pool_config",
    "get_pool_configs",
    "load_config",
    "normalize_pool_config",
    "thread_profile",
    "validate_pool_config",
]
