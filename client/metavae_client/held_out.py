"""What a probe refuses: values that its model may have been trained on."""

from __future__ import annotations

from metavae_client.errors import SeenValues, SplitMismatch
from metavae_zoo.card import ModelCard
from metavae_zoo.families import Family, Split


def check_unseen(card: ModelCard, values: Family, split: Split) -> None:
    """Raise unless the card's model was trained over this family and split, and no other value."""
    anyway = "or probe it all the same with --allow-seen"
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
