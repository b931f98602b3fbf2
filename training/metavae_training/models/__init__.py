"""The models: one file each, one base for all, so that one loop trains them."""

from metavae_training.models.base import Batch, Model
from metavae_training.models.metavae import MetaVAE

MODELS: dict[str, type[Model]] = {"metavae": MetaVAE}

__all__ = ["MODELS", "Batch", "MetaVAE", "Model"]
