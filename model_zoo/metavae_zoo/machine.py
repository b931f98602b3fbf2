"""How much of this machine is ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

# What a container may use of the processors: "QUOTA PERIOD" in microseconds, or "max PERIOD".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# The groups of this process, a line each: "ID:CONTROLLERS:PATH", with no controllers in version 2.
_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on, and no more than its container's share of them."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _quota()))


def usable_memory() -> int:
    """Bytes of memory of this machine, and no more than its container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _memory_limits():
        with suppress(OSError, ValueError):  # no such file, or no limit in it
            memory = min(memory, int(limit.read_text()))
    return memory


def _memory_limits() -> Iterator[Path]:
    """Files with what this process's control groups and those above them may use, in bytes."""
    try:
        lines = _GROUPS.read_text().splitlines()
    except OSError:  # no control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = _MOUNTED, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _MOUNTED / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # A container may see its own group as the root, while its path is the machine's.
        yield from (root / above / name for above in (group, *group.parents))


def _quota() -> int:
    """Whole cores' worth of time that the control group gives; very many where it sets no limit."""
    try:
        quota, period = map(int, _QUOTA.read_text().split())
        return quota // period
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit in it
        return 1 << 20
