"""Transfer of a canonical model: what a context gives at sites that are held out.

One classifier, fitted with labels of the training sites only, is tested at every held-out site. The
zoo does not know the client, so it calls its command.
"""

from __future__ import annotations

from metavae_zoo.bundle import Bundle
from metavae_zoo.card import ModelCard, TransferRecord
from metavae_zoo.commands import probe_command
from metavae_zoo.families import FAMILIES, Family, family

SIZES = (10, 100)  # images of a context
DRAWS = 3  # of a context, over which the intervals are
_SPLIT = "contiguous"
_FLOOR = "pca"  # of as many numbers as an embedding has
_IMAGES = 2000  # of a site, to fit on and to test on each; the rest are for contexts


def measure_transfer(bundle: Bundle) -> list[TransferRecord]:
    """A record for each family that the model serves and each of SIZES.

    `without_context` is of the same model and images, each embedded with a context of the reference
    site. It and the baseline are measured once for a family. Raises CommandFailed where a probe
    fails.
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
    words: list[object] = ["--protocol", "transfer", "--contexts", DRAWS]
    for part in ("train", "test"):
        words += [f"--{part}-size", min(_IMAGES, len(served.labels(part)) // 2)]
    place = {"family": served.name, "split": split}

    def record(size: int, *more: object) -> TransferRecord:
        found = probe_command(bundle, *words, "--context-size", size, *more, **place)
        return TransferRecord.model_validate(found["transfer"])

    first = record(SIZES[0], "--floor", _FLOOR)
    without = record(SIZES[0], "--no-floors", "--context-from", "reference").accuracy
    others = [record(size, "--no-floors") for size in SIZES[1:]]
    return [
        one.model_copy(update={"without_context": without, "floors": first.floors})
        for one in (first, *others)
    ]
