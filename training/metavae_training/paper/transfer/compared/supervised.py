"""Cells of supervised networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from metavae_training.paper.measure.ceiling import Augment, Ceiling, accuracy_of, trained_network
from metavae_training.paper.measure.condition import NONE, Condition
from metavae_training.paper.measure.study import Study
from metavae_training.paper.transfer.cells import Asked, ExamCell, Numbers
from metavae_training.paper.transfer.coding import ImagesOf, as_they_are
from metavae_training.paper.transfer.compared.networks import (
    drawn_from_the_family,
    generic_affine,
    labelled,
)
from metavae_training.paper.transfer.exam import Exam
from metavae_training.paper.transfer.rows import CNN_AFFINE, CNN_CANONICAL, CNN_FAMILY
from metavae_training.paper.transfer.undoing import inferred_site
from metavae_training.sweeps.jobs import Job
from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.families import Part
from metavae_zoo.families import family as family_named
from metavae_zoo.images import Images

NETWORK_CONTEXT = 10  # images, under which networks see canonical images
_NETWORK, _QUICK_NETWORK = Ceiling(steps=1600), Ceiling(steps=40)
# For 400 sites of drawn families: after 1,600 steps it has not learned its own training images.
_LONG_NETWORK = Ceiling(channels=(32, 64), hidden=256, steps=9600)


@dataclass(frozen=True)
class NetworkCell(ExamCell):
    """A supervised network with the labels of the training sites."""

    canonical: Job | None = None  # of the model that makes canonical images

    @property
    def what(self) -> str:
        """All there is."""
        return "trained"

    @property
    def job(self) -> Job | None:
        """The model that makes canonical images, where the row has them."""
        return self.canonical

    @property
    def network(self) -> Ceiling:
        """How the network is trained."""
        if self.study.quick:
            return _QUICK_NETWORK
        drawn = family_named(self.family).axis.name == "site"
        return _LONG_NETWORK if self.row == CNN_FAMILY and drawn else _NETWORK

    @property
    def settings(self) -> dict[str, Any]:
        """The network's, and the recipe of the canonical images."""
        canonical = {"canonical": self.canonical.recipe.to_dict()} if self.canonical else {}
        return {"row": self.row.name, **asdict(self.network), **canonical}

    @property
    def item_seed(self) -> int:
        """The network's."""
        return self.seed

    @property
    def condition(self) -> Condition:
        """The contexts that canonical images are made under."""
        return Condition("own", NETWORK_CONTEXT) if self.canonical else NONE

    def ready(self, study: Study) -> bool:
        """Whether the study trains: measuring it is training it."""
        return study.train and super().ready(study)

    def asked(self) -> set[Asked]:
        """Every held-out site."""
        return {Asked(self.row.name, self.condition, value) for value in self.exam.held_out}

    def numbers(self, bundle: Bundle | None) -> Numbers:
        """Train the network, and test it at every site."""
        exam, device = self.exam, torch.device("cpu")
        images = _canonical_images(exam, bundle) if bundle else as_they_are
        augment: Augment | None = generic_affine if self.row == CNN_AFFINE else None
        if self.row == CNN_FAMILY:
            taught = drawn_from_the_family(exam)
        elif self.row == CNN_CANONICAL:
            found = [images(exam, value, "train") for value in exam.trained]
            labels = [exam.labels("train", exam.rows(value, "train")) for value in exam.trained]
            taught = np.concatenate(found), np.concatenate(labels)
        else:
            taught = labelled(exam)
        network = trained_network(
            taught, self.network, seed=self.seed, device=device, augment=augment
        )
        labels = exam.labels("test", exam.rows(exam.held_out[0], "test"))
        return {
            Asked(self.row.name, self.condition, value): {
                "accuracy": accuracy_of(network, images(exam, value, "test"), labels, device)
            }
            for value in exam.held_out
        }


def _canonical_images(exam: Exam, bundle: Bundle) -> ImagesOf:
    """Images in the canonical frame, by the site that a model infers from a context."""
    embedder = OnnxEmbedder(bundle, threads=1)
    side = exam.source.image_shape[-1]

    def images(exam: Exam, value: float, part: Part) -> Images:
        rows = exam.context_rows(value, part, NETWORK_CONTEXT, 0)
        site = embedder.site(embedder.summarize(exam.images(value, part, rows)))
        return inferred_site(embedder.card, site, side)(as_they_are(exam, value, part))

    return images
