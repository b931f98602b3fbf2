"""How much of this machine is ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# The control groups of this process, a line each: "ID:CONTROLLERS:PATH", with no controllers in
# version 2.
_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on, and no more whole ones than its container's share."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    for group in _groups("cpu"):
        match _numbers(group, "cpu.max") or _numbers(
            group, "cpu.cfs_quota_us", "cpu.cfs_period_us"
        ):
            case [quota, period] if quota > 0 and period > 0:  # microseconds of every so many
                cores = min(cores, max(1, quota // period))
    return cores


def usable_memory() -> int:
    """Bytes of memory of this machine, and no more than its container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _groups("memory"):
        limits = _numbers(group, "memory.max") or _numbers(group, "memory.limit_in_bytes")
        memory = min([memory, *limits])
    return memory


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups that may limit it, and of those above them."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # no control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = _MOUNTED
        elif controller in controllers.split(","):
            root = _MOUNTED / controller
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # A container may see its own group as the root, while its path is the machine's.
        yield from (root / above for above in (group, *group.parents))


def _numbers(group: Path, *files: str) -> list[int]:
    """What stands in a group's files; nothing where one is not there, or sets no limit ("max")."""
    try:
        return [int(word) for file in files for word in (group / file).read_text().split()]
    except (OSError, ValueError):
        return []
