"""The file of accuracies: what each number is of, and which code made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from encoder.changes import Change
from encoder.inner import Inner
from encoder.trained import EPOCHS
from metavae_zoo.bundles.card import Accuracy
from metavae_zoo.commit import code_commit
from metavae_zoo.errors import MetavaeError
from metavae_zoo.files import write_whole

SCHEMA = 2


class _Measured(BaseModel):
    """The accuracies of one encoder at the judged values."""

    accuracies: Annotated[list[Accuracy], Field(min_length=1)]
    encoder: str
    commit: str


class _OfFamily(BaseModel):
    fitted_values: list[float]
    judged_values: list[float]
    changes: dict[str, _Measured]


_ACCURACIES = TypeAdapter(dict[str, _OfFamily])


class BadResults(MetavaeError):
    """A file that holds other results, or none."""

    code = "bad_results"


class Results:
    """Accuracies by family and change, in a file; raises BadResults for one of something else."""

    def __init__(self, path: Path, inners: Sequence[Inner]) -> None:
        self._path = path
        self._found: dict[str, Any] = {
            "schema": SCHEMA,
            "families": [inner.family.name for inner in inners],
            "sizes": asdict(inners[0].sizes),
            "epochs": EPOCHS,
            "accuracies": {
                inner.family.name: {
                    "fitted_values": list(inner.fitted_values),
                    "judged_values": list(inner.judged_values),
                    "changes": {},
                }
                for inner in inners
            },
        }
        if path.exists():
            self._found["accuracies"] = self._kept()
        self._write()  # now, not after the first measurement, it shows whether that can be done

    def has(self, change: Change, inner: Inner) -> bool:
        """Whether there are accuracies of this very encoder."""
        kept = self._changes(inner).get(change.name)
        return kept is not None and kept["encoder"] == repr(change.encoder)

    def add(self, change: Change, inner: Inner, accuracies: list[float]) -> None:
        """Write the accuracies at the judged values, with what they are of."""
        self._changes(inner)[change.name] = {
            "accuracies": accuracies,
            "encoder": repr(change.encoder),
            "commit": code_commit(),
        }
        self._write()

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return self._found

    def _changes(self, inner: Inner) -> dict[str, Any]:
        return self._found["accuracies"][inner.family.name]["changes"]

    def _kept(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text())
            wanted = {key: found[key] for key in self._found}
            _ACCURACIES.validate_python(wanted["accuracies"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadResults(
                f"{self._path} holds no encoder changes ({' '.join(str(error).split())[:200]})",
                hint="Move it away, or give another --out",
            ) from error
        for key in ("schema", "families", "sizes", "epochs"):
            if wanted[key] != self._found[key]:
                raise BadResults(
                    f"{self._path} has {key} {wanted[key]}, this run has {self._found[key]}",
                    hint="Move it away, or give another --out",
                )
        if missing := set(self._found["accuracies"]) - set(wanted["accuracies"]):
            raise BadResults(
                f"{self._path} has nothing of {min(missing)}",
                hint="Move it away, or give another --out",
            )
        return wanted["accuracies"]

    def _write(self) -> None:
        write_whole(self._path, (json.dumps(self._found, indent=1) + "\n").encode())
