"""Claims about memory: what a training process frees it has again without asking the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from metavae_training.trainer.allocator import keep_freed_memory

pytestmark = pytest.mark.training

_PAGE = 4096
_BYTES = 16 * 2**20
_TIMES = 10

# Page faults of allocating and freeing a tensor again and again, of a size that training has.
_FAULTS = f"""
import resource
from metavae_training.trainer.allocator import keep_freed_memory
keep_freed_memory()
import torch
for _ in range(3):
    torch.ones({_BYTES // 4})
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({_TIMES}):
    torch.ones({_BYTES // 4})
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    command = [sys.executable, "-c", _FAULTS]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_that_is_freed_is_not_mapped_again():
    if not keep_freed_memory():
        pytest.skip("this C library has no such options")
    # A kernel that is short of memory takes pages back by itself, which only adds faults.
    assert min(faults() for _ in range(3)) < _BYTES / _PAGE
