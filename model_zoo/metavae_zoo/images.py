"""What counts as images: the one gate through which every array of images comes in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import BadImages

Images = NDArray[np.uint8]  # [image, channel, row, column]


_PICTURE_MODES = (None, "1", "L", "RGB")  # of PIL, whose numbers are the pixels
_ROUNDING = 1e-3  # of 0-1: resizing leaves the range by less, and it is under a level of 8 bits


def as_images(array: Any, image_shape: tuple[int, int, int], *, field: str) -> Images:
    """Return `array` as uint8 images [N, C, H, W]; `image_shape` is (C, H, W).

    Takes [N, H, W] (for one channel) or [N, C, H, W], as arrays, torch tensors on any device, or
    lists of these or of pictures; uint8 of 0-255, floating point of 0-1, which is rounded to 8
    bits, or bool; uint8 is not copied. Raises BadImages, naming `field`, else.
    """
    images = _as_array(array, field)
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


def _as_array(given: Any, field: str) -> NDArray:
    """What numpy makes of arrays, tensors, pictures and lists of them; raises BadImages."""
    if isinstance(given, str | os.PathLike) or _holds(given, str | os.PathLike):
        raise BadImages(
            f"{field} is a path, expected images",
            hint="Read pictures first, such as with PIL: `np.stack([np.asarray(Image.open(path)"
            ".convert('L')) for path in paths])`",
            field=field,
        )
    if isinstance(given, Iterator) or _holds(given, Iterator):
        raise BadImages(
            f"{field} is a {type(given).__name__}, expected an array",
            hint="Make it a list first: `list(images)`",
            field=field,
        )
    if isinstance(given, list | tuple) and any(map(_needs_care, given)):
        given = [_as_array(one, field) for one in given]
    elif (mode := _picture_mode(given)) not in _PICTURE_MODES:
        raise BadImages(
            f"{field} holds a picture of mode {mode}, expected L or RGB",
            hint="Convert it: `picture.convert('L')`, over a background where it has alpha",
            field=field,
        )
    if np.ma.is_masked(given):
        raise BadImages(
            f"{field} has masked pixels", hint="Fill them: `images.filled(0)`", field=field
        )
    try:
        if hasattr(given, "detach"):
            return _from_torch(given)
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, say
        raise BadImages(
            f"{field} is no array ({error})", hint="Make all images of one size", field=field
        ) from error


def _picture_mode(given: Any) -> str | None:
    """The mode of a PIL picture; None of anything else (a memory map has a mode of its own)."""
    mode = None if isinstance(given, np.ndarray) else getattr(given, "mode", None)
    return mode if isinstance(mode, str) else None


def _from_torch(tensor: Any) -> NDArray:
    """A torch tensor as an array: it may have a gradient, be on a device, or of bfloat16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _holds(given: Any, kind: Any) -> bool:
    return isinstance(given, list | tuple) and any(isinstance(one, kind) for one in given)


def _needs_care(one: Any) -> bool:
    """Whether numpy would not read `one`, of a list, as it is meant: a tensor or a picture."""
    return hasattr(one, "detach") or _picture_mode(one) is not None or np.ma.is_masked(one)


def _shape_hint(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> str:
    channels, height, width = image_shape
    sides = sorted(image_shape)
    if shape in ((height, width), image_shape):
        return "This is one image: give it a first axis, `images[None]`"
    if shape[1:] == (height, width, 3) and channels == 1:
        return "The images are red-green-blue: make them grey, `images.mean(-1)` or `.convert('L')`"
    if sorted(shape[1:]) == sides:
        return "The channels come first: `np.moveaxis(images, -1, 1)`"
    if len(shape) <= 2 and math.prod(shape) % math.prod(image_shape) == 0:
        return f"Images are flattened here: `images.reshape(-1, {channels}, {height}, {width})`"
    return "Resize the images to the model's own size, one array for all of them"


def _as_bytes(images: NDArray, field: str) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise BadImages(
            f"{field} has type {images.dtype}, expected uint8 (0-255) or float32 (0-1)",
            hint=_type_hint(images),
            field=field,
        )
    if not np.isfinite(images).all():
        raise BadImages(
            f"{field} holds NaN or infinite values, expected finite pixels of 0-1",
            hint="Clean the images, or send uint8",
            field=field,
        )
    low, high = float(images.min()), float(images.max())
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        raise BadImages(
            f"{field} holds floating point pixels of {low:.9g} to {high:.9g}, expected 0 to 1",
            hint="Bring them to 0-1 (of 0-255: divide by 255; of -1 to 1: add 1 and halve), or send"
            " uint8",
            field=field,
        )
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8)


def _type_hint(images: NDArray) -> str:
    """What to do about images of another type, by the range of their numbers."""
    if not np.issubdtype(images.dtype, np.integer):
        return "Give numbers: uint8, or float32 of 0-1"
    low, high = int(images.min()), int(images.max())
    if low >= 0 and high <= 1:
        return "Pixels of 0 and 1 are `images * 255` in uint8"
    if low >= 0 and high <= 255:
        return "Convert with `.astype('uint8')`: the pixels are 0-255"
    return (
        f"The pixels are {low} to {high}: choose which are black and white, and give"
        " `((images - black) / (white - black)).clip(0, 1)` as float32"
    )
