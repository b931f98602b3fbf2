"""Which code, recipe and data a number came from."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from metavae_zoo.families import family


class RecipeHash(TypedDict):
    """Recipe (or other settings) that a number depends on, as a short sha256 sum."""

    recipe_sha256: str


class MadeOf(RecipeHash):
    """The same, and the data."""

    data_sha256: str


class MadeBy(MadeOf):
    """The same, and the code."""

    commit: str


_DIGITS = 16  # of a sha256: enough to tell two apart


def hash_of(settings: dict[str, Any]) -> str:
    """A short sha256 of settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def bundle_hash(digest: str) -> str:
    """A short form of a card's digest, which tells a bundle's very weights and graphs."""
    return digest[:_DIGITS]


@cache
def data_hash(family_name: str, data_root: Path | None) -> str:
    """A short sha256 of a family's data set; raises DataUnavailable."""
    return family(family_name).data_sha256(data_root)[:_DIGITS]
