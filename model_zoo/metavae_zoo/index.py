"""Which models exist, and from a name to a verified bundle on this machine.

A bundle is looked for in the user's own folder (pulled, built or added), then among those that
ship with metavae. `index.json` lists every model that can be had, with the hash of its card; the
card holds the hashes of everything else, so one chain of hashes reaches every byte.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from metavae_zoo.bundle import CARD, Bundle, check_file, open_bundle, replacing_folder
from metavae_zoo.card import ModelCard
from metavae_zoo.errors import BadBundle, MetavaeError, UnknownName
from metavae_zoo.places import user_bundles

_TIMEOUT = httpx.Timeout(30.0)


class DownloadFailed(MetavaeError):
    """A bundle's address that does not answer, or not with what the index says."""

    code = "download_failed"


class IndexEntry(BaseModel):
    """A model that can be had: where from (None: it ships with metavae), and its card's hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    card_sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Listing:
    """A known model: `bundle` where it lies on this machine, else None."""

    name: str
    size: int
    bundle: Bundle | None


def shipped_bundles() -> Path:
    """The bundles that came with this installation: beside the package in a clone, else in it."""
    package = Path(__file__).parent
    in_clone = package.parent / "bundles"
    return in_clone if in_clone.is_dir() else package / "bundles"


@cache
def read_index() -> dict[str, IndexEntry]:
    """The index that ships with metavae, by name."""
    text = files("metavae_zoo").joinpath("index.json").read_text()
    entries = _IndexFile.model_validate_json(text).models
    return dict(sorted(entries.items()))


class _IndexFile(BaseModel):
    models: dict[str, IndexEntry]


def find_bundle(name: str) -> Bundle:
    """Return the verified bundle of a model on this machine.

    Raises UnknownName for a name that is neither here nor in the index, BadBundle for one that is
    damaged, or that must be pulled first.
    """
    for folder in (user_bundles(), shipped_bundles()):
        if (folder / name).is_dir():
            return open_bundle(folder / name)
    if name in read_index():
        raise BadBundle(
            f"model {name} is not on this machine", hint=f"Get it: `metavae-zoo pull {name}`"
        )
    raise UnknownName("model", name, known_names(), "`metavae-zoo list` shows all")


def known_names() -> list[str]:
    """Names of all models in the index or on this machine."""
    local = {
        path.parent.name
        for folder in (user_bundles(), shipped_bundles())
        for path in folder.glob(f"*/{CARD}")
        if not path.parent.name.startswith(".")
    }
    return sorted(local | set(read_index()))


def pull(name: str, *, progress: bool = False) -> Bundle:
    """Bring a model of the index onto this machine, verified; a bundle that is here is kept.

    Raises UnknownName, DownloadFailed, or BadBundle for content of another hash; nothing
    half-downloaded is left.
    """
    entry = read_index().get(name)
    if entry is None or entry.url is None:
        return find_bundle(name)
    target = user_bundles() / name
    if (target / CARD).is_file():
        return open_bundle(target)
    with replacing_folder(target) as scratch, httpx.Client(
        timeout=_TIMEOUT, follow_redirects=True
    ) as http, tqdm(
        total=entry.size, desc=name, unit="B", unit_scale=True, disable=None if progress else True
    ) as bar:
        base = entry.url.rstrip("/")
        _download(http, f"{base}/{CARD}", scratch / CARD, entry.card_sha256, entry.size, bar)
        card = ModelCard.from_json((scratch / CARD).read_bytes(), source=f"{base}/{CARD}")
        for file, sha256 in card.files.items():
            if Path(file).name != file:
                raise BadBundle(f"{base}/{CARD} names a file outside its folder: {file!r}")
            _download(http, f"{base}/{file}", scratch / file, sha256, entry.size, bar)
        open_bundle(scratch)
    return open_bundle(target)


def _download(
    http: httpx.Client, url: str, target: Path, sha256: str, limit: int, bar: tqdm
) -> None:
    try:
        with http.stream("GET", url) as response, target.open("wb") as file:
            response.raise_for_status()
            for chunk in response.iter_bytes(1 << 20):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > limit:
                    raise DownloadFailed(f"{url} is larger than the {limit} bytes of the index")
    except httpx.HTTPError as error:
        raise DownloadFailed(
            f"cannot download {url} ({type(error).__name__}: {error})",
            hint="Check the network, then try again",
        ) from error
    check_file(target, sha256)


def add(folder: Path) -> Bundle:
    """Take a bundle folder into the user's zoo under its card's name, verified.

    A bundle of that name that is there already is replaced.
    """
    source = open_bundle(folder)
    target = user_bundles() / source.card.name
    with replacing_folder(target) as scratch:
        for file in source.files:
            shutil.copyfile(file, scratch / file.name)
        open_bundle(scratch)
    return open_bundle(target)
