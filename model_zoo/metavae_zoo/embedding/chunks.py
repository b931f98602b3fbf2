"""Rows of several arrays, run together in packs of a bounded size and taken apart again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Pack = list[tuple[int, slice]]  # of which array, which rows


def packs(counts: Sequence[int], size: int) -> Iterator[Pack]:
    """All rows of arrays with these counts of rows, in order, at most `size` to a pack."""
    pack: Pack = []
    room = size
    for index, count in enumerate(counts):
        start = 0
        while start < count:
            stop = min(count, start + room)
            pack.append((index, slice(start, stop)))
            room -= stop - start
            start = stop
            if room == 0:
                yield pack
                pack, room = [], size
    if pack:
        yield pack


def joined(arrays: Sequence[NDArray]) -> NDArray:
    """The rows of all arrays; of a single one without a copy, where it lies in row order."""
    return np.ascontiguousarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays)


def pieces(rows: NDArray, pack: Pack) -> Iterator[NDArray]:
    """What each entry of `pack` has of the rows that were computed for all of it: views."""
    start = 0
    for _, part in pack:
        stop = start + part.stop - part.start
        yield rows[start:stop]
        start = stop
