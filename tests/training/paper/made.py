"""Items as a measurement makes them; imports no torch, for processes that only write them."""

from __future__ import annotations

from metavae_training.paper.measure.results import Item

PROTOCOL = {"probe": "a test's", "train_size": "all", "test_size": "all"}


def an_item(**fields: object) -> Item:
    """An item of a model; every field can be changed."""
    plain = {
        "kind": "model",
        "model": "metavae",
        "family": "digits-rotation",
        "split": "contiguous",
        "seed": 0,
        "value": 20.0,
        "context": "own",
        "context_size": 100,
        "accuracy": 0.5,
        "commit": "0123456",
        "data_sha256": "d",
        "recipe_sha256": "r",
        "bundle_sha256": "b",
    }
    return Item.model_validate(plain | fields)
