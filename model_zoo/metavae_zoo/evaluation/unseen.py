"""What a probe refuses: values that its model may have been trained on."""

from __future__ import annotations

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.evaluation.errors import SeenValues, SplitMismatch
from metavae_zoo.families import Family, Split


def check_unseen(card: ModelCard, values: Family, split: Split) -> None:
    """Raise unless the card's model has seen no image of a value that the split holds out.

    That is so of a model that was trained over this family and split, and no other value; and of
    one that was trained over the plain family of the same data set, so on the images as they are,
    where the split trains on the value that leaves images as they are.

    Raises SplitMismatch and SeenValues.
    """
    anyway = "or probe it all the same with --allow-seen"
    if card.family == values.dataset.name and values.name != values.dataset.name:
        _check_plain(card, values, split, anyway)
        return
    if card.family != values.name:
        raise SplitMismatch(
            f"model {card.name} was trained over {card.family}, the probe is of {values.name}",
            hint=f"Give --family {card.family}, a --model of {values.name}, {anyway}",
            field="family",
        )
    seen = sorted(set(card.train_values) & set(split.held_out_values))
    listed = ", ".join(f"{value:g}" for value in seen)
    if card.split != split.name:
        consequence = f" and would use values that it was trained on ({listed})" if seen else ""
        raise SplitMismatch(
            f"model {card.name} was trained on the {card.split} split, the probe is of the"
            f" {split.name} one{consequence}",
            hint=f"Give --split {card.split}, a --model of the {split.name} split, {anyway}",
            field="split",
        )
    if seen:
        raise SeenValues(
            f"model {card.name} was trained on values that {values.name} holds out in its"
            f" {split.name} split ({listed})",
            hint=f"Train it again over that split, {anyway}",
            field="split",
        )


def _check_plain(card: ModelCard, values: Family, split: Split, anyway: str) -> None:
    """Raise SeenValues unless the images as they are belong to a training value of the split."""
    identity = values.axis.least_changing(values.values)
    if identity in split.held_out_values:
        raise SeenValues(
            f"model {card.name} was trained on {card.family} as it is, which {values.name} holds"
            f" out in its {split.name} split ({values.axis.name} {identity:g})",
            hint=f"Give a split that trains on {values.axis.name} {identity:g}, {anyway}",
            field="split",
        )
