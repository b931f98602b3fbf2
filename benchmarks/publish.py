"""How a benchmark leaves what it found: every number in a JSON file, and the page beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metavae_zoo.files import write_whole


def publish(out: Path, result: dict[str, Any], page: str) -> None:
    """Write `result` to `out` and its page beside it, each whole or not at all."""
    write_whole(out, (json.dumps(result, indent=1) + "\n").encode())
    write_whole(out.with_suffix(".md"), page.encode())
