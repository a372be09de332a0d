"""Where a pid means something."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where a pid means something: this boot of this machine, and this pid namespace of it."""

    text: str

    @classmethod
    def here(cls) -> Place:
        """The place of this process."""
        parts = [socket.gethostname()]
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            parts.append(file.read().strip())
        with contextlib.suppress(OSError):
            parts.append(os.readlink("/proc/self/ns/pid"))
        return cls(" ".join(parts))
