"""Claims about Table 1's distances, on codes whose distances are known."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metavae_training.paper.measure.distances import (
    distances,
    identity_value,
    spread_of,
    transformed_values,
)
from metavae_zoo.embedding.embedder import Embeddings
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.families import FAMILIES, Family, family
from metavae_zoo.families.axes import Axis
from metavae_zoo.families.digits import Digits

COUNT = 150


def shift(value: float) -> np.ndarray:
    return np.array([[1, 0, value], [0, 1, 0]])


class Numbered(Family):
    """Images of two pixels: which image it is, and the value of its distribution."""

    def images(self, value, part, data_root=None):
        assert part == "test"
        rows = [[[[index], [int(value)]]] for index in range(COUNT)]
        return np.array(rows, np.uint8)


NUMBERED = Numbered("toy", Digits(), Axis("shift", "pixels", (0.0, 3.0, 5.0), shift, "nearest", {}))


@dataclass
class Toy:
    """An embedder with the code (3 index, 4 value); it insists on a context of its query's own."""

    needs_context: bool

    @property
    def card(self) -> Any:
        return SimpleNamespace(needs_context=self.needs_context)

    def summarize(self, context):
        values = np.unique(context[:, 0, 1, 0])
        assert len(values) == 1
        assert len(np.unique(context[:, 0, 0, 0])) == len(context) == 100
        return Summary(values.astype(np.float64), len(context), "toy")

    def embed(self, queries, summary=None):
        if self.needs_context:
            assert summary is not None
            assert (queries[:, 0, 1, 0] == summary.total[0]).all()
        codes = queries[:, 0, :, 0].astype(np.float32) * [3, 4]
        return Embeddings(codes, np.zeros_like(codes))


@pytest.mark.parametrize("needs_context", [True, False])
def test_distances_are_between_codes_of_the_same_image(needs_context):
    found = list(distances(Toy(needs_context), NUMBERED))
    assert [value for value, *_ in found] == [3.0, 5.0]
    assert [distance for _, distance, _ in found] == pytest.approx([12.0, 20.0])


def test_the_spread_is_the_root_mean_square_over_all_pairs():
    pairs = combinations(range(COUNT), 2)
    expected = np.sqrt(np.mean([(3.0 * (one - other)) ** 2 for one, other in pairs]))
    assert [spread for *_, spread in distances(Toy(False), NUMBERED)] == pytest.approx(
        [expected, expected]
    )


def test_a_code_that_shrinks_wins_the_distance_and_not_the_relative_one(rng):
    codes, moved = rng.normal(size=(2, 40, 5))
    near = np.linalg.norm(codes - moved, axis=1).mean() / spread_of(codes)
    shrunk = np.linalg.norm(0.01 * codes - 0.01 * moved, axis=1).mean() / spread_of(0.01 * codes)
    assert shrunk == pytest.approx(near)


def test_the_first_images_are_enough_for_a_small_study():
    few = list(distances(Toy(True), NUMBERED, images=10))
    assert [distance for _, distance, _ in few] == pytest.approx([12.0, 20.0])
    assert few[0][2] < next(distances(Toy(True), NUMBERED))[2]


@pytest.mark.parametrize("name", FAMILIES)
def test_base_images_are_those_that_the_identity_leaves_alone(name):
    varied = family(name)
    base = identity_value(varied)
    assert base == (1.0 if varied.axis.name == "scale" else 0.0)
    assert set(transformed_values(varied)) == set(varied.values) - {base}
    np.testing.assert_allclose(varied.axis.matrix(base), np.eye(2, 3), atol=1e-12)
