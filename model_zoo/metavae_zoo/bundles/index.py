"""Which models exist, and from a name to a verified bundle on this machine.

A bundle is looked for in the user's own folder (pulled, built or added), then among those that
ship with metavae. `index.json` (or the file that METAVAE_INDEX names) lists every model that can
be had, with the hash of its card; the card holds the hashes of everything else, so one chain of
hashes reaches every byte of what ships and of what is pulled.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from metavae_zoo.bundles.bundle import (
    CARD,
    Bundle,
    check_file,
    check_replaceable,
    copy_bundle,
    open_bundle,
    read_card,
    sha256_of,
)
from metavae_zoo.bundles.card import ModelCard, ModelName
from metavae_zoo.errors import BadBundle, MetavaeError, UnknownName
from metavae_zoo.files import replacing_folder
from metavae_zoo.network import EnvironmentTransport, explain
from metavae_zoo.places import user_bundles

_PATIENCE = 30.0  # seconds for an answer, and of a download's time that may bring nothing
_SLOWEST = 10_000  # bytes a second, in the mean: a download that trickles must end


class BadIndex(MetavaeError):
    """A file that is no index of models, or a folder that none can be made of."""

    code = "bad_index"


class DownloadFailed(MetavaeError):
    """A bundle's address that does not answer, or not with what the index says."""

    code = "download_failed"


