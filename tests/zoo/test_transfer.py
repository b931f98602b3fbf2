"""Claims about the transfer results of a card: which families, which images, which contexts."""

from __future__ import annotations

from typing import Any

import pytest

from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.index import find_bundle
from metavae_zoo.evaluation import transfer
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.evaluation.transfer import DRAWS, SIZES, families_served, measure_transfer

pytestmark = pytest.mark.training


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
    asked: list[ProbeSettings] = []

    def probe(bundle: Bundle, settings: ProbeSettings) -> dict[str, Any]:
        """Stands for the probe."""
        asked.append(settings)
        mean = 0.2 if settings.context_from == "reference" else 0.9
        accuracy = {"mean": mean, "half_width": 0.01, "n": DRAWS}
        record = {
            "family": settings.family,
            "split": settings.split,
            "seed": 0,
            "train_size": 648,
            "test_size": 250,
            "contexts": DRAWS,
            "context_size": settings.context_size,
            "accuracy": accuracy,
            "per_value": {},
            "floors": {"pca": 0.1},
        }
        return {"accuracy": accuracy, "transfer": record}

    monkeypatch.setattr(transfer, "kept_probe", probe)
    records = measure_transfer(plain)
    assert len(records) == 6 * len(SIZES)
    for record in records:
        assert record.without_context is not None
        assert record.accuracy.mean == 0.9
        assert record.without_context.mean == 0.2
    # Half of the images of a part are left for contexts that share none with what is classified.
    assert {(one.train_size, one.test_size) for one in asked} == {(1297 // 2, 500 // 2)}
