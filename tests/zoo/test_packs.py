"""Claims about rows that are run together: none is lost, moved, or copied without need."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from metavae_zoo.embedding.chunks import joined, packs, pieces


@given(counts=st.lists(st.integers(0, 30), max_size=12), size=st.integers(1, 17))
def test_packs_hold_every_row_once_in_order_and_all_but_the_last_are_full(counts, size):
    arrays = [np.arange(count) + 100 * index for index, count in enumerate(counts)]
    found = [[] for _ in counts]
    sizes = []
    for pack in packs(counts, size):
        together = joined([arrays[index][rows] for index, rows in pack])
        sizes.append(len(together))
        for (index, _), piece in zip(pack, pieces(together, pack), strict=True):
            found[index] += piece.tolist()
    assert found == [array.tolist() for array in arrays]
    assert all(full == size for full in sizes[:-1])
    assert all(0 < last <= size for last in sizes[-1:])


def test_a_single_array_is_not_copied():
    rows = np.zeros((4, 3), np.uint8)
    assert joined([rows[1:3]]).base is rows
    assert_array_equal(joined([rows, rows]), np.zeros((8, 3), np.uint8))
