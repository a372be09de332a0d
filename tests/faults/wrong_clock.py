"""A wall clock that jumps, for a program and all that it starts: in Python, SQLite and C alike.

The clock of the machine is left alone. A library that is loaded before all others (LD_PRELOAD)
answers for the C library; what it adds to the time is read from a file that every process maps.
Monotonic clocks and that of the boot go on, as they do where somebody sets the time.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "SNAKEPIT_WRONG_CLOCK"
SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t nothing;
static volatile int64_t *seconds;

static int64_t jump(void)
{
    if (seconds == NULL) {
        const char *path = getenv("SNAKEPIT_WRONG_CLOCK");
        int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
        if (fd >= 0)
            close(fd);
        seconds = map == MAP_FAILED ? &nothing : map;
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    int result = syscall(SYS_clock_gettime, id, time);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        time->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    int result = syscall(SYS_gettimeofday, time, zone);
    if (result == 0)
        time->tv_sec += jump();
    return result;
}

time_t time(time_t *found)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found != NULL)
        *found = now.tv_sec;
    return now.tv_sec;
}
"""


def make_clock(directory: Path) -> dict[str, str]:
    """Return the environment of a program whose clock `set_clock` moves; skip without a compiler.

    The file of the clock is `clock` in the directory.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    source, library = directory / "wrong_clock.c", directory / "wrong_clock.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    clock = directory / "clock"
    clock.write_bytes(bytes(8))
    return {"LD_PRELOAD": str(library), VARIABLE: str(clock)}


def set_clock(seconds: int) -> None:
    """In such a program: have the clock of every process of it be wrong by so many seconds."""
    with open(os.environ[VARIABLE], "r+b") as file, mmap.mmap(file.fileno(), 8) as clock:
        clock[:] = struct.pack("=q", seconds)
