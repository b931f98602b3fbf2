"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from metavae_training.bfloat16 import cpu_has_bf16
from metavae_zoo.commit import code_commit


def describe_machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Processor, cores, threads, memory, versions; and how busy the machine was at the start."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "bf16": has_bf16(device),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": code_commit(),
    }


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 itself, not by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bf16()


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process holds: tensors on a GPU, resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _process_memory("VmRSS")


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far: see `memory_in_use`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _process_memory("VmHWM")


def _process_memory(field: str) -> int:
    # getrusage would do on Linux too, if a new process did not start with its parent's maximum.
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
