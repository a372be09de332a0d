"""The audit itself: what it exists to find, it finds."""

from __future__ import annotations

import mmap
import multiprocessing.shared_memory
import os
import subprocess
import sys
import threading

from tests.conftest import Holdings, find_leaks


def leaks_since(before: Holdings) -> set[str]:
    return set(find_leaks(before, grace=0.1))


def test_nothing_is_found_where_nothing_is() -> None:
    assert leaks_since(Holdings.now()) == set()


def test_finds_a_descriptor() -> None:
    before = Holdings.now()
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        assert leaks_since(before) == {"descriptors"}
    finally:
        os.close(descriptor)


def test_finds_a_thread() -> None:
    before = Holdings.now()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert leaks_since(before) == {"threads"}
    finally:
        stop.set()
        thread.join()


def test_finds_a_child_and_its_orphans() -> None:
    before = Holdings.now()
    code = (
        "import subprocess; null = subprocess.DEVNULL; "
        "print(subprocess.Popen(['sleep', '60'], stdout=null, stderr=null).pid, flush=True)"
    )
    # The child ends and its own child is adopted by somebody else.
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    try:
        assert leaks_since(before) == {"processes"}
    finally:
        os.kill(int(made.stdout), 9)


def test_finds_a_zombie() -> None:
    before = Holdings.now()
    pid = os.spawnlp(os.P_NOWAIT, "true", "true")
    try:
        assert leaks_since(before) == {"processes"}
    finally:
        os.waitpid(pid, 0)


def test_finds_a_name_in_shared_memory() -> None:
    before = Holdings.now()
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    try:
        assert "names in /dev/shm" in leaks_since(before)
    finally:
        memory.close()
        memory.unlink()


def test_finds_anonymous_shared_memory() -> None:
    """Two of them, because the first may pass for the arena of the process."""
    before = Holdings.now()
    descriptors = [os.memfd_create(f"leak-{n}") for n in range(2)]
    mappings = []
    for descriptor in descriptors:
        os.ftruncate(descriptor, 4096)
        mappings.append(mmap.mmap(descriptor, 4096))
    try:
        assert {"descriptors", "mappings"} <= leaks_since(before)
    finally:
        for mapping in mappings:
            mapping.close()
        for descriptor in descriptors:
            os.close(descriptor)


def test_finds_a_shared_mapping_without_a_file() -> None:
    before = Holdings.now()
    mapping = mmap.mmap(-1, 4096)
    try:
        assert leaks_since(before) == {"mappings"}
    finally:
        mapping.close()
