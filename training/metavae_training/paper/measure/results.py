"""Results files: every number that was measured, with what it is of and what made it.

One file an experiment, JSON. What the items of one model share (recipe, data, code) is said once,
above them; then comes one item a line. Items are never edited: they are measured again when the
recipe or the data has changed. Several processes may add to one file, and what a process leaves
unfinished costs nothing that was finished.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from metavae_zoo.bundles.card import Accuracy
from metavae_zoo.errors import MetavaeError
from metavae_zoo.files import locked_folder, make_writable, write_whole
from metavae_zoo.parsing import parse_json

SCHEMA = 3

Kind = Literal["model", "floor", "ceiling", "distance"]
Key = tuple[str, str, str, str, int, str, str, int, str, str, int, float, int, int]

# What a file says once, of all items that have it in common: what was measured, and what made it.
_SHARED = {
    "kind",
    "model",
    "family",
    "split",
    "seed",
    "commit",
    "data_sha256",
    "recipe_sha256",
    "bundle_sha256",
}


_PLACE = ("model", "family")  # what items are looked up by
Stamps = dict[Path, tuple[int, ...]]  # of files, as they were read


class BadResults(MetavaeError):
    """A results file of another version or protocol, or none at all."""

    code = "bad_results"


class Item(BaseModel):
    """One number of one model (or floor, or ceiling), with everything that it depends on.

    `value` is the held-out value that was probed (accuracy), or the value of the family `varied`
    whose images' codes were compared with the base images' (distance and spread). `seed` is the
    training's, None for what is not drawn; `context` is where the context came from, `none` for a
    model that takes none, `test_context` where that of the tested images came from, None for the
    same; `draw` counts draws of them, or of labels. `probe` is the protocol of the accuracy, None
    for the paper's, and `shots` its labels per class, None for all. `labels` are labels in all, of
    the reference site alone; None for those of all training sites. `error` is the true error of
    the warp that a model inferred from the tested site's context, `error_50` to `error_95` are the
    quantiles of it that the model stated.

    `commit` is the code's, `-dirty` where that had been changed; the others are short sha256 sums,
    that of the bundle empty where none was measured. Whether an item is still good is a matter of
    data and recipe alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    model: str
    family: str
    split: str
    seed: int | None
    value: float
    varied: str | None = None
    probe: str | None = None
    shots: int | None = None
    context: str = "none"
    test_context: str | None = None
    context_size: int = 0
    draw: int = 0
    accuracy: Accuracy | None = None
    distance: float | None = None
    spread: float | None = None
    labels: int | None = None
    error: float | None = None
    error_50: float | None = None
    error_90: float | None = None
    error_95: float | None = None
    commit: str
    data_sha256: str
    recipe_sha256: str
    bundle_sha256: str

    @model_validator(mode="after")
    def _has_its_numbers(self) -> Item:
        numbers = ("distance", "spread") if self.kind == "distance" else ("accuracy",)
        if missing := [name for name in numbers if getattr(self, name) is None]:
            raise ValueError(f"an item of the kind {self.kind} without {' and '.join(missing)}")
        return self

    @property
    def key(self) -> Key:
        """What was measured; a file has one item of a key."""
        return (
            self.kind,
            self.family,
            self.split,
            self.model,
            self.seed if self.seed is not None else -1,
            self.varied or "",
            self.probe or "",
            self.shots or 0,
            self.context,
            self.test_context or "",
            self.context_size,
            self.value,
            self.draw,
            self.labels or 0,
        )

    @property
    def shared(self) -> dict[str, Any]:
        """What the item has in common with others of the same model, and of the same code."""
        return self.model_dump(include=_SHARED)

    @property
    def own(self) -> dict[str, Any]:
        """What it has for itself, without what is as it mostly is."""
        return self.model_dump(exclude=_SHARED, exclude_defaults=True)


