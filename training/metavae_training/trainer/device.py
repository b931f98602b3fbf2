"""The device that a run is on, and its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metavae_zoo.errors import DeviceUnavailable, MetavaeError

# What torch raises for a full device has a class of its own only where its own allocator asked.
_NO_MEMORY = ("can't allocate memory", "out of memory", "_ALLOC_FAILED")


class OutOfMemory(MetavaeError):
    """The device's memory does not hold a run's images and model, or a step of it."""

    code = "out_of_memory"


def choose_device(name: str) -> torch.device:
    """Device of `auto`, `cpu` or `cuda`; raises DeviceUnavailable where CUDA is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable(
            "--device cuda was asked for and torch finds no CUDA device",
            hint="Check `nvidia-smi`, or choose --device cpu",
        )
    return torch.device(name)


@contextmanager
def memory_errors(what: object, device: torch.device, hint: str) -> Iterator[None]:
    """Make of a full device an OutOfMemory that says what did not fit, and what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (of_memory or any(words in said for words in _NO_MEMORY)):
            raise
        raise OutOfMemory(
            f"{what} needs more memory than {device} has free ({said})", hint=hint
        ) from error
