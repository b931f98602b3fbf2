"""A model on disk: a folder of graphs, golden outputs and the card that vouches for them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metavae_zoo.bundles.card import RESTORE, ModelCard
from metavae_zoo.errors import BadBundle
from metavae_zoo.files import replacing_folder
from metavae_zoo.places import AnyPath

CARD = "card.json"
SUMMARIZE = "summarize.onnx"
ENCODE = "encode.onnx"
SITE = "site.onnx"  # of models that infer the parameters of the context's site
GOLDEN = "golden.safetensors"
_FILES = {CARD, SUMMARIZE, ENCODE, SITE, GOLDEN}
_MAX_CARD = 1_000_000  # bytes; a card takes some 4,000


@dataclass(frozen=True)
class Bundle:
    """A folder whose every file has the hash that its card states."""

    path: Path
    card: ModelCard

    @property
    def files(self) -> list[Path]:
        """All files of the bundle, the card first."""
        return [self.path / CARD, *(self.path / name for name in sorted(self.card.files))]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_bundle(path: AnyPath) -> Bundle:
    """Read the bundle at `path` and check every file against the card.

    Raises BadBundle when a file is missing or changed, or the card is of a newer schema.
    """
    path = Path(path)
    card_path = path / CARD
    if not card_path.is_file():
        raise BadBundle(
            f"{path} is not a model bundle: it has no {CARD}",
            hint="Give the folder that `metavae-train export` or `metavae-zoo pull` wrote",
        )
    card = read_card(card_path, source=str(card_path))
    for name, sha256 in card.files.items():
        check_file(path / name, sha256)
    return Bundle(path, card)


def read_card(path: Path, *, source: str) -> ModelCard:
    """Read a card that lists the files of a bundle and no others; `source` names it in errors.

    Raises BadBundle.
    """
    _refuse_link(path)
    if (size := path.stat().st_size) > _MAX_CARD:
        raise BadBundle(
            f"{source} has {size} bytes, a model card at most {_MAX_CARD}",
            hint=RESTORE,
        )
    card = ModelCard.from_json(path.read_bytes(), source=source)
    expected = {ENCODE, GOLDEN}
    if card.needs_context:
        expected.add(SUMMARIZE)
    if card.site:
        expected.add(SITE)
    if set(card.files) != expected:
        raise BadBundle(
            f"{source} lists the files {sorted(card.files)}, expected {sorted(expected)}",
            hint="Export the model again: `metavae-train export CHECKPOINT`",
        )
    return card


def _refuse_link(path: Path) -> None:
    """Raise BadBundle for a symbolic link: what it leads to is not the bundle's, and may change."""
    if path.is_symlink():
        raise BadBundle(
            f"{path} is a symbolic link to {os.readlink(path)}, a bundle holds its own files",
            hint="Put a copy of the file in its place",
        )


def check_file(path: Path, sha256: str) -> None:
    """Raise BadBundle unless the file is there, itself and no link, and has this sha256."""
    _refuse_link(path)
    if not path.is_file():
        raise BadBundle(
            f"{path} is missing",
            hint=RESTORE,
        )
    found = sha256_of(path)
    if found != sha256:
        raise BadBundle(
            f"{path} has changed since it was made: sha256 {found[:12]}…, expected {sha256[:12]}…",
            hint=RESTORE,
        )


def check_replaceable(path: Path) -> None:
    """Raise BadBundle if a bundle written to `path` would take away anything but a bundle."""
    others = sorted({file.name for file in path.iterdir()} - _FILES) if path.is_dir() else []
    if others or (path.exists() and not path.is_dir()):
        holds = f"it holds {others[0]}" if others else "it is a file"
        raise BadBundle(
            f"{path} is to become a model's folder, and is something else: {holds}",
            hint="Choose another folder, or move this one away; nothing in it was changed",
        )


def write_bundle(
    path: Path, card: ModelCard, files: dict[str, bytes], *, verify: Callable[[Bundle], object]
) -> Bundle:
    """Write a bundle whole or not at all; the hashes of `files` are put on the card.

    `verify` sees the bundle before it takes the place of `path`, and stops it by raising. Raises
    BadBundle where `path` is anything but a bundle.
    """
    check_replaceable(path)
    with replacing_folder(path) as scratch:
        for name, content in files.items():
            (scratch / name).write_bytes(content)
        hashes = {name: sha256_of(scratch / name) for name in files}
        (scratch / CARD).write_text(card.model_copy(update={"files": hashes}).to_json())
        verify(open_bundle(scratch))
    return open_bundle(path)


def copy_bundle(bundle: Bundle, target: Path, *, card: ModelCard | None = None) -> Bundle:
    """Copy a bundle to `target`, whole and verified or not at all; `card` takes its card's place.

    The bundle that was at `target` is replaced; raises BadBundle for anything else there.
    """
    check_replaceable(target)
    with replacing_folder(target) as scratch:
        for file in bundle.files:
            shutil.copyfile(file, scratch / file.name)
        if card is not None:
            (scratch / CARD).write_text(card.to_json())
        open_bundle(scratch)
    return open_bundle(target)
