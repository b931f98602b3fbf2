"""Supervised networks of the exam: what labels and augmentation reach without a context."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from metavae_training.paper.transfer.exam import Exam, Labels
from metavae_zoo.families import scanner
from metavae_zoo.families.site import render
from metavae_zoo.families.warp import warp
from metavae_zoo.images import Images

DRAWN_SITES = 400  # of the family, to be augmented by
_FIRST = 100_000  # number of the first drawn site: beyond the family's own
_SEED = 20_200_208

# Of the generic augmentation, each way.
_ROTATION, _LOG_SIZE, _SHEAR, _SHIFT = math.radians(30), 0.25, 0.2, 2.0


def generic_affine(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, C, H, W], turned up to 30 degrees, scaled (-22 to 28%), sheared, moved."""
    draw = 2 * torch.rand(5, len(x), generator=generator) - 1
    angle, size, shear = _ROTATION * draw[0], (_LOG_SIZE * draw[1]).exp(), _SHEAR * draw[2]
    cosine, sine = size * angle.cos(), size * angle.sin()
    shift = _SHIFT * 2 / x.shape[-1] * draw[3:]
    rows = [
        [cosine, cosine * shear - sine, shift[0]],
        [sine, sine * shear + cosine, shift[1]],
    ]
    matrices = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).to(x.device)
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def labelled(exam: Exam) -> tuple[Images, Labels]:
    """The training images of all training sites together, and their labels."""
    rows = {value: exam.rows(value, "train") for value in exam.trained}
    return (
        np.concatenate([exam.images(value, "train", at) for value, at in rows.items()]),
        np.concatenate([exam.labels("train", at) for at in rows.values()]),
    )


def drawn_from_the_family(exam: Exam) -> tuple[Images, Labels]:
    """The same base images, each at one of `DRAWN_SITES` sites that the family is drawn from anew.

    Families over a line of values take any value between the first and the last.
    """
    source = exam.source
    base, labels = source.dataset.load("train", exam.data_root)
    rows = np.concatenate([exam.rows(value, "train") for value in exam.trained])
    rows = np.random.default_rng(_SEED).permutation(rows)
    parts = [part for part in np.array_split(rows, DRAWN_SITES) if len(part)]
    images = [_at_new_site(exam, base[part], number) for number, part in enumerate(parts)]
    return np.concatenate(images)[:, None], labels[rows]


def _at_new_site(exam: Exam, images: Images, number: int) -> Images:
    axis, side = exam.source.axis, exam.source.image_shape[-1]
    if axis.name == "site":
        kind = cast(scanner.Kind, exam.family.rpartition("-")[2])
        site = scanner.draw_site(kind, _FIRST + number)
        return render(images, site, (_SEED, number), side)
    value = np.random.default_rng((_SEED, number)).uniform(axis.values[0], axis.values[-1])
    return warp(images, axis.matrix(float(value)), axis.interpolation, side)
