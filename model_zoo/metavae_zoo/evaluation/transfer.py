"""Transfer of a canonical model: what a context gives at sites that are held out.

One classifier, fitted with labels of the training sites only, is tested at every held-out site.
"""

from __future__ import annotations

from dataclasses import replace

from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.card import ModelCard, TransferRecord
from metavae_zoo.evaluation.kept import kept_probe
from metavae_zoo.evaluation.protocols import Transfer
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.families import FAMILIES, Family, family

SIZES = (10, 100)  # images of a context
DRAWS = 3  # of a context, over which the intervals are
_SPLIT = "contiguous"
_FLOOR = "pca"  # of as many numbers as an embedding has
_IMAGES = 2000  # of a site, to fit on and to test on each; the rest are for contexts


def measure_transfer(bundle: Bundle) -> list[TransferRecord]:
    """A record for each family that the model serves and each of SIZES.

    `without_context` is of the same model and images, each embedded with a context of the reference
    site. It and the baseline are measured once for a family.
    """
    return [
        record
        for served, split in families_served(bundle.card)
        for record in _records(bundle, served, split)
    ]


def families_served(card: ModelCard) -> list[tuple[Family, str]]:
    """The families, and their splits, that hold out sites which the model has not seen.

    A model of one reference site serves all families of its data set that train on that site.
    """
    own = family(card.family)
    if card.held_out_values:
        return [(own, card.split)]
    return [
        (other, _SPLIT)
        for other in FAMILIES.values()
        if other.dataset.name == own.dataset.name
        and _SPLIT in other.axis.splits
        and other.axis.change(other.reference(_SPLIT)) == 0
    ]


def _records(bundle: Bundle, served: Family, split: str) -> list[TransferRecord]:
    first = ProbeSettings(
        family=served.name,
        split=split,
        protocol=Transfer(),
        train_size=min(_IMAGES, len(served.labels("train")) // 2),
        test_size=min(_IMAGES, len(served.labels("test")) // 2),
        contexts=DRAWS,
        context_size=SIZES[0],
        floors=(_FLOOR,),
    )
    alone = replace(first, floors=())
    asked = [first, *(replace(alone, context_size=size) for size in SIZES[1:])]
    records = [_record(bundle, one) for one in asked]
    without = _record(bundle, replace(alone, context_from="reference")).accuracy
    return [
        one.model_copy(update={"without_context": without, "floors": records[0].floors})
        for one in records
    ]


def _record(bundle: Bundle, settings: ProbeSettings) -> TransferRecord:
    return TransferRecord.model_validate(kept_probe(bundle, settings)["transfer"])
