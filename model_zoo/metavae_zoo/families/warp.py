"""Affine warps of images by explicit matrices, independent of any library's version.

A warp maps an *output* position to the *input* position that its pixel is read from, in pixels,
both measured from the centre of their image: `input = matrix @ output`. Pixels outside the input
are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Affine = NDArray[np.float64]  # [2, 3], rows x and y: output position (x, y, 1) -> input (x, y)
Interpolation = Literal["nearest", "bilinear"]

_CHUNK = 8192  # images at a time: bounds the float copy


def warp(
    images: NDArray[np.uint8], matrix: Affine, interpolation: Interpolation, side: int
) -> NDArray[np.uint8]:
    """Warp images [N, H, W] into [N, side, side]."""
    count, height, width = images.shape
    weights = resampling_weights((height, width), matrix, interpolation, side)
    warped = np.empty((count, side * side), np.uint8)
    for start in range(0, count, _CHUNK):
        chunk = images[start : start + _CHUNK].reshape(-1, height * width)
        warped[start : start + _CHUNK] = np.rint((weights @ chunk.T.astype(np.float32)).T)
    return warped.reshape(-1, side, side)


def resampling_weights(
    shape: tuple[int, int], matrix: Affine, interpolation: Interpolation, side: int
) -> csr_array:
    """The warp as a sparse linear map from input pixels to output pixels, [side², H·W]."""
    height, width = shape
    x, y = matrix @ np.vstack([centred_positions(side), np.ones(side * side)])
    return sampling_weights(shape, x + (width - 1) / 2, y + (height - 1) / 2, interpolation)


def centred_positions(side: int) -> NDArray[np.float64]:
    """Positions (x, y) of the pixels of a square image from its centre, in pixels, [2, side²]."""
    rows, columns = np.indices((side, side), np.float64)
    centre = (side - 1) / 2
    return np.stack([columns.ravel() - centre, rows.ravel() - centre])


def sampling_weights(
    shape: tuple[int, int],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    interpolation: Interpolation,
) -> csr_array:
    """Sparse map [P, H·W] that reads the input at P positions, in pixels from its first pixel."""
    from scipy.sparse import csr_array  # scipy takes longer to load than all of a command's --help

    height, width = shape
    # Each output pixel reads its input neighbours (x, y) with these weights.
    if interpolation == "nearest":
        # The tie-break towards +inf is fixed here: rint would round halves to even numbers, and
        # rounding error would decide them. The 1e-9 absorbs that error.
        taps = [(np.floor(x + 0.5 + 1e-9), np.floor(y + 0.5 + 1e-9), np.ones_like(x))]
    else:
        left, top = np.floor(x), np.floor(y)
        taps = [
            (
                left + dx,
                top + dy,
                np.abs(1 - dx - (x - left)) * np.abs(1 - dy - (y - top)),
            )
            for dx in (0, 1)
            for dy in (0, 1)
        ]

    entries = []
    pixel = np.arange(len(x))
    for column, row, weight in taps:
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        source = (row * width + column)[inside].astype(np.intp)
        entries.append((pixel[inside], source, weight[inside]))
    output_index, input_index, values = (
        np.concatenate(part) for part in zip(*entries, strict=True)
    )
    return csr_array(
        (values.astype(np.float32), (output_index, input_index)),
        shape=(len(x), height * width),
    )
