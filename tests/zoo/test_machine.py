"""Claims about how much of this machine is ours."""

from __future__ import annotations

import os

import pytest

from metavae_zoo import machine
from metavae_zoo.machine import usable_cores, usable_memory


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
def test_a_containers_share_of_the_processors_is_kept(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert usable_cores() == expected


def test_without_control_groups_it_is_the_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores() == 2


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 8192 bytes, and what its control groups say."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_MOUNTED", tmp_path)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2}.__getitem__)

    def write(lines: str, **limits: str) -> None:
        (tmp_path / "cgroup").write_text(lines)
        for folder, limit in limits.items():
            file = tmp_path / folder.replace("_", "/")
            name = "memory.limit_in_bytes" if folder.startswith("memory") else "memory.max"
            file.mkdir(parents=True, exist_ok=True)
            (file / name).write_text(f"{limit}\n")

    return write


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 1000), ("max", 8192), ("9000", 8192), ("", 8192)]
)
def test_a_groups_share_of_the_memory_is_kept(groups, limit, expected):
    groups("0::/service\n", service=limit)
    assert usable_memory() == expected


def test_a_limit_of_a_group_above_counts(groups):
    groups("0::/slice/service\n", slice="3000", slice_service="5000")
    assert usable_memory() == 3000


def test_a_container_that_sees_its_group_as_the_root_is_found(groups, tmp_path):
    groups("0::/containers/ab12\n")
    (tmp_path / "memory.max").write_text("2000\n")
    assert usable_memory() == 2000


def test_limits_of_version_1_are_kept(groups):
    groups("5:cpu,cpuacct:/a\n4:memory:/a\n1:name=systemd:/a\n", memory_a="4000", a="1000")
    assert usable_memory() == 4000


def test_without_control_groups_it_is_the_machines_memory(groups):
    assert usable_memory() == 8192
