"""Claims about how much of this machine is ours."""

from __future__ import annotations

import os

import pytest

from metavae_zoo import machine
from metavae_zoo.machine import usable_cores, usable_memory

CORES = {1, 3, 5, 7, 9, 11}


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 8192 bytes and six cores, and what its control groups say: file=content."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MOUNTED", tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2}.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: CORES, raising=False)

    def write(lines: str, files: dict[str, str]) -> None:
        (tmp_path / "cgroup").write_text(lines)
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")

    return write


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("200000 100000", 2),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("max 100000", 6),
        ("900000 100000", 6),
        ("", 6),
    ],
)
def test_a_groups_share_of_the_processors_is_kept(groups, limit, expected):
    groups("0::/service\n", {"service/cpu.max": limit})
    assert usable_cores() == expected


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 1000), ("max", 8192), ("9000", 8192), ("", 8192)]
)
def test_a_groups_share_of_the_memory_is_kept(groups, limit, expected):
    groups("0::/service\n", {"service/memory.max": limit})
    assert usable_memory() == expected


def test_a_limit_of_a_group_above_counts(groups):
    groups(
        "0::/slice/service\n",
        {
            "slice/memory.max": "3000",
            "slice/service/memory.max": "5000",
            "slice/cpu.max": "200000 100000",
            "slice/service/cpu.max": "400000 100000",
        },
    )
    assert usable_memory() == 3000
    assert usable_cores() == 2


def test_a_container_that_sees_its_group_as_the_root_is_found(groups):
    groups("0::/containers/ab12\n", {"memory.max": "2000", "cpu.max": "300000 100000"})
    assert usable_memory() == 2000
    assert usable_cores() == 3


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2), ("-1", 6)])
def test_limits_of_version_1_are_kept(groups, quota, expected):
    groups(
        "5:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/a\n",
        {
            "memory/a/memory.limit_in_bytes": "4000",
            "cpu/a/cpu.cfs_quota_us": quota,
            "cpu/a/cpu.cfs_period_us": "100000",
        },
    )
    assert usable_memory() == 4000
    assert usable_cores() == expected


def test_without_control_groups_it_is_the_machine(groups):
    assert usable_memory() == 8192
    assert usable_cores() == len(CORES)
