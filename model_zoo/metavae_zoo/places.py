"""Where metavae keeps things on this machine, unless it is told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

AnyPath = str | os.PathLike[str]  # as callers name a file or folder


def cache_folder() -> Path:
    """What can be made or fetched again: METAVAE_CACHE, else the user's cache folder."""
    return Path(os.environ.get("METAVAE_CACHE") or platformdirs.user_cache_path("metavae"))


def user_bundles() -> Path:
    """Bundles that were pulled, built or added: METAVAE_ZOO, else the user's data folder."""
    return Path(os.environ.get("METAVAE_ZOO") or platformdirs.user_data_path("metavae") / "bundles")


def default_store() -> Path:
    """The model store if none is named: METAVAE_STORE, else the user's."""
    return Path(
        os.environ.get("METAVAE_STORE") or platformdirs.user_state_path("metavae") / "store"
    )


def run_folder(store: Path) -> Path:
    """State of the server over `store`: tokens, pid file, sockets, logs.

    Hidden, because TorchServe takes every visible folder of a store for a model.
    """
    return store / ".run"


def log_folder(store: Path) -> Path:
    """Logs of the servers that have run over `store`."""
    return run_folder(store) / "logs"


def token_file(store: Path) -> Path:
    """The tokens of the server over `store`, which TorchServe makes anew at each start."""
    return run_folder(store) / "key_file.json"
