"""How much of this machine is ours."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# What a container may use of the processors: "QUOTA PERIOD" in microseconds, or "max PERIOD".
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# What it may use of the memory, in bytes, or "max"; and where control groups are of version 1.
_MEMORY = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def usable_cores() -> int:
    """Cores that this process may run on, and no more than its container's share of them."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _quota()))


def usable_memory() -> int:
    """Bytes of memory of this machine, and no more than its container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in _MEMORY:
        with suppress(OSError, ValueError):  # no such file, or no limit in it
            memory = min(memory, int(limit.read_text()))
    return memory


def _quota() -> int:
    """Whole cores' worth of time that the control group gives; very many where it sets no limit."""
    try:
        quota, period = map(int, _QUOTA.read_text().split())
        return quota // period
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or no limit in it
        return 1 << 20