class Results:
    """The items of one experiment, `FOLDER/NAME.json`, and what other files there have of them.

    `protocol` says how the numbers are measured; numbers of another protocol are never mixed in.
    `skipped` says why other files of the folder cannot be read, which may have had some of them.
    Raises BadResults for a file of another version or protocol.
    """

    def __init__(self, folder: Path, name: str, protocol: dict[str, Any]) -> None:
        self.path = folder / f"{name}.json"
        self.name = name
        self.protocol = protocol
        make_writable(folder)  # now, not after the first measurement
        self._own: dict[Key, Item] = {}
        self._others: list[Item] = []
        self._index: dict[tuple[str, str], list[Item]] | None = None
        self._read_at: Stamps = {}
        self.skipped: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Read what this and other processes have written since."""
        stamps = {path: _stamp(path) for path in self.path.parent.glob("*.json")}
        if stamps and stamps == self._read_at:
            return
        self._read_at, self._index = stamps, None
        self._own = self._read_own()
        self._others, self.skipped = [], []
        for path in sorted(self.path.parent.glob("*.json")):
            if path != self.path:
                try:
                    self._others += self._shared_by(path)
                except BadResults as error:
                    self.skipped.append(f"{error} (skipped)")

    @property
    def items(self) -> list[Item]:
        """The items of this experiment's own file."""
        return list(self._own.values())

    def select(self, **fields: object) -> list[Item]:
        """Items of this file, and of others in its folder, whose fields are these."""
        if self._index is None:
            self._index = defaultdict(list)
            for item in [*self._others, *self._own.values()]:
                self._index[item.model, item.family].append(item)
        places = [
            place
            for place in self._index
            if all(fields.get(name, at) == at for name, at in zip(_PLACE, place, strict=True))
        ]
        found: dict[Key, Item] = {}
        for item in (item for place in places for item in self._index[place]):
            if all(getattr(item, name) == wanted for name, wanted in fields.items()):
                found[item.key] = item
        return list(found.values())

    def add(self, items: Iterable[Item]) -> None:
        """Put items into the file, in place of those of the same key; all of them or none."""
        new = {item.key: item for item in items}
        if all(self._own.get(key) == item for key, item in new.items()):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(self.path.parent):  # or two processes would lose each other's items
            if _stamp(self.path) != self._read_at.get(self.path, ()):
                self._own = self._read_own()
            self._own = self._own | new
            self._index = None
            self._write()
            self._read_at[self.path] = _stamp(self.path)

    def _read_own(self) -> dict[Key, Item]:
        if not self.path.exists():
            return {}
        found = _decoded(self.path)
        _check_version(self.path, found)
        if found.get("protocol") != self.protocol:
            raise BadResults(
                f"{self.path} holds results of the protocol {found.get('protocol')}, this command"
                f" measures by {self.protocol}",
                hint="Move it away, or give another --out",
            )
        return {item.key: item for item in _items(self.path, found)}

    def _shared_by(self, path: Path) -> list[Item]:
        """Items of another file, if it is of the same protocol; none of another program's."""
        found = _decoded(path)
        if found.get("protocol") != self.protocol:
            return []
        _check_version(path, found)
        return _items(path, found)

    def _write(self) -> None:
        header = {"schema": SCHEMA, "name": self.name, "protocol": self.protocol}
        series: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._own):
            item = self._own[key]
            series[json.dumps(item.shared)].append(json.dumps(item.own))
        text = ",".join(
            f'\n  {shared[:-1]}, "items": [\n   ' + ",\n   ".join(lines) + "\n  ]}"
            for shared, lines in series.items()
        )
        written = json.dumps(header, indent=1)[:-2] + f',\n "series": [{text}\n ]\n}}\n'
        write_whole(self.path, written.encode())


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew; it may be gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_protocol(path: Path) -> dict[str, Any]:
    """How the numbers of a results file were measured; empty where there is no such file."""
    found = _decoded(path).get("protocol") if path.exists() else None
    return found if isinstance(found, dict) else {}


def read_train_size(path: Path, otherwise: int | None) -> int | None:
    """Training images per value of a results file, None for all; `otherwise` where there is none.

    Raises BadResults for a number that is none.
    """
    found = read_protocol(path).get("train_size", otherwise or "all")
    if found == "all":
        return None
    if type(found) is not int or found < 1:
        raise _no_results(path, f"its train_size is {found!r}, expected a whole number or 'all'")
    return found


def read_items(path: Path) -> list[Item]:
    """The items of a results file, whatever its protocol; raises BadResults."""
    return _items(path, _decoded(path))


def _check_version(path: Path, found: dict[str, Any]) -> None:
    """Raise BadResults for the content of another version."""
    version = found.get("schema")
    if version != SCHEMA:
        raise BadResults(
            f"{path} has schema version {version!r}, this metavae reads {SCHEMA}",
            hint="Move it away, give another --out, or use the metavae that wrote it",
        )


def _decoded(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise _no_results(path, error) from error
    if not isinstance(found, dict):
        raise _no_results(path, "it is no JSON object")
    return found


def _items(path: Path, found: dict[str, Any]) -> list[Item]:
    try:
        return [
            Item.model_validate({**shared, **own})
            for shared in found["series"]
            for own in shared.pop("items")
        ]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")  # pydantic's word for one of ours
        raise _no_results(path, f"{where}: {what}" if where else what) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise _no_results(path, error) from error


def _no_results(path: Path, reason: object) -> BadResults:
    said = " ".join(str(reason).split())[:200]
    return BadResults(
        f"{path} is not a results file ({said})",
        hint="Move it away, or give another --out",
    )
