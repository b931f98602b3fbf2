"""Images, summaries and embeddings in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embeddings
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadFile, BadImages, MetavaeError
from metavae_zoo.files import whole_file
from metavae_zoo.images import Images, as_images

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")  # of these, whatever a file is called
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_MAX_SUMMARY = 100_000_000  # bytes, unpacked


def read_images(paths: Sequence[Path], card: ModelCard, *, field: str) -> Images:
    """Read the images that `paths` name, in their order: .npy arrays, pictures, folders of them.

    A folder's pictures come in the order of their names. Pictures are converted to the model's
    channels (grey, or red-green-blue), never resized. Raises BadFile and BadImages.
    """
    return np.concatenate([images for _, images in _read(paths, card, field)])


def read_named_images(
    paths: Sequence[Path], card: ModelCard, *, field: str
) -> tuple[Images, list[str]]:
    """The same, and what each image is called: its file, with [ROW] where that is an array."""
    parts = _read(paths, card, field)
    names: list[str] = []
    for file, images in parts:
        is_array = file.suffix == ".npy"
        names += [f"{file}[{row}]" for row in range(len(images))] if is_array else [str(file)]
    return np.concatenate([images for _, images in parts]), names


def _read(paths: Sequence[Path], card: ModelCard, field: str) -> list[tuple[Path, Images]]:
    """Every file, and the images in it."""
    found = [
        (file, _read_array(file, card, field) if file.suffix == ".npy" else _picture(file, card))
        for path in paths
        for file in _files(path)
    ]
    if not found:
        raise BadImages(f"{field} is empty, expected at least one image", field=field)
    return found


def read_summary(path: Path) -> Summary:
    """Read a summary that `write_summary` wrote; raises BadFile."""
    _check_file(path, "summary")
    try:
        with np.load(path, allow_pickle=False) as saved:
            if sum(member.file_size for member in saved.zip.infolist()) > _MAX_SUMMARY:
                raise ValueError("larger than any")
            total, count, model = saved["total"], saved["count"], str(saved["model"])
        if total.dtype.kind not in "fiu" or count.dtype.kind not in "iu" or not model.isprintable():
            raise ValueError("other types than a summary's")
        return Summary(np.asarray(total, np.float64), int(count), model)
    except Exception as error:  # numpy and zipfile raise whatever they come across
        raise BadFile(
            f"{path} cannot be read as a summary ({_reason(error, 'it is none')})",
            hint="Make it with `metavae-client summarize IMAGES --out s.npz`",
            field="summary",
        ) from error


def write_summary(path: Path, summary: Summary) -> None:
    """Write a summary as .npz, whole or not at all; raises BadFile."""

    def save(file: IO[bytes]) -> None:
        np.savez(file, total=summary.total, count=summary.count, model=summary.model)

    _write(path, save)


def write_embeddings(path: Path, embeddings: Embeddings, names: Sequence[str]) -> None:
    """Write the means as .npy, or `mean`, `log_variance` and `image` (its name) as .npz.

    Raises BadFile.
    """

    def save(file: IO[bytes]) -> None:
        if path.suffix == ".npz":
            np.savez(
                file,
                mean=embeddings.mean,
                log_variance=embeddings.log_variance,
                image=np.array(names),
            )
        else:
            np.save(file, embeddings.mean)

    _write(path, save)


def check_output(path: Path, *suffixes: str) -> None:
    """Raise BadFile for a path that could not be written, before the work is done."""
    if path.suffix not in suffixes:
        raise BadFile(
            f"{path} does not end in {' or '.join(suffixes)}",
            hint=f"Give --out like {path.with_suffix(suffixes[0])}",
            field="out",
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK) or path.is_dir():
        raise _unwritable(path, "there is no such folder, or it is not yours to write")


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    if not found:
        raise BadFile(
            f"the folder {path} has no pictures",
            hint=f"Pictures end in {', '.join(PICTURES)}",
        )
    return found


def _read_array(path: Path, card: ModelCard, field: str) -> Images:
    _check_file(path, field)
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever numpy comes across in a damaged file
        raise BadFile(
            f"{path} cannot be read as an array ({_reason(error, 'it is no .npy of numbers')})",
            hint="Write it with `numpy.save`, as uint8 [N, H, W] or [N, C, H, W]",
            field=field,
        ) from error
    return as_images(array, card.image_shape, field=field)


def _picture(path: Path, card: ModelCard) -> Images:
    from PIL import Image

    channels, height, width = card.image_shape
    _check_file(path, "")
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.mode not in _EIGHT_BIT_MODES:
                raise BadImages(
                    f"{path} has pixels of mode {picture.mode}, expected 8 bits per channel",
                    hint="Convert it to 8 bits, or give the pixels as a .npy array",
                )
            if picture.size != (width, height):
                raise BadImages(
                    f"{path} is {picture.width}x{picture.height},"
                    f" model {card.name} takes {width}x{height}",
                    hint="Resize it as the model's family does",
                )
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except MetavaeError:
        raise
    except Exception as error:  # whatever Pillow comes across in a damaged picture, or a huge one
        raise BadFile(
            f"{path} cannot be read as a picture ({_reason(error, 'it is damaged, or none')})",
            hint=f"Give a .npy array, a picture ({', '.join(PICTURES)}) or a folder of pictures",
        ) from error
    return _channels_first(pixels)[None]


def _check_file(path: Path, field: str) -> None:
    """Raise BadFile for a pipe or a device, which would be waited for."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadFile(f"{path} is no file", hint="Give a file on a disk", field=field)


def _channels_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _write(path: Path, save: Callable[[IO[bytes]], None]) -> None:
    try:
        with whole_file(path) as file:
            save(file)
    except OSError as error:
        raise _unwritable(path, _reason(error, "unknown reason")) from error


def _unwritable(path: Path, reason: str) -> BadFile:
    return BadFile(f"{path} cannot be written ({reason})", hint="Give another --out", field="out")


def _reason(error: Exception, otherwise: str) -> str:
    """What the system says is wrong, or `otherwise`."""
    return (isinstance(error, OSError) and error.strerror) or otherwise
