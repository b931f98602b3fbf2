"""How a process that trains allocates memory.

A step allocates and frees the same large tensors as the step before. By default the C library
hands such memory back to the kernel, which maps it again and clears it page by page, in every
step. Kept, and on huge pages, it costs next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's mallopt(3), by the numbers of its malloc.h, and their values in bytes.
_MALLOC_OPTIONS = {
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD, the largest that it takes: smaller blocks are reused
    -1: 2**30,  # M_TRIM_THRESHOLD: free memory that is kept
    -2: 64 * 2**20,  # M_TOP_PAD: what it grows by
}


def keep_freed_memory() -> bool:
    """Have this process keep and reuse what it frees, and torch use huge pages, if not told else.

    Call it before the first tensor is made. Returns whether the C library took part: only glibc
    does, and elsewhere training is as fast as it was.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it once
    if sys.platform != "linux":
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    taken = [set_option(option, value) for option, value in _MALLOC_OPTIONS.items()]
    return all(taken)
