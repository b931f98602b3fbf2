"""Claims about batches: who is a query, and who may be in its context."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from metavae_training.recipes import recipe
from metavae_training.trainer.build import build_model
from metavae_training.trainer.data import Corpus, batches, load_corpus
from metavae_training.trainer.epochs import validate
from metavae_zoo.families import family


def numbered_images(distributions: int, count: int) -> torch.Tensor:
    """Images whose two pixels say which they are: [distribution, image, 2]."""
    rows = torch.arange(count, dtype=torch.uint8).expand(distributions, -1)
    columns = torch.arange(distributions, dtype=torch.uint8)[:, None].expand(-1, count)
    return torch.stack([rows, columns], dim=-1)


def all_batches(seed: int = 0, **settings):
    settings = {"batch_size": 20, "sets": 4, "context_sizes": (2, 9)} | settings
    generator = torch.Generator().manual_seed(seed)
    return list(batches(numbered_images(3, 200), generator=generator, **settings))


def test_contexts_exclude_their_queries_and_come_from_the_same_distribution():
    for batch in all_batches():
        queries, contexts = (
            (255 * pixels).round().int() for pixels in (batch.queries, batch.contexts)
        )
        for distribution in range(3):
            assert (queries[distribution, ..., 1] == distribution).all()
            assert (contexts[distribution, ..., 1] == distribution).all()
            seen = set(queries[distribution, ..., 0].flatten().tolist())
            assert not seen & set(contexts[distribution, ..., 0].flatten().tolist())


def test_context_sizes_vary_within_their_range():
    sizes = {batch.contexts.shape[2] for seed in range(5) for batch in all_batches(seed)}
    assert min(sizes) >= 2
    assert max(sizes) <= 9
    assert len(sizes) > 4


def test_every_image_is_a_query_once_an_epoch():
    queries = torch.cat([batch.queries.flatten(1, 2) for batch in all_batches()], dim=1)
    for distribution in range(3):
        numbers = (255 * queries[distribution, :, 0]).round().int()
        assert sorted(numbers.tolist()) == list(range(200))


def test_validation_images_are_no_training_images():
    corpus = load_corpus(recipe("metavae-digits-rotation-sparse"), None, torch.device("cpu"))
    assert corpus.train.shape == (5, 1100, 784)
    assert corpus.validation.shape == (5, 197, 784)
    for train, validation in zip(corpus.train, corpus.validation, strict=True):
        seen = {bytes(image.numpy()) for image in train}
        assert not seen & {bytes(image.numpy()) for image in validation}


def test_validation_images_are_of_the_same_base_images_in_every_distribution(monkeypatch):
    """Or a digit would be trained on at one rotation, and validated on at another."""
    numbers = np.arange(500)  # of a base image, as its first two pixels
    images = np.zeros((500, 1, 28, 28), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = numbers // 256, numbers % 256
    source = type(family("digits-rotation"))
    monkeypatch.setattr(source, "images_at", lambda _, values, part, root: [images] * len(values))
    monkeypatch.setattr(source, "labels", lambda _, part, root: numbers)
    corpus = load_corpus(recipe("metavae-digits-rotation-sparse"), None, torch.device("cpu"))
    validation = corpus.validation[..., :2].int() @ torch.tensor([256, 1], dtype=torch.int32)
    assert (validation == validation[0]).all()
    assert len(validation[0].unique()) == 197


@pytest.mark.parametrize("model", ["metavae", "vhe", "neural-statistician"])
def test_the_epoch_is_chosen_without_a_look_at_training_images(model):
    short = dataclasses.replace(recipe(f"{model}-digits-rotation-sparse"), validation_size=197)
    corpus = load_corpus(short, None, torch.device("cpu"))
    poisoned = Corpus(torch.randint_like(corpus.train, 256), corpus.validation)
    untrained = build_model(short, distributions=corpus.distributions, pixels=784, seed=0)
    terms = validate(untrained, corpus, short, 0)
    assert validate(untrained, poisoned, short, 0) == terms
    blank = Corpus(corpus.train, torch.zeros_like(corpus.validation))
    assert validate(untrained, blank, short, 0) != terms
