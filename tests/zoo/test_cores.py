"""Claims about how many cores are ours."""

from __future__ import annotations

import os

import pytest

from metavae_zoo import cores
from metavae_zoo.cores import usable_cores


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
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert usable_cores() == expected


def test_without_control_groups_it_is_the_cores_that_may_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores() == 2
