"""Claims about the transfer results of a card: which families, which images, which contexts."""

from __future__ import annotations

from typing import Any

import pytest

from metavae_zoo import transfer
from metavae_zoo.bundle import Bundle
from metavae_zoo.index import find_bundle
from metavae_zoo.transfer import DRAWS, SIZES, families_served, measure_transfer


@pytest.fixture
def plain(site_bundle: Bundle) -> Bundle:
    """A model of the reference of digits alone."""
    card = site_bundle.card.model_copy(
        update={"family": "digits", "split": "all", "train_values": [0.0], "held_out_values": []}
    )
    return Bundle(site_bundle.path, card)


def test_a_model_of_the_reference_serves_every_family_of_its_data_set(plain):
    served = {family.name: split for family, split in families_served(plain.card)}
    axes = ("rotation", "scale", "skew", "affine", "scanner", "camera")
    assert served == {f"digits-{axis}": "contiguous" for axis in axes}


def test_a_model_of_a_family_serves_its_own_split():
    card = find_bundle("wavelet-metavae-mnist-rotation-contiguous").card
    [(family, split)] = families_served(card)
    assert (family.name, split) == ("mnist-rotation", "contiguous")


def test_each_record_has_the_same_model_with_and_without_its_contexts(plain, monkeypatch):
    asked: list[tuple[object, ...]] = []

    def probe(bundle: Bundle, *words: object, family: str, split: str) -> dict[str, Any]:
        """Stands for the client's command."""
        asked.append((family, *words))
        mean = 0.2 if "reference" in words else 0.9
        accuracy = {"mean": mean, "half_width": 0.01, "n": DRAWS}
        record = {
            "family": family,
            "split": split,
            "seed": 0,
            "train_size": 648,
            "test_size": 250,
            "contexts": DRAWS,
            "context_size": words[words.index("--context-size") + 1],
            "accuracy": accuracy,
            "per_value": {},
            "floors": {"pca": 0.1},
        }
        return {"accuracy": accuracy, "transfer": record}

    monkeypatch.setattr(transfer, "probe_command", probe)
    records = measure_transfer(plain)
    assert len(records) == 6 * len(SIZES)
    for record in records:
        assert record.without_context is not None
        assert record.accuracy.mean == 0.9
        assert record.without_context.mean == 0.2
    # Half of the images of a part are left for contexts that share none with what is classified.
    for words in asked:
        assert words[words.index("--train-size") + 1] == 1297 // 2
        assert words[words.index("--test-size") + 1] == 500 // 2
