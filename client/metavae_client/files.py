"""Images, summaries and embeddings in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import Embeddings
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadFile, BadImages, MetavaeError
from metavae_zoo.files import whole_file
from metavae_zoo.images import Images, as_images

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP")  # of these, whatever a file is called
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_MAX_SUMMARY = 100_000_000  # bytes, unpacked


@dataclass(frozen=True)
class Reading:
    """How files become images.

    `background` is the brightness, 0-255, that shows where a picture is transparent. `invert`
    exchanges dark and light. `recursive` looks for pictures in the folders of a folder, too.
    """

    background: int = 0
    invert: bool = False
    recursive: bool = False


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images from files: uint8 [N, C, H, W], what each is called, and what was passed over.

    An image is called by its file, with [ROW] in an array and [PAGE] in a TIFF of several pages.
    `passed_over` counts the files of folders that are no pictures.
    """

    images: Images
    names: list[str]
    passed_over: int = 0


def read_images(
    paths: Sequence[Path], card: ModelCard, *, field: str, reading: Reading | None = None
) -> FileImages:
    """Read the images that `paths` name, in their order: .npy arrays, pictures, folders of them.

    A folder's pictures come in the order of their names; hidden files are left out. Pictures are
    turned as their EXIF orientation says and converted to the model's channels (grey, or
    red-green-blue), never resized. Every page of a TIFF is an image; an animation is refused.
    Raises BadFile and BadImages.
    """
    reading = reading or Reading()
    images: list[Images] = []
    names: list[str] = []
    passed_over = 0
    for path in paths:
        files, others = _files(path, reading)
        passed_over += others
        for file in files:
            is_array = file.suffix.lower() == ".npy"
            found = _read_array(file, card, field) if is_array else _picture(file, card, reading)
            images.append(255 - found if reading.invert else found)
            several = is_array or len(found) > 1
            names += [f"{file}[{row}]" for row in range(len(found))] if several else [str(file)]
    if not images:
        raise BadImages(f"{field} is empty, expected at least one image", field=field)
    return FileImages(np.concatenate(images), names, passed_over)


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


def _files(path: Path, reading: Reading) -> tuple[list[Path], int]:
    """The files of a path, and how many others a folder has; hidden files are left out."""
    if not path.is_dir():
        return [path], 0
    below = path.rglob("*") if reading.recursive else path.iterdir()
    there = sorted(
        file
        for file in below
        if not file.is_dir()
        and not any(one.startswith(".") for one in file.relative_to(path).parts)
    )
    found = [file for file in there if file.suffix.lower() in PICTURES]
    if not found:
        folders = any(one.is_dir() for one in path.iterdir())
        raise BadFile(
            f"the folder {path} has no pictures"
            + (f", and {len(there)} other files" if there else ""),
            hint=f"Pictures end in {', '.join(PICTURES)}"
            + ("; --recursive looks into its folders" if folders and not reading.recursive else ""),
        )
    return found, len(there) - len(found)


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


def _picture(path: Path, card: ModelCard, reading: Reading) -> Images:
    """The images of a picture, [page, C, H, W]; raises BadFile and BadImages."""
    from PIL import Image, ImageSequence

    _check_file(path, "")
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages > 1 and picture.format != "TIFF":
                raise BadImages(
                    f"{path} is an animation of {pages} frames, expected one picture",
                    hint="Save the frames that you want as pictures, or give a .npy array",
                )
            found = [_page(page, path, card, reading) for page in ImageSequence.Iterator(picture)]
    except MetavaeError:
        raise
    except Exception as error:  # whatever Pillow comes across in a damaged picture, or a huge one
        raise BadFile(
            f"{path} cannot be read as a picture ({_reason(error, 'it is damaged, or none')})",
            hint=f"Give a .npy array, a picture ({', '.join(PICTURES)}) or a folder of pictures",
        ) from error
    return np.stack(found)


def _page(page: Image, path: Path, card: ModelCard, reading: Reading) -> NDArray[np.uint8]:
    """One page of a picture, [C, H, W]."""
    from PIL import Image, ImageOps

    channels, height, width = card.image_shape
    if page.mode not in _EIGHT_BIT_MODES:
        raise BadImages(
            f"{path} has pixels of mode {page.mode}, expected 8 bits per channel",
            hint="Choose which values are black and white, and convert it to 8 bits; or give the"
            " pixels as a .npy of float32, 0-1",
        )
    page = ImageOps.exif_transpose(page)
    if page.size != (width, height):
        raise BadImages(
            f"{path} is {page.width}x{page.height}, model {card.name} takes {width}x{height}",
            hint="Resize it as the model's family does",
        )
    if page.has_transparency_data:
        ground = Image.new("RGBA", page.size, (*[reading.background] * 3, 255))
        page = Image.alpha_composite(ground, page.convert("RGBA")).convert("RGB")
    pixels = np.asarray(page.convert("L" if channels == 1 else "RGB"))
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _check_file(path: Path, field: str) -> None:
    """Raise BadFile for a pipe or a device, which would be waited for."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadFile(f"{path} is no file", hint="Give a file on a disk", field=field)


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
