"""What the figures were measured on."""

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path

from benches.peers import PEERS, unavailable, version


def facts() -> dict[str, str]:
    """Return the machine, the interpreter and the date, by name."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": f"{_field('/proc/cpuinfo', 'model name')}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{int(_field('/proc/meminfo', 'MemTotal').split()[0]) / 1024**2:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": importlib.metadata.version("numpy"),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def peers() -> dict[str, str]:
    """Return each peer's version, or why it cannot be measured, by label."""
    return {
        peer.label: f"skipped: {reason}" if (reason := unavailable(key)) else version(key)
        for key, peer in PEERS.items()
    }


def _field(path: str, name: str) -> str:
    """Return the first value of a "name : value" line."""
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
