"""Transfer of a canonical model: what a context gives at sites that are held out.

One classifier, fitted with labels of the training sites only, is tested at every held-out site. The
zoo does not know the client, so it calls its command.
"""

from __future__ import annotations

from metavae_zoo.bundle import Bundle
from metavae_zoo.card import Interval, ModelCard, TransferRecord
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
    site. Raises CommandFailed where a probe fails.
    """
    return [
        _record(bundle, served, split, size)
        for served, split in families_served(bundle.card)
        for size in SIZES
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


def _record(bundle: Bundle, served: Family, split: str, size: int) -> TransferRecord:
    sizes: list[object] = []
    for part in ("train", "test"):
        sizes += [f"--{part}-size", min(_IMAGES, len(served.labels(part)) // 2)]
    words = ("--protocol", "transfer", "--contexts", DRAWS, "--context-size", size, *sizes)
    place = {"family": served.name, "split": split}
    found = probe_command(bundle, *words, "--floor", _FLOOR, **place)
    as_it_comes = ("--no-floors", "--context-from", "reference")
    without = probe_command(bundle, *words, *as_it_comes, **place)
    record = TransferRecord.model_validate(found["transfer"])
    return record.model_copy(
        update={"without_context": Interval.model_validate(without["accuracy"])}
    )
