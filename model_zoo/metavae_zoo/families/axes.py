"""The axes of variation of the paper's MNIST families, and its three splits of their values.

Source: Wu et al., "Meta-Amortized Variational Inference and Learning" (AAAI 2020), and the
authors' released code. Each transform is an explicit output-to-input matrix, see `warp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.families.parts import Part
from metavae_zoo.families.warp import Affine, Interpolation, warp


@dataclass(frozen=True)
class Axis:
    """One way in which distributions differ: a transform and the values it takes.

    `splits` maps a split to the indices of its training values; the other values are held out.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    matrix: Callable[[float], Affine]
    interpolation: Interpolation
    splits: dict[str, tuple[int, ...]]

    def change(self, value: float) -> float:
        """How much the transform at `value` changes an image: its matrix less the identity's."""
        return float(np.linalg.norm(self.matrix(value) - np.eye(2, 3)))

    def least_changing(self, values: Sequence[float]) -> float:
        """The value among these whose transform changes an image least."""
        return min(values, key=self.change)

    def render(
        self, images: NDArray[np.uint8], value: float, part: Part, side: int
    ) -> NDArray[np.uint8]:
        """Images [N, side, side] of the distribution at `value`, the same bits on every call.

        images: all images [N, H, W] of the part, untransformed.
        """
        return warp(images, self.matrix(value), self.interpolation, side)

    def fingerprint(self, value: float, part: Part) -> tuple[object, ...]:
        """Everything but images and side that `render` depends on; its repr is part of a key."""
        return (np.round(self.matrix(value), 12).tolist(), self.interpolation)

    def site(self, value: float) -> dict[str, Any]:
        """Parameters of a drawn site, as JSON; empty where the value itself tells the transform."""
        return {}


def rotation(degrees: float) -> Affine:
    """Rotate counter-clockwise as seen, by nearest pixel."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])


def scale(factor: float) -> Affine:
    """Crop a centred square of `factor` times the side and resize it: below 1 enlarges."""
    return np.array([[factor, 0, 0], [0, factor, 0]])


def skew(degrees: float) -> Affine:
    """The released code's shear: flattens the image by |cos|, and flips it past 90 degrees.

    Not the pure shear of torchvision since 0.5, whose period is 180 degrees: with it every
    held-out value of two splits is pixel for pixel a training one.
    """
    angle = np.deg2rad(degrees)
    return np.array([[1, np.tan(angle), 0], [0, 1 / np.cos(angle), 0]])


_TURN = tuple(float(degrees) for degrees in range(-180, 180, 20))
_TURN_SPLITS = {
    "interleaved": tuple(range(0, 18, 2)),
    "sparse": (1, 5, 9, 13, 17),
    "contiguous": tuple(range(10)),
}

ROTATION = Axis("rotation", "degrees", _TURN, rotation, "nearest", _TURN_SPLITS)
SKEW = Axis("skew", "degrees", _TURN, skew, "nearest", _TURN_SPLITS)
SCALE = Axis(
    "scale",
    "crop side / image side",
    tuple(tenths / 10 for tenths in range(5, 20)),
    scale,
    "bilinear",
    {
        "interleaved": tuple(range(0, 15, 2)),
        "sparse": (1, 5, 9, 13),
        "contiguous": tuple(range(8)),
    },
)
