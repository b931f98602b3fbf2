"""Probes of bundles that are kept beside them, and not measured twice."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from metavae_zoo.bundles.bundle import Bundle
from metavae_zoo.bundles.card import Accuracy
from metavae_zoo.commit import code_commit
from metavae_zoo.embedding.embedder import OnnxEmbedder
from metavae_zoo.evaluation.probe import run_probe
from metavae_zoo.evaluation.settings import ProbeSettings
from metavae_zoo.files import write_whole
from metavae_zoo.parsing import parse_json


class _ProbedValue(BaseModel):
    """What a probe says of one held-out value; `draws` are accuracies, one per context."""

    value: float
    draws: Annotated[list[Accuracy], Field(min_length=1)]
    floors: dict[str, Accuracy]
    floor_draws: dict[str, list[Accuracy]]


class _Measurement(BaseModel):
    """What a probe says of all held-out values."""

    values: Annotated[list[_ProbedValue], Field(min_length=1)]


class _Kept(BaseModel):
    """What is read of a probe that was kept; there is more to one."""

    digest: str
    commit: str


class _KeptByShots(_Kept):
    """Of a protocol with a measurement for each number of labels."""

    by_shots: Annotated[list[_Measurement], Field(min_length=1)]


class _KeptOnce(_Kept, _Measurement):
    """Of a protocol with one measurement."""


_KEPT: TypeAdapter[Any] = TypeAdapter(_KeptByShots | _KeptOnce)


def kept_probe(bundle: Bundle, settings: ProbeSettings, *, data_root: Path | None = None) -> Any:
    """Probe a bundle in process, or read the same probe of it that was kept.

    Returns `ProbeResult.to_dict()` and the `commit` of the code that measured it. A damaged file is
    measured again. Raises what `run_probe` raises.
    """
    asked = [bundle.card.digest, settings.protocol.name, asdict(settings)]
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    path = bundle.path.parent / "probes" / f"{name}.json"
    with suppress(OSError, ValueError):
        found = parse_json(path.read_text())
        _KEPT.validate_python(found)
        return found
    result = run_probe(OnnxEmbedder(bundle), settings, data_root=data_root, progress=True)
    found = {**result.to_dict(), "commit": code_commit()}
    write_whole(path, json.dumps(found).encode())
    return found
