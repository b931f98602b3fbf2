"""A training run on disk: safetensors with everything that resuming and exporting need.

Torch is loaded where tensors are read or written, and not to tell how far a run has come.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from metavae_training.recipes import BadRecipe, Recipe
from metavae_zoo.errors import MetavaeError
from metavae_zoo.files import write_whole
from metavae_zoo.parsing import parse_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Tensors = dict[str, Tensor]

_METADATA = "metavae"
CHECKPOINT = "checkpoint.safetensors"  # a run's file
LOG = "log.jsonl"

Terms = dict[str, float]  # an ELBO and its terms, by the names of Elbo.means


class BadCheckpoint(MetavaeError):
    """A file that is no checkpoint of metavae."""

    code = "bad_checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `epoch` epochs; 0 is the untrained model, -1 not even that.

    `weights` and `optimizer` go on from here; `best` are the weights of `best_epoch`, which had
    the highest validation ELBO so far; `best_validation` is that ELBO and its terms, by the names
    of `Elbo.means`, in nats per image (KL(c) per set).
    """

    recipe: Recipe
    seed: int
    data_sha256: str
    epoch: int
    best_epoch: int
    best_validation: Terms
    weights: Tensors
    best: Tensors
    optimizer: Tensors

    @classmethod
    def start(cls, recipe: Recipe, *, seed: int, data_sha256: str) -> Checkpoint:
        """The state before anything was done."""
        return cls(recipe, seed, data_sha256, -1, -1, {"elbo": float("-inf")}, {}, {}, {})

    @property
    def best_validation_elbo(self) -> float:
        """The highest validation ELBO so far, in nats per image."""
        return self.best_validation["elbo"]

    def after_epoch(
        self,
        epoch: int,
        validation: Terms,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> Checkpoint:
        """The state after one more epoch, on copies of the weights."""
        weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        better = validation["elbo"] > self.best_validation_elbo
        return dataclasses.replace(
            self,
            epoch=epoch,
            best_epoch=epoch if better else self.best_epoch,
            best_validation=validation if better else self.best_validation,
            weights=weights,
            best=weights if better else self.best,
            optimizer={
                f"{index}.{name}": value.detach().cpu().clone()
                for index, state in optimizer.state_dict()["state"].items()
                for name, value in state.items()
            },
        )

    def restore(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimizer back as they were; raises BadCheckpoint if they cannot be."""
        load_weights(model, self.weights)
        state: dict[int, Tensors] = {}
        for key, value in self.optimizer.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        if self.epoch > 0 and not state:
            raise _not_ours("the checkpoint", "it has no state of the optimizer")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_weights(model: torch.nn.Module, weights: Tensors) -> None:
    """Put weights into a model; raises BadCheckpoint where they are another model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # tensors that are missing, of another name or another shape
        raise _not_ours("the checkpoint", error) from error


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the one before it stays until the new one is whole."""
    from safetensors.torch import save

    tensors = {
        f"{group}.{name}": value.contiguous()
        for group in ("weights", "best", "optimizer")
        for name, value in getattr(checkpoint, group).items()
    }
    if checkpoint.best is checkpoint.weights:  # safetensors refuses shared memory
        tensors = {
            name: v.clone() if name.startswith("best.") else v for name, v in tensors.items()
        }
    metadata = {
        field.name: getattr(checkpoint, field.name)
        for field in dataclasses.fields(checkpoint)
        if field.name not in ("weights", "best", "optimizer", "recipe")
    } | {"recipe": checkpoint.recipe.to_dict()}
    write_whole(path, save(tensors, {_METADATA: json.dumps(metadata)}))


def load_checkpoint(path: Path, *, tensors: bool = True) -> Checkpoint:
    """Read a checkpoint; raises BadCheckpoint for anything else.

    Without `tensors`, only what it says of its run, which takes no time.
    """
    if path.is_dir():
        raise _not_ours(path, "it is a folder")
    groups: dict[str, Tensors] = {"weights": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt" if tensors else "np") as file:
            metadata = parse_json(file.metadata()[_METADATA])
            for key in file.keys() if tensors else ():
                group, name = key.split(".", 1)
                groups[group][name] = file.get_tensor(key)
        return Checkpoint(
            recipe=Recipe.from_dict(metadata["recipe"]),
            seed=int(metadata["seed"]),
            data_sha256=str(metadata["data_sha256"]),
            epoch=int(metadata["epoch"]),
            best_epoch=int(metadata["best_epoch"]),
            best_validation=_terms(metadata["best_validation"]),
            weights=groups["weights"],
            best=groups["best"],
            optimizer=groups["optimizer"],
        )
    except (
        OSError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        BadRecipe,
    ) as error:
        raise _not_ours(path, f"{type(error).__name__}: {error}") from error


def _terms(found: dict[str, float]) -> Terms:
    """The terms of a validation, the ELBO first."""
    return {"elbo": float(found["elbo"])} | {name: float(nats) for name, nats in found.items()}


def _not_ours(what: object, reason: object) -> BadCheckpoint:
    said = " ".join(str(reason).split())[:300]
    return BadCheckpoint(
        f"{what} is not a metavae checkpoint, or of another version ({said})",
        hint="Give the checkpoint.safetensors of a `metavae-train run`; move a damaged one away,"
        " and its run starts anew",
    )
