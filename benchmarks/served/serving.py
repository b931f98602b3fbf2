"""Where a server is asked, and with which token."""

from __future__ import annotations

import json
from pathlib import Path

from metavae_serving.configuration import read_settings
from metavae_zoo.places import token_file


def authorization(store: Path, model: str) -> tuple[str, dict[str, str]]:
    """The URL of a model of a running server, and the header that lets one in."""
    key = json.loads(token_file(store).read_text())["inference"]["key"]
    url = f"{read_settings(store).url}/predictions/{model}"
    return url, {"Authorization": f"Bearer {key}"}
