"""What counts as images: the one gate through which every array of images comes in."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metavae_zoo.errors import BadImages

Images = NDArray[np.uint8]  # [image, channel, row, column]


def as_images(array: ArrayLike, image_shape: tuple[int, int, int], *, field: str) -> Images:
    """Return `array` as uint8 images [N, C, H, W]; `image_shape` is (C, H, W).

    Takes [N, H, W] (for one channel) or [N, C, H, W]; uint8 of 0-255, or floating point of 0-1,
    which is rounded to 8 bits; uint8 is not copied. Raises BadImages, naming `field`, else.
    """
    try:
        images = np.asarray(array)
    except ValueError as error:  # rows of different lengths
        raise BadImages(
            f"{field} is no array ({error})", hint="Make all images of one size", field=field
        ) from error
    channels, height, width = image_shape
    layouts = [(channels, height, width)] + ([(height, width)] if channels == 1 else [])
    if tuple(images.shape[1:]) not in layouts or images.ndim < 3:
        expected = " or ".join(f"[N, {', '.join(map(str, layout))}]" for layout in layouts[::-1])
        raise BadImages(
            f"{field} has shape {list(images.shape)}, expected {expected}",
            hint=_shape_hint(images.shape, image_shape),
            field=field,
        )
    if len(images) == 0:
        raise BadImages(
            f"{field} is empty, expected at least one image",
            hint="Give one image or more",
            field=field,
        )
    return _as_bytes(images, field).reshape(-1, channels, height, width)


def _shape_hint(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> str:
    channels, height, width = image_shape
    sides = sorted(image_shape)
    if shape in ((height, width), image_shape):
        return "This is one image: give it a first axis, `images[None]`"
    if sorted(shape[1:]) == sides:
        return "The channels come first: `np.moveaxis(images, -1, 1)`"
    if len(shape) <= 2 and math.prod(shape) % math.prod(image_shape) == 0:
        return f"Images are flattened here: `images.reshape(-1, {channels}, {height}, {width})`"
    return "Resize the images to the model's own size, one array for all of them"


def _as_bytes(images: NDArray, field: str) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise BadImages(
            f"{field} has type {images.dtype}, expected uint8 (0-255) or float32 (0-1)",
            hint="Convert with `.astype('uint8')` if the pixels are 0-255",
            field=field,
        )
    if not np.isfinite(images).all():
        raise BadImages(
            f"{field} holds NaN or infinite values, expected finite pixels of 0-1",
            hint="Clean the images, or send uint8",
            field=field,
        )
    low, high = float(images.min()), float(images.max())
    if low < 0.0 or high > 1.0:
        raise BadImages(
            f"{field} holds floating point pixels of {low:.9g} to {high:.9g}, expected 0 to 1",
            hint="Bring them to 0-1 (of 0-255: divide by 255; of -1 to 1: add 1 and halve), or send"
            " uint8",
            field=field,
        )
    return np.rint(images * 255).astype(np.uint8)
