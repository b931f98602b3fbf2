"""Which code, recipe and data a number came from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

from metavae_zoo import __version__
from metavae_zoo.families import family


class MadeOf(TypedDict):
    """Recipe (or other settings) and data that a number depends on, as short sha256 sums."""

    recipe_sha256: str
    data_sha256: str


class MadeBy(MadeOf):
    """The same, and the code."""

    commit: str


# Whatever an accuracy may depend on.
_CODE = [f":(glob){folder}/**/*.py" for folder in ("training", "model_zoo", "client")]
_DIGITS = 16  # of a sha256: enough to tell two apart


@cache
def code_commit() -> str:
    """The commit of this code, with `-dirty` if any of it was changed; else metavae's version.

    Looked up once: a process goes on with the code that it has loaded.
    """
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", here.parent, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not some repository around an installation
        top = git("rev-parse", "--show-toplevel")
        changed = git("-C", top, "status", "--porcelain", "--", *_CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"metavae {__version__}"


def hash_of(settings: dict[str, Any]) -> str:
    """A short sha256 of settings."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@cache
def data_hash(family_name: str, data_root: Path | None) -> str:
    """A short sha256 of a family's data set; raises DataUnavailable."""
    return family(family_name).data_sha256(data_root)[:_DIGITS]
