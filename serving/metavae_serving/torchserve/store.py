"""What a store may hold when a server starts over it: the archives that were packed, and no others.

TorchServe unpacks every archive and serves every folder that it finds in a store, and an archive
holds code. So packing writes the sha256 of each beside them, as `sha256sum` does, and a start
compares: what was changed since, or put in its place, is not even opened as an archive. Inside,
an archive says how its model is served, and the store's configuration must say the same.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from metavae_serving.errors import BadStore
from metavae_serving.settings import ModelSettings
from metavae_zoo.bundles.bundle import sha256_of

ARCHIVE = ".mar"
SUMS = "SHA256SUMS"
MODEL_CONFIGURATION = "model-config.yaml"  # of an archive: TorchServe's name for it

_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_MAX_SUMS = 1_000_000  # bytes
_MAX_BYTES = 2_000_000_000  # of one archive


def sums(folder: Path) -> str:
    """The text of a store's `SHA256SUMS`: a line for each archive in `folder`."""
    archives = sorted(folder.glob(f"*{ARCHIVE}"))
    return "".join(f"{sha256_of(archive)}  {archive.name}\n" for archive in archives)


def check_contents(store: Path, models: Mapping[str, ModelSettings]) -> None:
    """Raise BadStore unless `store` has the archives of these models, as packed, and no others."""
    expected = {f"{name}{ARCHIVE}" for name in models}
    try:
        for path in sorted(store.iterdir()):
            if path.is_symlink():
                raise ValueError(f"{path.name} is a symbolic link to {path.readlink()}")
            if path.suffix in (ARCHIVE, ".model") and path.name not in expected:
                raise ValueError(f"{path.name} is none of the models that were packed")
            if path.is_dir() and not path.name.startswith("."):  # hidden ones are passed over
                raise ValueError(f"{path.name} is a folder, and would be served as a model")
        packed = _read_sums(store / SUMS)
        for name, settings in sorted(models.items()):
            archive = store / f"{name}{ARCHIVE}"
            _check_archive(archive, packed.get(archive.name, ""))
            _check_settings(archive, settings)
    except (OSError, ValueError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        raise BadStore(
            f"the store {store} is not as `metavae-serve pack` wrote it: {reason}",
            hint="Move what is strange away, or pack the models again:"
            f" `metavae-serve pack NAME --store {store}`",
        ) from error


def _read_sums(path: Path) -> dict[str, str]:
    """The sha256 of each archive by name; raises OSError or ValueError."""
    _check_file(path, _MAX_SUMS)
    lines = path.read_text().splitlines()
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    if len(found) < len(lines):
        raise ValueError(f"{path.name} has lines that are no sha256 of an archive")
    return {match[2]: match[1] for match in found}


def _check_archive(path: Path, sha256: str) -> None:
    """Raise OSError or ValueError unless `path` is the archive of this sha256."""
    _check_file(path, _MAX_BYTES)
    if (found := sha256_of(path)) != sha256:
        said = f"{sha256[:12]}…" if sha256 else "nothing of it"
        raise ValueError(
            f"{path.name} has changed since it was packed: sha256 {found[:12]}…, {SUMS} says {said}"
        )


def _check_settings(archive: Path, settings: ModelSettings) -> None:
    """Raise OSError or ValueError unless the model was packed to be served like this."""
    packed = _archived_settings(archive)
    for one in fields(packed):
        there, here = getattr(packed, one.name), getattr(settings, one.name)
        if there != here:
            raise ValueError(f"{archive.name} was packed with {one.name} {there}, not {here}")


def _archived_settings(archive: Path) -> ModelSettings:
    """How the model of an archive is served; raises OSError or ValueError for one that is none.

    An archive of an earlier version has fewer settings.
    """
    import yaml

    try:
        with zipfile.ZipFile(archive) as files:
            found = yaml.safe_load(files.read(MODEL_CONFIGURATION))
        return ModelSettings(**found["metavae"])
    except (zipfile.BadZipFile, yaml.YAMLError, LookupError, TypeError) as error:
        raise ValueError(f"{archive.name} does not say how its model is served") from error


def _check_file(path: Path, most: int) -> None:
    size = path.stat().st_size
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path.name} is no file")
    if size > most:
        raise ValueError(f"{path.name} has {size} bytes, at most {most} are read")
