"""Claims about the models that ship: each is its recipe's, and its card says what it is."""

from __future__ import annotations

from math import prod

import pytest

from metavae_training.recipes import recipe
from metavae_training.trainer.build import build_model
from metavae_zoo.bundles.bundle import Bundle, open_bundle
from metavae_zoo.bundles.index import shipped_bundles

SHIPPED = sorted(path.name for path in shipped_bundles().iterdir())


@pytest.fixture(params=SHIPPED)
def shipped(request) -> Bundle:
    return open_bundle(shipped_bundles() / request.param)


def test_it_has_the_recipe_of_its_name_and_its_parameters(shipped):
    card, chosen = shipped.card, recipe(shipped.card.name)
    model = build_model(
        chosen, distributions=len(chosen.values), pixels=prod(card.image_shape), seed=0
    )
    assert card.recipe == chosen.to_dict()
    assert card.parameters == model.parameter_counts()
    assert card.train_values == list(chosen.values)


def test_the_terms_of_its_bound_add_up(shipped):
    terms = shipped.card.validation_terms
    of_sets = terms["log_likelihood"] - terms["kl_z"] - shipped.card.validation_elbo
    # KL(c) counts once a set, and an image has its share of it (Eq. 13), by the size of its set.
    smallest, largest = shipped.card.recipe["context_sizes"]
    assert terms["kl_c"] / largest - 1e-3 < of_sets < terms["kl_c"] / smallest + 1e-3


def test_its_graphs_do_not_tell_where_they_were_made(shipped):
    for path in shipped.path.glob("*.onnx"):
        assert b".py" not in path.read_bytes()
