"""What control groups leave of the machine, read from trees as kernels lay them out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from snakepit import resources

Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of 16 CPUs whose /proc/self and groups are those given."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)))

    def build(groups: str, mounts: list[tuple[str, str, str]], files: dict[str, str]) -> Path:
        proc = tmp_path / "proc"
        proc.mkdir()
        (proc / "cgroup").write_text(groups)
        lines = [
            f"3{number} 2 0:3{number} {root} {tmp_path}/{place} rw,nosuid - {kind}"
            for number, (root, place, kind) in enumerate(mounts)
        ]
        (proc / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda rw", *lines]))
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        monkeypatch.setattr(resources, "_PROC", proc)
        return tmp_path

    return build


V2 = ("/", "cg", "cgroup2 cgroup2 rw")
V1 = ("/", "cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")


def test_without_groups_affinity_counts(machine: Machine) -> None:
    machine("", [], {})
    assert resources.usable_cpus() == 16


def test_tightest_of_nested_groups_binds(machine: Machine) -> None:
    files = {
        "cg/cpu.max": "max 100000",
        "cg/a/cpu.max": "250000 100000",
        "cg/a/b/cpu.max": "800000 100000",
        "cg/other/cpu.max": "100000 100000",
    }
    machine("0::/a/b\n", [V2], files)
    assert resources.usable_cpus() == 3


def test_no_quota_is_no_limit(machine: Machine) -> None:
    machine("0::/a\n", [V2], {"cg/a/cpu.max": "max 100000"})
    assert resources.usable_cpus() == 16


def test_part_of_a_cpu_is_one(machine: Machine) -> None:
    machine("0::/\n", [V2], {"cg/cpu.max": "20000 100000"})
    assert resources.usable_cpus() == 1


def test_version_1_with_nested_groups(machine: Machine) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
    }
    machine("4:memory:/x\n3:cpu,cpuacct:/a/b\n", [V1], files)
    assert resources.usable_cpus() == 4


def test_both_versions_bind(machine: Machine) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "600000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cg/a/cpu.max": "500000 100000",
    }
    machine("3:cpu,cpuacct:/\n0::/a\n", [V1, V2], files)
    assert resources.usable_cpus() == 5


def test_container_sees_its_own_group_as_the_root(machine: Machine) -> None:
    mount = ("/docker/abc", "cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "200000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    machine("3:cpu,cpuacct:/docker/abc\n", [mount], files)
    assert resources.usable_cpus() == 2


def test_mount_with_a_blank_in_its_name(machine: Machine) -> None:
    machine("0::/\n", [("/", "c\\040g", "cgroup2 cgroup2 rw")], {"c g/cpu.max": "200000 100000"})
    assert resources.usable_cpus() == 2


@pytest.mark.parametrize("text", ["", "nonsense", "100000", "0 0", "100000 x"])
def test_damaged_files_do_not_count(machine: Machine, text: str) -> None:
    machine("0::/\nnonsense\n", [V2], {"cg/cpu.max": text})
    assert resources.usable_cpus() == 16


def test_memory_of_nested_groups(machine: Machine) -> None:
    files = {"cg/a/memory.max": "1000000", "cg/a/b/memory.max": "max"}
    machine("0::/a/b\n", [V2], files)
    assert resources.memory_limit() == 1_000_000
