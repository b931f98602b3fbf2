"""What bf16 costs: the same short trainings in both precisions, seed by seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from metavae_training.fit import fit
from metavae_training.recipes import Precision, Recipe
from metavae_zoo.statistics import confidence_interval

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def compare_precisions(
    recipe: Recipe, *, seeds: int, epochs: int, device: torch.device
) -> dict[str, Any]:
    """Validation ELBO of trainings in fp32 and bf16, in nats per image, and their difference.

    A seed's two trainings start at the same weights and draw the same batches, contexts and noise;
    the difference (bf16 - fp32) is paired by seed, with a 95% interval. Validation itself is in
    fp32 for both, so what is compared is what was learnt; a KL(z) of 0 tells that it is nothing.
    """
    short = dataclasses.replace(recipe, epochs=epochs, kl_warm_up_epochs=epochs)
    elbos: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    kl_z: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tqdm(total=2 * seeds, desc="ELBO by precision", unit=" runs", disable=None) as bar:
        for seed in range(seeds):
            for precision in PRECISIONS:
                run = dataclasses.replace(short, precision=precision)
                with TemporaryDirectory() as folder:
                    trained = fit(run, out=Path(folder), seed=seed, device=device)
                elbos[precision].append(trained.best_validation_elbo)
                kl_z[precision].append(trained.best_validation["kl_z"])
                bar.update()
    differences = [bf16 - fp32 for fp32, bf16 in zip(elbos["fp32"], elbos["bf16"], strict=True)]
    return {
        "recipe": recipe.name,
        "epochs": epochs,
        "seeds": list(range(seeds)),
        "validation_elbo": elbos,
        "validation_kl_z": kl_z,
        "bf16_minus_fp32": confidence_interval(differences).model_dump(),
    }