class IndexEntry(BaseModel):
    """A model that can be had: where from (None: it ships with metavae), and its card's hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0)
    card_sha256: str
    url: str | None = None


class Index(BaseModel):
    """What `index.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[ModelName, IndexEntry]


@dataclass(frozen=True)
class Listing:
    """A known model: its `card` where it lies on this machine, else None; `size` in bytes.

    `origin` is where it comes from: `yours` (pulled, built or added), `ships`, or `to pull`;
    `problem` says what is wrong with one that is here and damaged.
    """

    name: str
    size: int
    origin: Literal["yours", "ships", "to pull"]
    card: ModelCard | None = None
    problem: str = ""


def shipped_bundles() -> Path:
    """The bundles that came with this installation: beside the package in a clone, else in it."""
    package = Path(__file__).parents[1]
    in_clone = package.parent / "bundles"
    return in_clone if in_clone.is_dir() else package / "shipped"


def read_index() -> dict[str, IndexEntry]:
    """The index by name: the file that METAVAE_INDEX names, else the one that ships.

    Raises BadIndex for a file that is no index.
    """
    named = os.environ.get("METAVAE_INDEX")
    if named and "://" in named:
        raise BadIndex(
            f"METAVAE_INDEX is {named}, which is an address, expected a file",
            hint="Download the index, check where it comes from, and name the file",
        )
    return _entries(Path(named)) if named else _shipped_entries()


def _shipped_entries() -> dict[str, IndexEntry]:
    return _entries(files("metavae_zoo").joinpath("index.json"))


def _entries(source: Traversable) -> dict[str, IndexEntry]:
    try:
        return Index.model_validate_json(source.read_text()).models
    except (OSError, ValueError) as error:  # pydantic's errors are ValueErrors
        reason = " ".join(str(error).split())
        raise BadIndex(
            f"{source} is not an index of models ({reason})",
            hint="Write one with `metavae-zoo index FOLDER`, or unset METAVAE_INDEX",
        ) from error


def index_of(folder: Path, url: str | None) -> str:
    """The JSON index of the bundles in `folder`, verified; `url` is where `folder` is served."""
    bundles = [open_bundle(path.parent) for path in sorted(folder.glob(f"[!.]*/{CARD}"))]
    if not bundles:
        raise BadIndex(
            f"{folder} holds no bundle", hint="Give the folder whose subfolders are bundles"
        )
    entries = {
        bundle.card.name: IndexEntry(
            size=bundle.size,
            card_sha256=sha256_of(bundle.path / CARD),
            url=f"{url.rstrip('/')}/{bundle.path.name}" if url else None,
        )
        for bundle in bundles
    }
    return Index(models=entries).model_dump_json(indent=2) + "\n"


def find_bundle(name: str) -> Bundle:
    """Return the verified bundle of a model on this machine.

    Raises UnknownName for a name that is neither here nor in the index, BadBundle for one that is
    damaged, or that must be pulled first.
    """
    if name in local_names():
        home = _home(name)
        if home.parent == shipped_bundles():
            _check_shipped_card(name, home / CARD)
        bundle = open_bundle(home)
        if bundle.card.name != name:
            raise BadBundle(
                f"{bundle.path} holds model {bundle.card.name}",
                hint=f"Name the folder {bundle.card.name}, or take it in with `metavae-zoo add`",
            )
        return bundle
    if (entry := read_index().get(name)) is not None:
        how = (
            f"`metavae-zoo pull {name}`" if entry.url else "install metavae again, it comes with it"
        )
        raise BadBundle(f"model {name} is not on this machine", hint=f"Get it: {how}")
    raise UnknownName("model", name, known_names(), "`metavae-zoo list` shows all")


def _home(name: str) -> Path:
    """The folder of a model on this machine: the user's own comes before one that ships."""
    homes = [folder / name for folder in (user_bundles(), shipped_bundles())]
    return next(home for home in homes if (home / CARD).is_file())


def _check_shipped_card(name: str, card: Path) -> None:
    """Raise BadBundle unless a model that came with metavae has the card that the index says."""
    entry = _shipped_entries().get(name)
    if entry is None:
        raise BadBundle(
            f"{card.parent} is among the models that ship, and their index does not list it",
            hint="Move it away, or take it into your own zoo: `metavae-zoo add FOLDER`",
        )
    check_file(card, entry.card_sha256)


def local_names() -> list[str]:
    """Names of the models on this machine."""
    return sorted(
        {
            path.parent.name
            for folder in (user_bundles(), shipped_bundles())
            for path in folder.glob(f"[!.]*/{CARD}")
        }
    )


def known_names() -> list[str]:
    """Names of all models in the index or on this machine."""
    return sorted({*local_names(), *read_index()})


def listings() -> list[Listing]:
    """All models in the index or on this machine, by name."""
    here, index = set(local_names()), read_index()
    return [
        _local_listing(name) if name in here else Listing(name, index[name].size, "to pull")
        for name in known_names()
    ]


def _local_listing(name: str) -> Listing:
    origin = "ships" if _home(name).parent == shipped_bundles() else "yours"
    try:
        bundle = find_bundle(name)
    except BadBundle as error:
        return Listing(name, 0, origin, problem=str(error))
    return Listing(name, bundle.size, origin, bundle.card)


def pull(name: str, *, progress: bool = False) -> Bundle:
    """Bring a model of the index onto this machine, verified; a bundle that is here is kept.

    Raises UnknownName, DownloadFailed, or BadBundle for content of another hash; nothing
    half-downloaded is left.
    """
    entry = read_index().get(name)
    if entry is None or entry.url is None:
        return find_bundle(name)
    target = user_bundles() / name
    if target.exists():
        try:
            return open_bundle(target)
        except BadBundle:
            check_replaceable(target)  # damaged: what the index vouches for takes its place
    with (
        replacing_folder(target) as scratch,
        httpx.Client(
            transport=EnvironmentTransport(),
            timeout=_PATIENCE,
            follow_redirects=True,
            headers={"Accept-Encoding": "identity"},
        ) as http,
        tqdm(
            total=entry.size,
            desc=name,
            unit="B",
            unit_scale=True,
            disable=None if progress else True,
        ) as bar,
    ):
        base, left = entry.url.rstrip("/"), entry.size

        def fetch(file: str, sha256: str) -> None:
            nonlocal left
            left -= _download(http, f"{base}/{file}", scratch / file, left, bar)
            check_file(scratch / file, sha256)

        fetch(CARD, entry.card_sha256)
        card = read_card(scratch / CARD, source=f"{base}/{CARD}")
        if card.name != name:
            raise BadBundle(
                f"{base} holds model {card.name}, the index says {name}",
                hint="Ask whoever published the index; nothing was kept",
            )
        for file, sha256 in card.files.items():
            fetch(file, sha256)
        open_bundle(scratch)
    return open_bundle(target)


def _download(http: httpx.Client, url: str, target: Path, limit: int, bar: tqdm) -> int:
    """Write what is at `url`, at most `limit` bytes, to a file; how many they are."""
    size, began = 0, time.monotonic()
    try:
        with http.stream("GET", url) as response, target.open("wb") as file:
            response.raise_for_status()
            # As it was sent: what is unpacked on the way could be of any size.
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > limit:
                    raise DownloadFailed(
                        f"{url} is larger than the {limit} bytes that the index leaves for it",
                        hint="Ask whoever published the model; nothing was kept",
                    )
                seconds = time.monotonic() - began
                if seconds > _PATIENCE + size / _SLOWEST:
                    raise DownloadFailed(
                        f"{url} comes too slowly: {size} bytes in {seconds:.0f} seconds",
                        hint="Check the network, then try again; nothing was kept",
                    )
                file.write(chunk)
                bar.update(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        failed = isinstance(error, httpx.TransportError)
        cause, hint = explain(url, error) if failed else (error, "")
        raise DownloadFailed(
            f"cannot download {url} ({type(error).__name__}: {cause})",
            hint=hint or "Check the network, then try again",
        ) from error
    return size


def add(folder: Path, *, replace: bool = False) -> Bundle:
    """Take a bundle folder into the user's zoo under its card's name, verified.

    Raises BadBundle for what is served by no store as it is, and where a model of that name is on
    this machine already: `replace` lets the new one take its place, and hides one that ships.
    """
    source = open_bundle(folder)
    name = source.card.name
    if source.card.precision == "int8":
        raise BadBundle(
            f"{folder} is {name} in int8, which `metavae-serve pack --precision int8` makes itself",
            hint="Add the model that it was made of",
        )
    if name in local_names() and not replace:
        raise BadBundle(
            f"a model named {name} is on this machine already ({_home(name)})",
            hint="Export yours under a name of its own (`metavae-train export --name NAME`), or let"
            " it take that one's place: `metavae-zoo add --replace`",
        )
    return copy_bundle(source, user_bundles() / name)


def remove(name: str) -> Path:
    """Delete a model from the user's zoo; returns the folder it was in.

    One that ships under that name is found again then. Raises UnknownName, or BadBundle for a model
    that is not in the user's zoo.
    """
    folder = user_bundles() / name
    if name not in local_names():
        raise UnknownName("model", name, local_names(), "`metavae-zoo list` shows all")
    if not (folder / CARD).is_file():
        raise BadBundle(
            f"{name} came with metavae ({_home(name)}) and stays",
            hint="Only what was pulled, built or added can be removed",
        )
    check_replaceable(folder)
    shutil.rmtree(folder)
    return folder
