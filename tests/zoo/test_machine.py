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


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 1000), ("max", 8192), ("9000", 8192), ("", 8192)]
)
def test_a_containers_share_of_the_memory_is_kept(tmp_path, monkeypatch, limit, expected):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(machine, "_MEMORY", [tmp_path / "none", tmp_path / "memory.max"])
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2}.__getitem__)
    assert usable_memory() == expected


def test_without_control_groups_it_is_the_machines_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_MEMORY", [tmp_path / "none"])
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2}.__getitem__)
    assert usable_memory() == 8192
