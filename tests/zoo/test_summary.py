"""Claims about summaries: they are exact, so that nothing but their content matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadSummary

MODEL = "a" * 64


def features(rng: np.random.Generator, count: int) -> np.ndarray:
    # Magnitudes that differ by six orders: plain float32 sums of these depend on their order.
    return (rng.standard_normal((count, 5)) * 10.0 ** rng.integers(-4, 3, (count, 5))).astype("f4")


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 199), max_size=6))
def test_order_and_chunking_do_not_change_a_bit(seed, cuts):
    rng = np.random.default_rng(seed)
    rows = features(rng, 200)
    whole = Summary.of_features(rows, MODEL)
    shuffled = rng.permutation(rows)
    parts = [Summary.of_features(part, MODEL) for part in np.split(shuffled, sorted(set(cuts)))]
    merged = parts[0].merge(*parts[1:])
    assert merged == whole
    assert merged.mean.tobytes() == whole.mean.tobytes()


def test_the_mean_is_the_mean(rng):
    rows = features(rng, 1000)
    np.testing.assert_allclose(
        Summary.of_features(rows, MODEL).mean, rows.astype("f8").mean(0), rtol=1e-6, atol=2**-24
    )


def test_summaries_of_two_models_do_not_merge(rng):
    mine, other = (Summary.of_features(features(rng, 3), model) for model in (MODEL, "b" * 64))
    with pytest.raises(BadSummary, match="Summarise both contexts with the same model"):
        mine.merge(other)


@pytest.mark.parametrize("value", [2.0**29, np.inf, np.nan])
def test_beyond_the_exact_range_is_an_error(value):
    with pytest.raises(BadSummary, match="exact is up to"):
        Summary.of_features(np.full((1, 5), value, "f4"), MODEL)
    half = Summary.of_features(np.full((1, 5), 2.0**28, "f4"), MODEL)
    with pytest.raises(BadSummary, match="smaller context"):
        half.merge(half)
