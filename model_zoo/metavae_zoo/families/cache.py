"""Arrays that are costly to make, kept on disk under a key of what they were made from."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.files import whole_file
from metavae_zoo.places import cache_folder

logger = logging.getLogger(__name__)


def cached_array(key: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the array kept under `key`, memory-mapped and read-only; make and keep it if new.

    A cache that cannot be written costs time, not the result: the array is returned unkept.
    """
    path = cache_folder() / "transformed" / f"{key}.npy"
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        array = make()
    try:
        with whole_file(path) as file:
            np.save(file, array)
        return np.load(path, mmap_mode="r")
    except OSError as error:
        logger.warning("transformed images are not cached: %s", error)
        array.flags.writeable = False
        return array
